"""Head scores of all keys from those of their ranges, in a fixed order."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from .extremes import final_scores, no_extremes, rescale, rescale_minimum, rescaling, store_scores
from .launch import Launch
from .tiles import to_bits, to_number

ROWS, SPLITS = 32, 16


@triton.jit
def combined(
    partial_ptr, offset, is_row, size, KEY_SPLITS,
    SIGNALS: tl.constexpr, WITH_LSE: tl.constexpr, ROWS: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """Extremes over all keys from those of their ranges ``(3 signals + 3, KEY_SPLITS, T, H)``, in a fixed order."""
    extremes = no_extremes(ROWS, SIGNALS)
    text_seen = tl.zeros([ROWS], tl.int32)
    highest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    part = KEY_SPLITS * size
    of_softmax: tl.constexpr = 3 * len(SIGNALS)
    for first_split in tl.range(0, KEY_SPLITS, SPLITS):
        split = first_split + tl.arange(0, SPLITS)  # [SPLITS]
        mask = (split < KEY_SPLITS)[:, None] & is_row[None, :]
        of_splits = partial_ptr + split.to(tl.int64)[:, None] * size + offset[None, :]  # [SPLITS, ROWS]
        factor_of_splits = None
        if WITH_LSE:
            highest_of_splits = to_number(tl.load(of_splits + of_softmax * part, mask=mask, other=-8388608))  # -inf
            total_of_splits = to_number(tl.load(of_splits + (of_softmax + 1) * part, mask=mask, other=0))
            text_seen |= tl.min(tl.load(of_splits + (of_softmax + 2) * part, mask=mask, other=0), 0)
            higher = tl.maximum(highest, tl.max(highest_of_splits, 0))
            factor = rescaling(highest, higher)
            factor_of_splits = rescaling(highest_of_splits, higher[None, :])
            total = total * factor + tl.sum(total_of_splits * factor_of_splits, 0)
            highest = higher
            extremes = rescale(extremes, factor, SIGNALS)
        both = ()
        for i in tl.static_range(len(SIGNALS)):
            image, text, low = extremes[i]
            image_of_splits = tl.load(of_splits + 3 * i * part, mask=mask, other=0)
            text_of_splits = tl.load(of_splits + (3 * i + 1) * part, mask=mask, other=0)
            low_of_splits = to_number(tl.load(of_splits + (3 * i + 2) * part, mask=mask, other=0x7F800000))  # UNSEEN
            if SIGNALS[i] != "gradient":
                image_of_splits = to_bits(to_number(image_of_splits) * factor_of_splits)
                text_of_splits = to_bits(to_number(text_of_splits) * factor_of_splits)
                low_of_splits = rescale_minimum(low_of_splits, factor_of_splits)
            image = tl.maximum(image, tl.max(image_of_splits, 0))
            text = tl.maximum(text, tl.max(text_of_splits, 0))
            low = tl.minimum(low, tl.min(low_of_splits, 0))
            both = both + ((image, text, low),)
        extremes = both
    return extremes, text_seen, highest, total


@triton.jit(do_not_specialize=["size", "KEY_SPLITS"])
def combine_scores_kernel(
    partial_ptr,
    scores_ptr,
    weights_ptr,
    lse_ptr,
    size,
    KEY_SPLITS,
    SIGNALS: tl.constexpr,
    WITH_LSE: tl.constexpr,
    ROWS: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """Scores from the extremes of KEY_SPLITS ranges of keys, of ROWS pairs of row and head."""
    offset = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # [ROWS]
    is_row = offset < size
    size = size.to(tl.int64)
    extremes, text_seen, highest, total = combined(
        partial_ptr, offset, is_row, size, KEY_SPLITS, SIGNALS, WITH_LSE, ROWS, SPLITS
    )
    scores = final_scores(extremes, text_seen, total, SIGNALS)
    store_scores(scores, highest, total, scores_ptr, weights_ptr, lse_ptr, offset, is_row, size, SIGNALS, WITH_LSE)


def combine_scores(common: dict[str, Any], size: int, signals: tuple[str, ...], with_lse: bool) -> Launch:
    """The launch behind `head_scores_kernel`, for ``size`` pairs of row and head.

    Args:
        common: the pointers and KEY_SPLITS of that kernel.
        size: T H.
        signals: whose scores are taken.
        with_lse: whether the log-sum-exp is too.
    """
    arguments = {
        **common,
        "size": size,
        "SIGNALS": signals,
        "WITH_LSE": with_lse,
        "ROWS": ROWS,
        "SPLITS": SPLITS,
    }
    return Launch(combine_scores_kernel, (triton.cdiv(size, ROWS),), arguments, warps=4, stages=1)
