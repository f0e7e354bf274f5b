"""One row of figures: seconds, ratios and peak memory of one case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dexar_fast import Explanation
from dexar_fast.engine.prefill import Prefill

from .. import naive
from ..ops.limits import Limits
from ..timing import Quantiles, on_gpu, side_by_side, timed
from .calls import Calls
from .cases import Case
from .floor import operations
from .memory import PEAKS, in_fresh_process, peak

# Largest difference of maps and scores to the naive method's; a row that differs by more shows no speed.
GATES = {torch.float32: 1e-3, torch.bfloat16: 1e-1}
# Steps that stand for the others where generation is "sampled".
SAMPLED_STEPS = 16


def measure(row: dict[str, Any], case: Case, calls: Calls, limits: Limits, *, repetitions: int, budget: float) -> None:
    """Fill a row, figure by figure, so that it keeps what was measured before one failed.

    Args:
        row: is written.
        case, calls: what is measured, on the device of ``calls``.
        limits: of the device, in the model's dtype.
        repetitions: of each way, in turns; fewer where one takes more than ``budget`` seconds in all.
        budget: in seconds.

    Where the results are not those of the naive method, ``wrong`` says by how much, and no table shows a speed.
    """
    T, device = case.answer_tokens, calls.device
    turns = partial(side_by_side, repetitions=repetitions, device=device, budget=budget)
    n_prompt = calls.inputs["input_ids"].shape[1]
    row["prompt_tokens"] = n_prompt

    def floor(cached: bool) -> float:
        return operations(calls.explainer.decoder, n_prompt, T, cached=cached) / limits.operations_per_s

    if case.naive == "whole":
        _measure_naive(row, calls, T)
    plain, explain = turns([lambda: calls.plain(T), lambda: calls.explain(T)])
    row |= {"plain_s": asdict(plain), "explain_s": asdict(explain), "explain_over_plain": explain.median / plain.median}
    if "naive_s" in row:
        row["naive_over_explain"] = row["naive_s"] / explain.median
    row["share_of_floor"] = floor(cached=False) / explain.median
    _measure_generation(row, case, calls, turns)
    row["share_of_floor_after"] = floor(cached=True) / row["after_s"]["median"]
    row["peak_mib"] = {}
    for what in PEAKS:
        if what != "naive_last_token" or case.naive:
            row["peak_mib"][what] = peak(calls, what, T) if on_gpu(device) else in_fresh_process(case, what)


def _measure_generation(row: dict[str, Any], case: Case, calls: Calls, turns: Callable[..., list[Quantiles]]) -> None:
    """Generation, the explanation over the cache that it leaves, and streams."""
    T = case.answer_tokens
    if case.generation == "whole":
        last: dict[str, tuple[Tensor, Prefill]] = {}
        streams = [partial(calls.stream, T, block) for block in case.blocks]
        # The model is warm, and a long answer is not written once more for nothing.
        generate, *of_streams = turns([lambda: last.update(answer=calls.generate(T)), *streams], warm_up=False)
        row["generate_s"] = asdict(generate)
        row["stream_over_generation"] = {
            str(block): seconds.median / generate.median for block, seconds in zip(case.blocks, of_streams, strict=True)
        }
        seconds, (ids, ran) = generate.median, last["answer"]
    else:
        seconds, (ids, ran) = _estimated_generation(calls, T, turns), calls.prefilled(T)
        row["generate_estimated_s"] = seconds
    (after,) = turns([lambda: calls.after(ids, ran)])
    row |= {"after_s": asdict(after), "after_over_generation": after.median / seconds}
    row["explain_over_generation"] = row["explain_s"]["median"] / seconds


def _estimated_generation(calls: Calls, length: int, turns: Callable[..., list[Quantiles]]) -> float:
    """The first token, and for each of the others the mean of a step at the beginning and one at the end."""
    steps = min(SAMPLED_STEPS, length)
    behind = length - steps
    at_beginning = [partial(calls.generate, 1), partial(calls.generate, 1 + steps)]
    at_end = [partial(calls.generate_behind, behind, 1), partial(calls.generate_behind, behind, 1 + steps)]
    first, begun, late, ended = (each.median for each in turns([*at_beginning, *at_end]))
    return first + (length - 1) * ((begun - first) + (ended - late)) / (2 * steps)


def _measure_naive(row: dict[str, Any], calls: Calls, length: int) -> None:
    unfiltered = calls.explain(length, unfiltered=True)
    seconds, expected = timed(lambda: calls.naive(length), calls.device)
    difference = row["largest_difference_to_naive"] = largest_difference(unfiltered, expected)
    if not difference <= GATES[calls.model.dtype]:  # NaN is no agreement
        row["wrong"] = f"results differ from the naive method's by {difference:.1e}; no speed is shown"
    row["naive_s"] = seconds


def largest_difference(ours: Explanation, reference: naive.NaiveResult) -> float:
    """Over maps, weights and scores, each relative to the largest value there is; NaN if there is one."""
    differences = []
    for name in naive.NaiveResult.__dataclass_fields__:
        wanted = getattr(reference, name).cpu()
        actual = torch.from_numpy(getattr(ours, name)).reshape(wanted.shape)
        differences.append((actual - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))
    return float(torch.stack(differences).max())
