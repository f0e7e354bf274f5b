"""One encoded prompt and answer, explained by any method."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..engine.aggregate import aggregate_plain
from ..engine.assemble import to_numpy
from ..engine.encoded import Encoded
from ..engine.engine import Engine
from ..engine.grounding import log_probabilities
from ..engine.logit_lens import contrasted
from ..engine.request import check_answer
from ..engine.target_rows import TargetRows
from ..inputs.contrast import find_foils
from ..inputs.methods import METHODS
from ..inputs.options import Options
from ..inputs.targets import find_targets
from ..inputs.tokens import token_pieces
from ..methods.comparisons import relevance
from ..methods.subject import Subject
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
    own = [method for method in options.methods if method in METHODS]
    found, states = {}, None
    if own:
        together, states = _by_our_own(engine, encoded, replace(options, method=own[0], beside=tuple(own[1:])), report)
        found = {method: together.of_method(method) for method in own}
    for method in options.methods:
        if method not in METHODS:
            found[method] = _by_comparison(engine, encoded, replace(options, method=method, beside=()))
    first = found[options.method]
    settings = {**first.settings, "method": options.method, "beside": list(options.beside)}
    explanation = replace(first, beside={}, settings=settings)
    for method in options.beside:
        explanation = explanation.with_beside(method, found[method])
    if options.grounding:
        log_p = log_probabilities(engine.decoder, encoded.inputs, encoded.answer_ids, states)
        explanation = replace(explanation, log_probabilities=to_numpy(log_p))
    return explanation


def _by_our_own(
    engine: Engine, encoded: Encoded, options: Options, report: ProgressCallback
) -> tuple[Explanation, Tensor | None]:
    """The explanation, and the normed states ``(1, T, d)`` of all rows if they ran and are wanted."""
    ids = encoded.answer_ids.tolist()
    targets = find_targets(options.targets, token_pieces(engine.tokenizer, ids))
    foils = find_foils(options.contrast, engine.decoder, engine.tokenizer, ids)
    request, sums = engine.run(
        encoded,
        options,
        report=report,
        adapt=None if foils is None else lambda request, lens: (request, contrasted(lens, foils)),
        targets=None if targets is None else TargetRows(tuple((t.start, t.stop) for t in targets)),
    )
    cache = "none" if engine.family.rows != "cached" else "new" if encoded.ran is None else "reused"
    recorded = replace(encoded, settings={**encoded.settings, "cache": cache})
    states = torch.cat(sums.states, dim=1) if sums.states else None
    complete = states is not None and states.shape[1] == len(encoded.answer_ids)  # targets may end before the answer
    return engine.result(request, sums, options, recorded, targets, foils), states if complete else None


def _by_comparison(engine: Engine, encoded: Encoded, options: Options) -> Explanation:
    request = engine.request(encoded, options)
    prompt = encoded.settings.get("prompt")
    found = relevance(options.method, Subject(engine, request, options.layers, encoded.images, prompt))
    none = found.new_zeros(len(found), len(options.layers), 1)  # no heads are scored
    maps = aggregate_plain(found, options.normalization)
    return engine.explanation(request, maps, (none, none), slice(None), options, encoded)
