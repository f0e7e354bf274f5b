"""Running extremes of the signals and the softmax beside them: what a row and head keeps while its keys pass."""

from __future__ import annotations

import triton
import triton.language as tl

from .tiles import LN2, UNSEEN, read_signal, relu, to_bits, to_number

MIXED = tl.constexpr(0)
IMAGE = tl.constexpr(1)
TEXT = tl.constexpr(2)
LARGEST = tl.constexpr(3.4028234663852886e38)


@triton.jit
def finite_base(highest):
    """What is subtracted from logits before exp2: their maximum, made finite."""
    return tl.minimum(tl.maximum(highest, -LARGEST), LARGEST)


@triton.jit
def rescaling(before, after):
    """What exp2 of logits relative to the maximum before is multiplied with to be relative to the one after."""
    return tl.where(before == after, 1.0, tl.exp2(before - finite_base(after)))


@triton.jit
def rescale_minimum(low, factor):
    """A minimum, made relative to another maximum of the logits; UNSEEN where there is none, also of factor 0."""
    return tl.where(low == UNSEEN, UNSEEN, low * factor)


@triton.jit
def rescale(extremes, factor, SIGNALS: tl.constexpr):
    """Running extremes, made relative to another maximum of the logits. The gradient alone is relative to none."""
    scaled = ()
    for i in tl.static_range(len(SIGNALS)):
        image, text, low = extremes[i]
        if SIGNALS[i] != "gradient":
            image = to_bits(to_number(image) * factor)
            text = to_bits(to_number(text) * factor)
            low = rescale_minimum(low, factor)
        scaled = scaled + ((image, text, low),)
    return scaled


@triton.jit
def no_extremes(ROWS: tl.constexpr, SIGNALS: tl.constexpr):
    """Of each signal the bits of S_img and S_text, and the smallest image value, over no key."""
    extremes = ()
    for _ in tl.static_range(len(SIGNALS)):
        zero = tl.zeros([ROWS], tl.int32)
        extremes = extremes + ((zero, zero, tl.full([ROWS], UNSEEN, tl.float32)),)
    return extremes


@triton.jit
def add_tile(
    extremes,
    text_seen,
    highest,
    total,
    g_bits,
    logits,
    row_dot,
    seen,
    kind,
    SIGNALS: tl.constexpr,
    WITH_G: tl.constexpr,
    WITH_LSE: tl.constexpr,
    ALL: tl.constexpr,
):
    """Running maxima, minimum and softmax sums ``[BLOCK_M]`` after one more tile of keys ``[BLOCK_M, BLOCK_N]``.

    ALL is IMAGE or TEXT for a tile of such keys alone that all rows see, which needs no masks, or MIXED. `text_seen` is
    -1 for rows that have seen a text key: without one the score is 0, whatever the softmax is.
    """
    p = logits
    if WITH_LSE:
        if ALL == MIXED:
            logits = tl.where(seen, logits, float("-inf"))
        higher = tl.maximum(highest, tl.max(logits, 1))
        factor = rescaling(highest, higher)
        p = tl.exp2(logits - finite_base(higher)[:, None])  # [BLOCK_M, BLOCK_N], P times the final sum
        total = total * factor + tl.sum(p, 1)
        highest = higher
        extremes = rescale(extremes, factor, SIGNALS)
    g = None
    if WITH_G:
        g = to_number(g_bits)
    seen_image = None
    seen_text = None
    if ALL == MIXED:  # masks as bits: one instruction applies two of them
        seen_image = tl.where(seen, -1, 0) & tl.where(kind == IMAGE, -1, 0)[None, :]
        seen_text = tl.where(seen, -1, 0) & tl.where(kind == TEXT, -1, 0)[None, :]
    if WITH_LSE and len(SIGNALS) > 0:
        if ALL == TEXT:
            text_seen = tl.full(text_seen.shape, -1, tl.int32)
        if ALL == MIXED:
            text_seen = text_seen | tl.min(seen_text, 1)
    added = ()
    for i in tl.static_range(len(SIGNALS)):
        image, text, low = extremes[i]
        x = read_signal(g, p, row_dot, SIGNALS, i)  # [BLOCK_M, BLOCK_N]
        bits = to_bits(x)
        if ALL == IMAGE:
            image = tl.maximum(image, tl.max(bits, 1))
            low = tl.minimum(low, tl.min(x, 1))
        elif ALL == TEXT:
            text = tl.maximum(text, tl.max(bits, 1))
        else:
            image = tl.maximum(image, tl.max(bits & seen_image, 1))
            low = tl.minimum(low, tl.min(tl.where(seen_image != 0, x, UNSEEN), 1))
            text = tl.maximum(text, tl.max(bits & seen_text, 1))
        added = added + ((image, text, low),)
    return added, text_seen, highest, total


@triton.jit
def final_scores(extremes, text_seen, total, SIGNALS: tl.constexpr):
    """Of each signal ``S_img``, ``S_text``, the smallest image value and ``w = relu(S_img - S_text)``."""
    scores = ()
    for i in tl.static_range(len(SIGNALS)):
        image_bits, text_bits, low = extremes[i]
        image = to_number(image_bits)
        text = to_number(text_bits)
        # Without an image key in sight the maximum is 0, and so is the minimum, which leaves NaN out.
        no_image = (low == UNSEEN) & (image_bits == 0)
        low = tl.where(no_image, 0.0, low)
        if SIGNALS[i] != "gradient":
            image = tl.where(no_image, 0.0, image / total)
            low = tl.where(no_image, 0.0, low / total)
            text = tl.where(text_seen == 0, 0.0, text / total)
        low = tl.where(image != image, image, low)  # a maximum that is NaN makes the minimum NaN
        scores = scores + ((image, text, low, relu(image - text)),)
    return scores


@triton.jit
def store_scores(
    scores,
    highest,
    total,
    scores_ptr,
    weights_ptr,
    lse_ptr,
    offset,
    is_row,
    size,
    SIGNALS: tl.constexpr,
    WITH_LSE: tl.constexpr,
):
    """Scores ``(signals, 3, T, H)``, head weights ``(signals, T, H)`` and log-sum-exp ``(T, H)``."""
    if WITH_LSE:
        tl.store(lse_ptr + offset, finite_base(highest) * LN2 + tl.log(total), mask=is_row)
    for i in tl.static_range(len(SIGNALS)):
        for which in tl.static_range(3):
            tl.store(scores_ptr + (3 * i + which) * size + offset, scores[i][which], mask=is_row)
        tl.store(weights_ptr + i * size + offset, scores[i][3], mask=is_row)
