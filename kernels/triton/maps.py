"""Token maps (Eq. 5): the weighted sum over heads of relu(signal) on the image keys."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .config import maps_blocks, splits_to_fill
from .launch import Launch, Operands, strided
from .tiles import LN2, cap_logits, dot_rows, image_positions, load_tile, load_visible, read_signal, relu, sample_rows


@triton.jit
def add_to(out_ptr, sums, stride_t, stride_n, row, n, is_cell, ADD: tl.constexpr):
    """Add to, or write, cells that belong to this program alone."""
    pointers = out_ptr + row[:, None] * stride_t + n.to(tl.int64)[None, :] * stride_n
    if ADD:
        sums += tl.load(pointers, mask=is_cell, other=0.0)
    tl.store(pointers, sums, mask=is_cell)


@triton.jit(do_not_specialize=["T", "K", "N", "image_start"])
def accumulate_maps_kernel(
    d_out_ptr,
    d_out_stride_t,
    d_out_stride_h,
    d_out_stride_d,
    value_ptr,
    value_stride_b,
    value_stride_h,
    value_stride_k,
    value_stride_d,
    query_ptr,
    query_stride_t,
    query_stride_h,
    query_stride_d,
    key_ptr,
    key_stride_b,
    key_stride_h,
    key_stride_k,
    key_stride_d,
    row_dot_ptr,
    lse_ptr,
    lse_stride_t,
    lse_stride_h,
    weights_ptr,
    weights_stride_t,
    weights_stride_h,
    image_ptr,
    image_stride_b,
    image_stride_n,
    visible_ptr,
    visible_stride_t,
    visible_stride_c,
    row_offsets_ptr,
    maps_ptr,
    maps_stride_s,
    maps_stride_t,
    maps_stride_n,
    unfiltered_ptr,
    unfiltered_stride_s,
    unfiltered_stride_t,
    unfiltered_stride_n,
    T,
    K,
    N,
    image_start,
    logit_scale,
    cap_scale,
    SIGNAL: tl.constexpr,
    SOFTCAP: tl.constexpr,
    RAGGED: tl.constexpr,
    SPAN: tl.constexpr,
    UNFILTERED: tl.constexpr,
    H_KV: tl.constexpr,
    G: tl.constexpr,
    D_V: tl.constexpr,
    D_QK: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D_V: tl.constexpr,
    BLOCK_D_QK: tl.constexpr,
    HEAD_SPLITS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``maps[t, n] += sum over heads i of w[t, i] relu(signal[t, i, image[n]])`` (Eq. 5), in place.

    Program (row block, image-key block, sample and head split) owns a tile of the maps ``[BLOCK_T, BLOCK_N]`` and keeps
    its sum in registers while it walks over the heads; a tile of V or K serves all heads of its GQA group. Hidden keys
    are the same for all heads: they are taken out once, at the end.
    """
    b = tl.program_id(2) // HEAD_SPLITS
    split = tl.program_id(2) % HEAD_SPLITS
    first, count = sample_rows(row_offsets_ptr, b, T, RAGGED)
    if tl.program_id(0) * BLOCK_T >= count:
        return
    t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)  # [BLOCK_T]
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    is_row = t < count
    row = (first + t).to(tl.int64)
    position = image_positions(image_ptr, image_stride_b, image_stride_n, b, n, N, image_start, SPAN)
    is_key = position >= 0

    b = b.to(tl.int64)
    sums = tl.zeros([BLOCK_T, BLOCK_N], tl.float32)
    unfiltered_sums = 0.0
    if UNFILTERED:
        unfiltered_sums = tl.zeros([BLOCK_T, BLOCK_N], tl.float32)
    split = split.to(tl.int64)
    for kv in tl.range(split * H_KV // HEAD_SPLITS, (split + 1) * H_KV // HEAD_SPLITS):
        value = 0.0
        key = 0.0
        if SIGNAL != "attention":
            of_head = value_ptr + b * value_stride_b + kv * value_stride_h
            value = load_tile(of_head, position * value_stride_k, is_key, value_stride_d, D_V, BLOCK_D_V)
        if SIGNAL != "gradient":
            of_head = key_ptr + b * key_stride_b + kv * key_stride_h
            key = load_tile(of_head, position * key_stride_k, is_key, key_stride_d, D_QK, BLOCK_D_QK)
        for member in tl.range(G):
            head = kv * G + member
            g = 0.0
            p = 0.0
            row_dot = 0.0
            if SIGNAL != "attention":
                of_head = d_out_ptr + head * d_out_stride_h
                d_out = load_tile(of_head, row * d_out_stride_t, is_row, d_out_stride_d, D_V, BLOCK_D_V)
                g = dot_rows(d_out, value, PRECISION)  # [BLOCK_T, BLOCK_N]
            if SIGNAL != "gradient":
                of_head = query_ptr + head * query_stride_h
                query = load_tile(of_head, row * query_stride_t, is_row, query_stride_d, D_QK, BLOCK_D_QK)
                logits = cap_logits(dot_rows(query, key, PRECISION), logit_scale, cap_scale, SOFTCAP)
                lse = tl.load(lse_ptr + row * lse_stride_t + head * lse_stride_h, mask=is_row, other=0.0)  # [BLOCK_T]
                p = tl.exp2(logits - (lse.to(tl.float32) / LN2)[:, None])  # [BLOCK_T, BLOCK_N]
            if SIGNAL == "score_gradient":
                row_dot = tl.load(row_dot_ptr + row * (H_KV * G) + head, mask=is_row, other=0.0)  # [BLOCK_T]
            x = relu(read_signal(g, p, row_dot, SIGNAL))  # [BLOCK_T, BLOCK_N]
            w = tl.load(weights_ptr + row * weights_stride_t + head * weights_stride_h, mask=is_row, other=0.0)
            sums += w.to(tl.float32)[:, None] * x
            if UNFILTERED:
                unfiltered_sums += x

    start, stop = load_visible(visible_ptr, visible_stride_t, visible_stride_c, row, is_row, K)
    seen = (position[None, :] >= start[:, None]) & (position[None, :] < stop[:, None]) & is_key[None, :]
    is_cell = is_row[:, None] & (n < N)[None, :]
    of_split = maps_ptr + split * maps_stride_s
    add_to(of_split, tl.where(seen, sums, 0.0), maps_stride_t, maps_stride_n, row, n, is_cell, HEAD_SPLITS == 1)
    if UNFILTERED:
        of_split = unfiltered_ptr + split * unfiltered_stride_s
        unfiltered_sums = tl.where(seen, unfiltered_sums, 0.0)
        add_to(
            of_split, unfiltered_sums, unfiltered_stride_t, unfiltered_stride_n, row, n, is_cell, HEAD_SPLITS == 1
        )  # fmt: skip


def accumulate_maps(
    x: Operands, signal: str, weights: Tensor, lse: Tensor | None, maps: Tensor, unfiltered: Tensor | None
) -> tuple[list[Launch], list[tuple[Tensor, Tensor]]]:
    """Launches, and pairs ``(out, partial)`` whose ``partial.sum(0)`` is to be added to ``out`` behind them."""
    blocks = maps_blocks(x, signal, unfiltered is not None)
    row_blocks, key_blocks = triton.cdiv(x.most_rows, blocks.M), triton.cdiv(x.N, blocks.N)
    splits = splits_to_fill(x.machine, row_blocks * key_blocks * x.B, x.H_kv)
    outs = [maps, unfiltered]
    written = [None if out is None else out[None] for out in outs]
    partials: list[tuple[Tensor, Tensor]] = []
    if splits > 1:
        written = [None if out is None else out.new_empty(splits, x.T, x.N) for out in outs]
        partials = [(out, partial) for out, partial in zip(outs, written) if out is not None and partial is not None]
    launch = Launch(
        accumulate_maps_kernel,
        (row_blocks, key_blocks, x.B * splits),
        {
            **strided("d_out", x.d_out, "thd"),
            **strided("value", x.value, "bhkd"),
            **strided("query", x.query, "thd"),
            **strided("key", x.key, "bhkd"),
            "row_dot_ptr": x.row_dot,
            **strided("lse", lse, "th"),
            **strided("weights", weights, "th"),
            **strided("image", x.image, "bn"),
            **strided("visible", x.visible, "tc"),
            "row_offsets_ptr": x.row_offsets,
            **strided("maps", written[0], "stn"),
            **strided("unfiltered", written[1], "stn"),
            "T": x.T,
            "K": x.K,
            "N": x.N,
            "image_start": x.image_start,
            "logit_scale": x.logit_scale,
            "cap_scale": x.cap_scale,
            "SIGNAL": signal,
            "SOFTCAP": x.softcap,
            "RAGGED": x.row_offsets is not None,
            "SPAN": x.image_start >= 0,
            "UNFILTERED": unfiltered is not None,
            "H_KV": x.H_kv,
            "G": x.G,
            **x.widths(),
            "BLOCK_T": blocks.M,
            "BLOCK_N": blocks.N,
            "HEAD_SPLITS": splits,
            "PRECISION": x.precision,
        },
        blocks.warps,
        blocks.stages,
    )
    return [launch], partials
