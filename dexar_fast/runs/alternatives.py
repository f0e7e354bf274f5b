"""The most probable tokens at one place of the answer, each explained: several seeds at one answer row."""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral
from typing import Any

from torch import Tensor

from ..engine.answer_pass import row_states
from ..engine.encoded import Encoded
from ..engine.engine import Engine
from ..engine.logit_lens import token_seeds
from ..engine.mistakes import check_answer
from ..engine.prefill import Prefill, prefill
from ..engine.target_rows import TargetRows
from ..engine.teacher_forcing import own_logits
from ..errors import InputError
from ..inputs.methods import METHODS
from ..inputs.options import Options
from ..inputs.targets import Target
from ..inputs.tokens import piece_behind
from ..models.decoder import Decoder
from ..progress import ProgressCallback
from ..result.explanation import Explanation


def explain_alternatives(
    engine: Engine, encoded: Encoded, options: Options, token: int, k: int, report: ProgressCallback
) -> Explanation:
    """See `Explainer.alternatives`; `check_alternatives` has let the options pass.

    The answer up to the token runs twice at most: for the probabilities, and that row alone (or, without a cache, all
    up to it) for the gradients, one backward of each layer's tail for each alternative.
    """
    decoder, answer_ids = engine.decoder, encoded.answer_ids
    check_answer(decoder, answer_ids)
    _check_whole("token", token, -len(answer_ids), len(answer_ids) - 1)
    token %= len(answer_ids)
    row = slice(token, token + 1)
    prompt = encoded.ran or prefill(decoder, encoded.inputs)
    ids, probabilities = _most_probable(decoder, prompt, answer_ids[: row.stop], k)
    seeds = token_seeds(decoder, ids).expand(len(answer_ids), -1, -1)  # rows other than this one are not looked at
    settings = {**encoded.settings, "alternatives": {"token": token, "k": k}}
    encoded = replace(encoded, ran=prompt, settings=settings)
    request, sums = engine.run(
        encoded,
        options,
        report=report,
        adapt=lambda request, lens: (request, replace(lens, seeds=seeds)),
        rows=row,
        targets=TargetRows(((row.start, row.stop),) * k, tuple(range(k))),
    )
    before = answer_ids[:token].tolist()
    targets = []
    for token_id, probability in zip(ids.tolist(), probabilities.tolist()):
        piece = piece_behind(engine.tokenizer, before, token_id)
        targets.append(Target(piece.strip() or piece, row.start, row.stop, token_id, probability))
    return engine.result(request, sums, options, encoded, tuple(targets))


def check_alternatives(decoder: Decoder, options: Options, token: int, k: int) -> None:
    """Refuse what is wrong whatever the answer is.

    Raises:
        InputError: says so.
    """
    usable = [name for name, method in METHODS.items() if method.filters_heads]
    if not set(options.methods) <= set(usable):
        raise InputError(
            f"method: expected one of {', '.join(usable)} for alternatives, which differ in the score at one place "
            f"alone; got {', '.join(options.methods)}"
        )
    _check_whole("token", token)
    _check_whole("k", k, 1, decoder.vocabulary_size)


def _check_whole(name: str, value: Any, low: int | None = None, high: int | None = None) -> None:
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_whole or (low is not None and high is not None and not low <= value <= high):
        limits = "" if low is None else f" from {low} to {high}"
        raise InputError(f"{name}: expected a whole number{limits}; got {value!r}")


def _most_probable(decoder: Decoder, prompt: Prefill, so_far: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Ids and probabilities ``(k,)`` at the last token of the answer so far, which is one of them; falling."""
    states = row_states(decoder, prompt, so_far)[:, -1:]
    probabilities = own_logits(decoder, states)[0, 0].double().softmax(dim=-1)
    ids = probabilities.topk(k).indices
    if not bool((ids == so_far[-1]).any()):
        ids[-1] = so_far[-1]
    return ids, probabilities[ids]
