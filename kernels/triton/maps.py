"""Token maps (Eq. 5): the weighted sum over heads of relu(signal) on the image keys."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .config import Blocks, maps_blocks, splits_to_fill
from .launch import Launch, Operands, strided
from .tiles import (
    INTERPRETED,
    LN2,
    cap_logits,
    image_positions,
    load_tile,
    load_visible,
    products,
    read_signal,
    relu,
    sample_rows,
)


@triton.jit
def part_of(tile, part: tl.constexpr, PARTS: tl.constexpr):
    """The whole tile, or of 2 parts the left or right half of its columns."""
    columns = tile
    if PARTS == 2:
        width: tl.constexpr = tile.shape[1] // 2
        left, right = tl.split(tl.permute(tl.reshape(tile, [tile.shape[0], 2, width]), [0, 2, 1]))
        columns = left if part == 0 else right
    return columns


@triton.jit
def add_to(base_ptr, sums, stride_t, stride_n, first_row, seen, is_cell, HEAD_SPLITS: tl.constexpr, FAR: tl.constexpr):
    """Add sums to the cells whose keys are seen; those of a head range are written, with zero elsewhere.

    Within a tile offsets are of 32 bits unless its cells lie FAR apart: 64 bits of each are more than registers hold.
    """
    t = tl.arange(0, sums.shape[0])  # [BLOCK_T]
    n = tl.arange(0, sums.shape[1])  # [BLOCK_N]
    if FAR:
        t = t.to(tl.int64)
        n = n.to(tl.int64)
    cells = base_ptr + first_row * stride_t + (t[:, None] * stride_t + n[None, :] * stride_n)
    if HEAD_SPLITS == 1:  # a cell belongs to one program alone
        tl.store(cells, sums + tl.load(cells, mask=is_cell & seen, other=0.0), mask=is_cell & seen)
    else:
        tl.store(cells, tl.where(seen, sums, 0.0), mask=is_cell)


# With a number of heads known at compile time the loop over them is unrolled, which registers do not hold.
@triton.jit(do_not_specialize=["T", "K", "N", "H_kv", "image_start"])
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
    H_kv,
    image_start,
    logit_scale,
    cap_scale,
    SIGNAL: tl.constexpr,
    WITH_G: tl.constexpr,
    WITH_P: tl.constexpr,
    SOFTCAP: tl.constexpr,
    RAGGED: tl.constexpr,
    SPAN: tl.constexpr,
    UNFILTERED: tl.constexpr,
    G: tl.constexpr,
    D_V: tl.constexpr,
    D_QK: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D_V: tl.constexpr,
    BLOCK_D_QK: tl.constexpr,
    HEAD_SPLITS: tl.constexpr,
    FAR: tl.constexpr,
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
    unfiltered_sums = None
    if UNFILTERED:
        unfiltered_sums = tl.zeros([BLOCK_T, BLOCK_N], tl.float32)
    split = split.to(tl.int64)
    for kv in tl.range(split * H_kv // HEAD_SPLITS, (split + 1) * H_kv // HEAD_SPLITS):
        value = None
        key = None
        if WITH_G:
            of_values = value_ptr + b * value_stride_b + kv * value_stride_h
            value_offset = position * value_stride_k
            if BLOCK_D_V >= D_V:
                value = load_tile(of_values, value_offset, is_key, value_stride_d, 0, D_V, BLOCK_D_V)  # [BLOCK_N, D_V]
        if WITH_P:
            of_keys = key_ptr + b * key_stride_b + kv * key_stride_h
            key_offset = position * key_stride_k
            if BLOCK_D_QK >= D_QK:
                key = load_tile(of_keys, key_offset, is_key, key_stride_d, 0, D_QK, BLOCK_D_QK)  # [BLOCK_N, D_QK]
        for member in tl.range(G):
            head = kv * G + member
            g = None
            p = None
            row_dot = None
            if WITH_G:
                g = products(
                    None, d_out_ptr + head * d_out_stride_h, row * d_out_stride_t, is_row, d_out_stride_d,
                    value, of_values, value_offset, is_key, value_stride_d,
                    D_V, BLOCK_D_V, PRECISION,
                )  # [BLOCK_T, BLOCK_N]  # fmt: skip
            if WITH_P:
                logits = products(
                    None, query_ptr + head * query_stride_h, row * query_stride_t, is_row, query_stride_d,
                    key, of_keys, key_offset, is_key, key_stride_d,
                    D_QK, BLOCK_D_QK, PRECISION,
                )  # [BLOCK_T, BLOCK_N]  # fmt: skip
                logits = cap_logits(logits, logit_scale, cap_scale, SOFTCAP)
                lse = tl.load(lse_ptr + row * lse_stride_t + head * lse_stride_h, mask=is_row, other=0.0)  # [BLOCK_T]
                p = tl.exp2(logits - (lse.to(tl.float32) / LN2)[:, None])  # [BLOCK_T, BLOCK_N]
            if SIGNAL == "score_gradient":
                row_dot = tl.load(row_dot_ptr + row * (H_kv * G) + head, mask=is_row, other=0.0)  # [BLOCK_T]
            x = relu(read_signal(g, p, row_dot, SIGNAL))  # [BLOCK_T, BLOCK_N]
            w = tl.load(weights_ptr + row * weights_stride_t + head * weights_stride_h, mask=is_row, other=0.0)
            sums += w.to(tl.float32)[:, None] * x
            if UNFILTERED:
                unfiltered_sums += x

    start, stop = load_visible(visible_ptr, visible_stride_t, visible_stride_c, row, is_row, K)
    first_row = (first + tl.program_id(0) * BLOCK_T).to(tl.int64)
    first_n = tl.program_id(1) * BLOCK_N
    # Registers do not hold the cells and masks of a large tile beside its sums: it is stored half by half.
    LARGE: tl.constexpr = 32 * 32 if INTERPRETED else 128 * 64
    PARTS: tl.constexpr = 2 if BLOCK_T * BLOCK_N * (1 + UNFILTERED) > LARGE else 1
    WIDTH: tl.constexpr = BLOCK_N // PARTS
    for part in tl.static_range(PARTS):
        n = first_n + tl.arange(0, WIDTH)  # [WIDTH]
        position = image_positions(image_ptr, image_stride_b, image_stride_n, b, n, N, image_start, SPAN).to(tl.int32)
        seen = (position[None, :] >= start[:, None]) & (position[None, :] < stop[:, None]) & (position >= 0)[None, :]
        is_cell = is_row[:, None] & (n < N)[None, :]
        tile = maps_ptr + split * maps_stride_s + first_n.to(tl.int64) * maps_stride_n
        columns = part_of(sums, part, PARTS)  # [BLOCK_T, WIDTH]
        add_to(tile, columns, maps_stride_t, maps_stride_n, first_row, seen, is_cell, HEAD_SPLITS, FAR)
        if UNFILTERED:
            tile = unfiltered_ptr + split * unfiltered_stride_s + first_n.to(tl.int64) * unfiltered_stride_n
            columns = part_of(unfiltered_sums, part, PARTS)  # [BLOCK_T, WIDTH]
            add_to(tile, columns, unfiltered_stride_t, unfiltered_stride_n, first_row, seen, is_cell, HEAD_SPLITS, FAR)
        first_n += WIDTH


def accumulate_maps(
    x: Operands,
    signal: str,
    weights: Tensor,
    lse: Tensor | None,
    maps: Tensor,
    unfiltered: Tensor | None,
    blocks: Blocks | None = None,
) -> tuple[list[Launch], list[tuple[Tensor, Tensor]]]:
    """Launches, and pairs ``(out, partial)`` whose ``partial.sum(0)`` is to be added to ``out`` behind them.

    `blocks` stand in for those of `config`.
    """
    blocks = blocks or maps_blocks(x, signal, unfiltered is not None)
    row_blocks, key_blocks = triton.cdiv(x.most_rows, blocks.M), triton.cdiv(x.N, blocks.N)
    splits = splits_to_fill(x.machine, row_blocks * key_blocks * x.B, x.H_kv)
    outs = [maps, unfiltered]
    written = [None if out is None else out[None] for out in outs]
    partials: list[tuple[Tensor, Tensor]] = []
    if splits > 1:
        written = [None if out is None else out.new_empty(splits, x.T, x.N) for out in outs]
        partials = [(out, partial) for out, partial in zip(outs, written) if out is not None and partial is not None]
    spans = [blocks.M * out.stride(1) + blocks.N * out.stride(2) for out in written if out is not None]
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
            "H_kv": x.H_kv,
            "image_start": x.image_start,
            "logit_scale": x.logit_scale,
            "cap_scale": x.cap_scale,
            "SIGNAL": signal,
            "WITH_G": signal != "attention",
            "WITH_P": signal != "gradient",
            "SOFTCAP": x.softcap,
            "RAGGED": x.row_offsets is not None,
            "SPAN": x.image_start >= 0,
            "UNFILTERED": unfiltered is not None,
            "G": x.G,
            **x.widths(),
            "BLOCK_T": blocks.M,
            "BLOCK_N": blocks.N,
            "HEAD_SPLITS": splits,
            "FAR": max(spans) >= 2**31,
            "PRECISION": x.precision,
        },
        blocks.warps,
        blocks.stages,
    )
    return [launch], partials
