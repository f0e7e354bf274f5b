"""One encoded prompt and answer, explained by any method."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..engine.aggregate import aggregate_plain
from ..engine.answer_pass import row_states
from ..engine.assemble import to_numpy
from ..engine.encoded import Encoded
from ..engine.engine import Engine
from ..engine.grounding import log_probabilities
from ..engine.logit_lens import contrasted
from ..engine.mistakes import check_answer
from ..engine.prefill import prefill
from ..engine.row_chunk import row_chunks, rows_at_once
from ..engine.target_rows import TargetRows
from ..engine.written_cache import is_written
from ..inputs.contrast import find_foils
from ..inputs.methods import METHODS
from ..inputs.only import find_part
from ..inputs.options import Options
from ..inputs.targets import find_targets
from ..inputs.tokens import token_pieces
from ..methods.comparisons import relevance
from ..methods.subject import Subject
from ..models.state import evaluating
from ..progress import ProgressCallback, silent
from ..result.explanation import Explanation


def explain_encoded(
    engine: Engine, encoded: Encoded, options: Options, report: ProgressCallback = silent
) -> Explanation:
    """The explanation of one prompt and answer, with everything that the options ask for.

    Raises:
        InputError, UnsupportedModelError, SelfCheckError, NotFiniteError: as for `Explainer.explain`.
    """
    check_answer(engine.decoder, encoded.answer_ids)
    pieces = token_pieces(engine.tokenizer, encoded.answer_ids.tolist())
    part = find_part(options.only, pieces)
    rows = slice(0, len(pieces)) if part is None else slice(*part)
    if part is not None:
        encoded = replace(encoded, settings={**encoded.settings, "part": list(part), "whole_answer": "".join(pieces)})
    own = [method for method in options.methods if method in METHODS]
    found, states = {}, None
    if own:
        ours = replace(options, method=own[0], beside=tuple(own[1:]))
        together, states = _by_our_own(engine, encoded, ours, report, rows)
        found = {method: together.of_method(method) for method in own}
    for method in options.methods:
        if method not in METHODS:
            found[method] = _by_comparison(engine, encoded, replace(options, method=method, beside=()), rows)
    first = found[options.method]
    settings = {**first.settings, "method": options.method, "beside": list(options.beside)}
    explanation = replace(first, beside={}, settings=settings)
    for method in options.beside:
        explanation = explanation.with_beside(method, found[method])
    if options.grounding:
        log_p = log_probabilities(engine.decoder, encoded.inputs, encoded.answer_ids[: rows.stop], states)[rows]
        explanation = replace(explanation, log_probabilities=to_numpy(log_p))
    return explanation


def _by_our_own(
    engine: Engine, encoded: Encoded, options: Options, report: ProgressCallback, rows: slice
) -> tuple[Explanation, Tensor | None]:
    """The explanation, and the normed states ``(1, T, d)`` of all rows up to the last if they ran and are wanted."""
    ids = encoded.answer_ids.tolist()
    targets = find_targets(options.targets, token_pieces(engine.tokenizer, ids)[rows])
    foils = find_foils(options.contrast, engine.decoder, engine.tokenizer, ids, rows)
    spans = None if targets is None else tuple((rows.start + t.start, rows.start + t.stop) for t in targets)
    cache = "none" if engine.family.rows != "cached" else "new" if encoded.ran is None else "reused"
    request, sums = engine.run(
        _with_rows_before(engine, encoded, rows),
        options,
        report=report,
        adapt=None if foils is None else lambda request, lens: (request, contrasted(lens, foils)),
        rows=rows if rows.stop - rows.start < len(ids) else None,
        targets=None if spans is None else TargetRows(spans),
    )
    recorded = replace(encoded, settings={**encoded.settings, "cache": cache})
    states = torch.cat(sums.states, dim=1) if sums.states else None
    complete = states is not None and states.shape[1] == rows.stop  # targets may end before the answer
    result = engine.result(request, sums, options, recorded, targets, None if foils is None else foils[rows])
    return result, states if complete else None


def _with_rows_before(engine: Engine, encoded: Encoded, rows: slice) -> Encoded:
    """The same with a cache that holds the rows before those that are explained: they only run."""
    if rows.start == 0 or engine.family.rows != "cached" or (encoded.ran and is_written(encoded.ran.cache)):
        return encoded
    with evaluating(engine.model):
        prompt = encoded.ran or prefill(engine.decoder, encoded.inputs)
        before = slice(0, rows.start)
        for chunk in row_chunks(before, rows_at_once(engine.decoder, "auto")):
            row_states(engine.decoder, prompt, encoded.answer_ids, chunk)
    return replace(encoded, ran=prompt)


def _by_comparison(engine: Engine, encoded: Encoded, options: Options, rows: slice) -> Explanation:
    request = engine.request(encoded, options)
    subject = Subject(engine, request, options.layers, encoded.images, encoded.prompt, options.image_kwargs)
    found = relevance(options.method, subject)[rows]
    none = found.new_zeros(len(found), len(options.layers), 1)  # no heads are scored
    maps = aggregate_plain(found, options.normalization)
    return engine.explanation(request, maps, (none, none), rows, options, encoded)
