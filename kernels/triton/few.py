"""Eq. 4 and 5 of few rows: G of the image keys is written once, while the scores are taken, and weighed behind them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .combine import combined
from .config import KEPT_BYTES, WRITTEN_BYTES
from .extremes import final_scores, finite_base, store_scores
from .head_scores import Scores, head_scores
from .launch import Launch, Operands, strided
from .maps import Out, alike
from .tiles import LN2, image_positions, read_signal, relu

ROWS, KEYS, SPLITS = 32, 64, 16


# Maps of one row after the other begin anywhere.
@triton.jit(
    do_not_specialize=["T", "K", "N", "image_start", "image_stride_b", "KEY_SPLITS", "outs_stride_t"],
    do_not_specialize_on_alignment=["outs_ptr"],
)
def weigh_kernel(
    g_ptr,
    logits_ptr,
    row_dot_ptr,
    scores_ptr,
    weights_ptr,
    lse_ptr,
    partial_ptr,
    image_ptr,
    image_stride_b,
    image_stride_n,
    visible_ptr,
    visible_stride_t,
    visible_stride_c,
    outs_ptr,
    outs_stride_t,
    outs_stride_n,
    T,
    K,
    N,
    image_start,
    KEY_SPLITS,
    SIGNALS: tl.constexpr,
    OUTS: tl.constexpr,
    WEIGHTS: tl.constexpr,
    WITH_G: tl.constexpr,
    WITH_P: tl.constexpr,
    SPLIT: tl.constexpr,
    SPAN: tl.constexpr,
    H: tl.constexpr,
    ROWS: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """``outs[t, n] += sum over heads i of w[t, i] relu(signal[t, i, image[n]])`` from G and logits ``(T, H, K)``.

    Program (row, image-key block) takes ROWS heads at a time. Where the scores come in ranges of keys it combines them
    for its own row first; the program of the first keys writes them.
    """
    row = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    position = image_positions(image_ptr, image_stride_b, image_stride_n, row * 0, n, N, image_start, SPAN)
    start = tl.load(visible_ptr + row * visible_stride_t)
    stop = tl.load(visible_ptr + row * visible_stride_t + visible_stride_c)
    seen = (position >= tl.maximum(start, 0)) & (position < tl.minimum(stop, K))
    size = T.to(tl.int64) * H
    sums = ()
    for _ in tl.static_range(len(OUTS)):
        sums = sums + (tl.zeros([BLOCK_N], tl.float32),)
    for first_head in tl.range(0, H, ROWS):
        head = first_head + tl.arange(0, ROWS)  # [ROWS]
        is_head = head < H
        offset = row * H + head
        lse = None
        if SPLIT:
            extremes, text_seen, highest, total = combined(
                partial_ptr, offset, is_head, size, KEY_SPLITS, SIGNALS, WITH_P, ROWS, SPLITS
            )
            scores = final_scores(extremes, text_seen, total, SIGNALS)
            if WITH_P:
                lse = finite_base(highest) * LN2 + tl.log(total)
            if tl.program_id(1) == 0:
                store_scores(
                    scores, highest, total, scores_ptr, weights_ptr, lse_ptr, offset, is_head, size, SIGNALS, WITH_P
                )
        elif WITH_P:
            lse = tl.load(lse_ptr + offset, mask=is_head, other=0.0)
        cell = (offset * K)[:, None] + position[None, :]  # [ROWS, BLOCK_N]
        is_cell = is_head[:, None] & seen[None, :]
        g = None
        p = None
        row_dot = None
        if WITH_G:
            g = tl.load(g_ptr + cell, mask=is_cell, other=0.0)
        if WITH_P:
            p = tl.exp2(tl.load(logits_ptr + cell, mask=is_cell, other=0.0) - (lse / LN2)[:, None])
        if row_dot_ptr is not None:
            row_dot = tl.load(row_dot_ptr + offset, mask=is_head, other=0.0)
        added = ()
        for i in tl.static_range(len(OUTS)):
            x = relu(read_signal(g, p, row_dot, OUTS, i))  # [ROWS, BLOCK_N]
            if WEIGHTS[i] >= 0:
                if SPLIT:
                    w = scores[WEIGHTS[i]][3]
                else:
                    w = tl.load(weights_ptr + WEIGHTS[i] * size + offset, mask=is_head, other=0.0)  # [ROWS]
                x = w[:, None] * x
            added = added + (sums[i] + tl.sum(tl.where(is_cell, x, 0.0), 0),)
        sums = added
    for i in tl.static_range(len(OUTS)):
        cells = outs_ptr[i] + row * outs_stride_t + n.to(tl.int64) * outs_stride_n
        tl.store(cells, sums[i] + tl.load(cells, mask=seen, other=0.0), mask=seen)


def has_few_rows(x: Operands, outs: Sequence[Out]) -> bool:
    """Whether G and logits of all rows are small enough to be written, and the kernel takes the outs."""
    a_key = 4 * ((x.d_out is not None) + (x.query is not None)) * x.T * x.H
    is_small = a_key * x.N <= WRITTEN_BYTES and a_key * x.K <= KEPT_BYTES
    return x.B == 1 and x.N > 0 and alike(outs) and is_small


def score_and_accumulate(x: Operands, signals: tuple[str, ...], outs: Sequence[Out]) -> tuple[list[Launch], Scores]:
    """Launches, in order, and the scores that they write; `outs` are added to. Weights are those of `signals`."""

    def new(wanted: Tensor | None) -> Tensor | None:
        return None if wanted is None else torch.empty(x.T, x.H, x.K, dtype=torch.float32, device=x.device)

    g, logits = new(x.d_out), new(x.query)
    launches, found = head_scores(x, signals, written=(g, logits))
    reads_row_dot = any(out.signal == "score_gradient" for out in outs)
    weigh = Launch(
        weigh_kernel,
        (x.T, triton.cdiv(x.N, KEYS)),
        {
            "g_ptr": g,
            "logits_ptr": logits,
            "row_dot_ptr": x.row_dot if reads_row_dot else None,
            "scores_ptr": found.scores,
            "weights_ptr": found.weights,
            "lse_ptr": found.lse,
            "partial_ptr": found.partial,
            **strided("image", x.image, "bn"),
            **strided("visible", x.visible, "tc"),
            **strided("outs", outs[0].total, "tn"),
            "outs_ptr": tuple(out.total for out in outs),
            "T": x.T,
            "K": x.K,
            "N": x.N,
            "image_start": x.image_start,
            "KEY_SPLITS": found.splits,
            "SIGNALS": signals,
            "OUTS": tuple(out.signal for out in outs),
            "WEIGHTS": tuple(out.weights for out in outs),
            "WITH_G": g is not None,
            "WITH_P": logits is not None,
            "SPLIT": found.splits > 1,
            "SPAN": x.image_start >= 0,
            "H": x.H,
            "ROWS": ROWS,
            "SPLITS": SPLITS,
            "BLOCK_N": KEYS,
        },
        warps=4,
        stages=1,
    )
    return [*launches, weigh], found
