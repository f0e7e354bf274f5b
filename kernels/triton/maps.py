"""Token maps (Eq. 5): the weighted sum over heads of relu(signal) on the image keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .config import Blocks, maps_blocks, splits_in_waves
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
    sample_and_split,
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
def add_to(base_ptr, sums, stride_t, stride_n, first_row, seen, is_cell, SPLIT: tl.constexpr, FAR: tl.constexpr):
    """Add sums to the cells whose keys are seen; those of a head range are written, with zero elsewhere."""
    t = tl.arange(0, sums.shape[0])  # [BLOCK_T]
    n = tl.arange(0, sums.shape[1])  # [BLOCK_N]
    if FAR:
        t = t.to(tl.int64)
        n = n.to(tl.int64)
    cells = base_ptr + first_row * stride_t + (t[:, None] * stride_t + n[None, :] * stride_n)
    if not SPLIT:  # a cell belongs to one program alone
        tl.store(cells, sums + tl.load(cells, mask=is_cell & seen, other=0.0), mask=is_cell & seen)
    else:
        tl.store(cells, tl.where(seen, sums, 0.0), mask=is_cell)


# With a number of heads known at compile time the loop over them is unrolled, which registers do not hold.
@triton.jit(
    do_not_specialize=[
        "T",
        "K",
        "N",
        "H_kv",
        "image_start",
        "image_stride_b",
        "HEAD_SPLITS",
        "weights_stride_s",
        "outs_stride_s",
        "outs_stride_t",
    ]
)
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
    weights_stride_s,
    weights_stride_t,
    weights_stride_h,
    image_ptr,
    image_stride_b,
    image_stride_n,
    visible_ptr,
    visible_stride_t,
    visible_stride_c,
    row_offsets_ptr,
    outs_ptr,
    outs_stride_s,
    outs_stride_t,
    outs_stride_n,
    token_sums_ptr,
    T,
    K,
    N,
    H_kv,
    image_start,
    HEAD_SPLITS,
    logit_scale,
    cap_scale,
    OUTS: tl.constexpr,
    WEIGHTS: tl.constexpr,
    TOKEN_SUMS: tl.constexpr,
    SPLIT: tl.constexpr,
    WITH_G: tl.constexpr,
    WITH_P: tl.constexpr,
    SOFTCAP: tl.constexpr,
    RAGGED: tl.constexpr,
    SPAN: tl.constexpr,
    G: tl.constexpr,
    D_V: tl.constexpr,
    D_QK: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D_V: tl.constexpr,
    BLOCK_D_QK: tl.constexpr,
    FAR: tl.constexpr,
    ROWS_FAR: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``outs[t, n] += sum over heads i of w[t, i] relu(signal[t, i, image[n]])`` (Eq. 5), in place, for several outs.

    OUTS holds the signal of each, WEIGHTS which weights it takes, -1 for none: then every weight is 1. TOKEN_SUMS holds
    the signals whose sum over the rows of the block is written, ``(signals, B, row blocks, H, N)``.

    Program (row block, image-key block, sample and head split) owns a tile of the maps ``[BLOCK_T, BLOCK_N]`` and keeps
    its sums in registers while it walks over the heads; a tile of V or K serves all heads of its GQA group. Hidden keys
    are the same for all heads: they are taken out once, at the end.

    Offsets of cells within a tile are of 32 bits unless they lie FAR apart, and so are those of rows unless ROWS_FAR:
    64 bits of each are more than registers hold.
    """
    b, split = sample_and_split(tl.program_id(2), HEAD_SPLITS, SPLIT)
    first, count = sample_rows(row_offsets_ptr, b, T, RAGGED)
    if tl.program_id(0) * BLOCK_T >= count:
        return
    t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)  # [BLOCK_T]
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    is_row = t < count
    row = first + t
    if ROWS_FAR:
        row = row.to(tl.int64)
    position = image_positions(image_ptr, image_stride_b, image_stride_n, b, n, N, image_start, SPAN)
    is_key = position >= 0

    b = b.to(tl.int64)
    H = H_kv * G
    of_block = (b * tl.num_programs(0) + tl.program_id(0)) * H  # of the token sums
    token_sums_size = (tl.num_programs(2) // HEAD_SPLITS).to(tl.int64) * tl.num_programs(0) * H * N
    sums = ()
    for _ in tl.static_range(len(OUTS)):
        sums = sums + (tl.zeros([BLOCK_T, BLOCK_N], tl.float32),)
    first_kv = split
    last_kv = H_kv.to(tl.int64)
    if SPLIT:
        first_head = split * H // HEAD_SPLITS
        last_head = (split + 1) * H // HEAD_SPLITS
        first_kv = first_head // G
        last_kv = tl.cdiv(last_head, G)
    for kv in tl.range(first_kv, last_kv):
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
        first_member = 0
        last_member = G
        if SPLIT:
            first_member = tl.maximum(first_head - kv * G, 0)
            last_member = tl.minimum(last_head - kv * G, G)
        for member in tl.range(first_member, last_member):
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
            if row_dot_ptr is not None:
                row_dot = tl.load(row_dot_ptr + row * H + head, mask=is_row, other=0.0)  # [BLOCK_T]
            added = ()
            for i in tl.static_range(len(OUTS)):
                x = relu(read_signal(g, p, row_dot, OUTS, i))  # [BLOCK_T, BLOCK_N]
                if WEIGHTS[i] >= 0:
                    of_weights = weights_ptr + WEIGHTS[i] * weights_stride_s + head * weights_stride_h
                    w = tl.load(of_weights + row * weights_stride_t, mask=is_row, other=0.0)  # [BLOCK_T]
                    x = w.to(tl.float32)[:, None] * x
                added = added + (sums[i] + x,)
            sums = added
            if len(TOKEN_SUMS) > 0:
                start, stop = load_visible(visible_ptr, visible_stride_t, visible_stride_c, row, is_row, K)
                seen = (position[None, :] >= start[:, None]) & (position[None, :] < stop[:, None]) & is_row[:, None]
                for i in tl.static_range(len(TOKEN_SUMS)):
                    x = relu(read_signal(g, p, row_dot, TOKEN_SUMS, i))  # [BLOCK_T, BLOCK_N]
                    x = tl.sum(tl.where(seen, x, 0.0), 0)  # [BLOCK_N]
                    cells = token_sums_ptr + i * token_sums_size + (of_block + head) * N + n
                    tl.store(cells, tl.where(is_key, x, 0.0), mask=n < N)

    start, stop = load_visible(visible_ptr, visible_stride_t, visible_stride_c, row, is_row, K)
    first_row = (first + tl.program_id(0) * BLOCK_T).to(tl.int64)
    first_n = tl.program_id(1) * BLOCK_N
    # Registers do not hold the cells and masks of a large tile beside its sums: it is stored half by half.
    LARGE: tl.constexpr = 32 * 32 if INTERPRETED else 128 * 64
    PARTS: tl.constexpr = 2 if BLOCK_T * BLOCK_N * len(OUTS) > LARGE else 1
    WIDTH: tl.constexpr = BLOCK_N // PARTS
    for part in tl.static_range(PARTS):
        n = first_n + tl.arange(0, WIDTH)  # [WIDTH]
        position = image_positions(image_ptr, image_stride_b, image_stride_n, b, n, N, image_start, SPAN).to(tl.int32)
        seen = (position[None, :] >= start[:, None]) & (position[None, :] < stop[:, None]) & (position >= 0)[None, :]
        is_cell = is_row[:, None] & (n < N)[None, :]
        for i in tl.static_range(len(OUTS)):
            tile = outs_ptr[i] + split * outs_stride_s + first_n.to(tl.int64) * outs_stride_n
            columns = part_of(sums[i], part, PARTS)  # [BLOCK_T, WIDTH]
            add_to(tile, columns, outs_stride_t, outs_stride_n, first_row, seen, is_cell, SPLIT, FAR)
        first_n += WIDTH


class Out(NamedTuple):
    """One sum over heads.

    Attributes:
        signal: what is added up.
        weights: which of the weights it takes, -1 for none.
        total: ``(T, N)`` float32, added to.
    """

    signal: str
    weights: int
    total: Tensor


class Partials(NamedTuple):
    """Sums that several programs have a part of.

    Attributes:
        totals: are added to.
        parts: ``(len(totals), parts, *shape of a total)`` float32.
    """

    totals: list[Tensor]
    parts: Tensor

    def add(self) -> None:
        """In two launches, however many totals there are."""
        torch._foreach_add_(self.totals, self.parts.sum(dim=1).unbind())


def alike(outs: Sequence[Out]) -> bool:
    """Whether one set of strides serves all."""
    return len({out.total.stride() for out in outs}) == 1


def accumulate_maps(
    x: Operands,
    outs: Sequence[Out],
    weights: Tensor,
    lse: Tensor | None,
    token_sums: Sequence[tuple[str, Tensor]] = (),
    blocks: Blocks | None = None,
) -> tuple[list[Launch], list[Partials]]:
    """Launches, and what is to be added behind them.

    Args:
        x: with what the signals read.
        outs: at least one.
        weights: ``(_, T, H)``.
        lse: ``(T, H)``, or None where no signal reads P.
        token_sums: signals and ``(B, H, N)`` float32, to which the sum over each sample's rows is added.
        blocks: stand in for those of `config`.
    """
    blocks = blocks or maps_blocks(x, len(outs), len(token_sums))
    row_blocks, key_blocks = triton.cdiv(x.most_rows, blocks.M), triton.cdiv(x.N, blocks.N)
    splits = splits_in_waves(x.machine, blocks, row_blocks * key_blocks * x.B, x.H)
    written = [out.total[None] for out in outs]
    partials: list[Partials] = []
    is_split = splits > 1 or not alike(outs)
    if is_split:
        of_splits = torch.empty(len(outs), splits, x.T, x.N, dtype=torch.float32, device=x.device)
        written = [*of_splits]
        partials.append(Partials([out.total for out in outs], of_splits))
    of_blocks = None
    if token_sums:  # zero where a sample has fewer blocks of rows than the longest
        of_blocks = torch.zeros(len(token_sums), x.B, row_blocks, x.H, x.N, dtype=torch.float32, device=x.device)
        partials.append(Partials([total for _, total in token_sums], of_blocks.transpose(1, 2)))
    tile = blocks.M * written[0].stride(1) + blocks.N * written[0].stride(2)
    by_row = (x.d_out, x.query, lse, weights[0], x.visible)
    rows = x.T * max(x.H, *(tensor.stride(0) for tensor in by_row if tensor is not None))
    arguments: dict[str, Any] = {
        **strided("d_out", x.d_out, "thd"),
        **strided("value", x.value, "bhkd"),
        **strided("query", x.query, "thd"),
        **strided("key", x.key, "bhkd"),
        "row_dot_ptr": x.row_dot if any(out.signal == "score_gradient" for out in outs) else None,
        **strided("lse", lse, "th"),
        **strided("weights", weights, "sth"),
        **strided("image", x.image, "bn"),
        **strided("visible", x.visible, "tc"),
        "row_offsets_ptr": x.row_offsets,
        **strided("outs", written[0], "stn"),
        "outs_ptr": tuple(written),
        "token_sums_ptr": of_blocks,
        "T": x.T,
        "K": x.K,
        "N": x.N,
        "H_kv": x.H_kv,
        "image_start": x.image_start,
        "HEAD_SPLITS": splits,
        "logit_scale": x.logit_scale,
        "cap_scale": x.cap_scale,
        "OUTS": tuple(out.signal for out in outs),
        "WEIGHTS": tuple(out.weights for out in outs),
        "TOKEN_SUMS": tuple(signal for signal, _ in token_sums),
        "SPLIT": is_split,
        "WITH_G": x.d_out is not None,
        "WITH_P": x.query is not None,
        "SOFTCAP": x.softcap,
        "RAGGED": x.row_offsets is not None,
        "SPAN": x.image_start >= 0,
        "G": x.G,
        **x.widths(),
        "BLOCK_T": blocks.M,
        "BLOCK_N": blocks.N,
        "FAR": tile >= 2**31,
        # For sm_80 the compiler finds room for wide offsets of rows, and not for narrow ones.
        "ROWS_FAR": rows >= 2**31 or x.machine.capability == 80,
        "PRECISION": x.precision,
    }
    grid = (row_blocks, key_blocks, x.B * splits)
    return [Launch(accumulate_maps_kernel, grid, arguments, blocks.warps, blocks.stages)], partials
