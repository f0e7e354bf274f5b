"""The most probable tokens at one place of the answer, each explained: several seeds at one answer row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from ..engine.answer_pass import Prefill, prefill, row_states
from ..engine.logit_lens import token_seeds
from ..engine.request import check_answer
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

if TYPE_CHECKING:
    from ..engine.engine import Engine


def explain_alternatives(
    explainer: Engine,
    inputs: Mapping[str, Tensor],
    answer_ids: Tensor,
    options: Options,
    token: int,
    k: int,
    *,
    template: Tensor | None,
    images: Sequence[Image.Image],
    settings: Mapping[str, Any],
    report: ProgressCallback,
    ran: Prefill | None,
) -> Explanation:
    """See `Explainer.alternatives`; `check_alternatives` has let the options pass.

    The answer up to the token runs twice at most: for the probabilities, and that row alone (or, without a cache, all
    up to it) for the gradients, one backward of each layer's tail for each alternative.
    """
    decoder, n_answer = explainer.decoder, len(answer_ids)
    check_answer(decoder, answer_ids)
    _check_whole("token", token, -n_answer, n_answer - 1)
    token %= n_answer
    row = slice(token, token + 1)
    prompt = ran or prefill(decoder, inputs)
    ids, probabilities = _most_probable(decoder, prompt, answer_ids[: row.stop], k)
    seeds = token_seeds(decoder, ids).expand(n_answer, -1, -1)  # rows other than this one are not looked at
    request, sums = explainer.run(
        inputs,
        answer_ids,
        options,
        template=template,
        image_sizes=[image.size for image in images],
        report=report,
        adapt=lambda request, lens: (request, replace(lens, seeds=seeds)),
        ran=prompt,
        rows=row,
        targets=TargetRows(((row.start, row.stop),) * k, tuple(range(k))),
    )
    before = answer_ids[:token].tolist()
    targets = []
    for token_id, probability in zip(ids.tolist(), probabilities.tolist()):
        piece = piece_behind(explainer.tokenizer, before, token_id)
        targets.append(Target(piece.strip() or piece, row.start, row.stop, token_id, probability))
    settings = {**settings, "alternatives": {"token": token, "k": k}}
    return explainer.result(request, sums, options, images, settings, tuple(targets))


def check_alternatives(decoder: Decoder, options: Options, token: int, k: int) -> None:
    """Refuse what is wrong whatever the answer is.

    Raises:
        InputError: says so.
    """
    if options.method not in METHODS:
        raise InputError(
            f"method: expected one of {', '.join(METHODS)} for alternatives, which differ in the score that is "
            f"explained; got {options.method!r}"
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
