"""Attention probabilities of the image keys alone, from query, key and log-sum-exp."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .config import columns_blocks
from .launch import Launch, Operands, strided
from .tiles import LN2, cap_logits, image_positions, load_visible, products, sample_rows


@triton.jit(do_not_specialize=["T", "K", "N", "image_start", "image_stride_b"])
def attention_columns_kernel(
    query_ptr,
    query_stride_t,
    query_stride_h,
    query_stride_d,
    key_ptr,
    key_stride_b,
    key_stride_h,
    key_stride_k,
    key_stride_d,
    lse_ptr,
    lse_stride_t,
    lse_stride_h,
    image_ptr,
    image_stride_b,
    image_stride_n,
    visible_ptr,
    visible_stride_t,
    visible_stride_c,
    row_offsets_ptr,
    columns_ptr,
    T,
    K,
    N,
    image_start,
    logit_scale,
    cap_scale,
    SOFTCAP: tl.constexpr,
    RAGGED: tl.constexpr,
    SPAN: tl.constexpr,
    H_KV: tl.constexpr,
    G: tl.constexpr,
    D_QK: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D_QK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``P[t, i, n] = exp(scale <q[t, i], k[image[n]]> - lse[t, i])``, 0 where row t does not see image key n.

    Program (row block, image-key block, sample and kv head) writes one tile; its BLOCK_M rows are pairs of row and
    query head of one GQA group, as in `head_scores_kernel`.
    """
    b = tl.program_id(2) // H_KV
    kv = (tl.program_id(2) % H_KV).to(tl.int64)
    first, count = sample_rows(row_offsets_ptr, b, T, RAGGED)
    if tl.program_id(0) * BLOCK_M >= count * G:
        return
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)  # [BLOCK_M]
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    is_row = m < count * G
    row = (first + m // G).to(tl.int64)
    head = kv * G + m % G
    position = image_positions(image_ptr, image_stride_b, image_stride_n, b, n, N, image_start, SPAN)
    is_key = position >= 0

    offset = row * query_stride_t + head * query_stride_h
    of_keys = key_ptr + b.to(tl.int64) * key_stride_b + kv * key_stride_h
    logits = products(
        None, query_ptr, offset, is_row, query_stride_d,
        None, of_keys, position * key_stride_k, is_key, key_stride_d,
        D_QK, BLOCK_D_QK, PRECISION,
    )  # [BLOCK_M, BLOCK_N]  # fmt: skip
    logits = cap_logits(logits, logit_scale, cap_scale, SOFTCAP)
    lse = tl.load(lse_ptr + row * lse_stride_t + head * lse_stride_h, mask=is_row, other=0.0)  # [BLOCK_M]
    p = tl.exp2(logits - (lse.to(tl.float32) / LN2)[:, None])  # [BLOCK_M, BLOCK_N]

    start, stop = load_visible(visible_ptr, visible_stride_t, visible_stride_c, row, is_row, K)
    position = position.to(tl.int32)
    seen = (position[None, :] >= start[:, None]) & (position[None, :] < stop[:, None]) & is_key[None, :]
    offset = (row * (H_KV * G) + head) * N  # columns are contiguous
    is_cell = is_row[:, None] & (n < N)[None, :]
    tl.store(columns_ptr + offset[:, None] + n[None, :], tl.where(seen, p, 0.0), mask=is_cell)


def attention_columns(x: Operands, lse: Tensor) -> tuple[Launch, Tensor]:
    """The launch, and what it writes: ``(T, H, N)`` float32."""
    columns = torch.empty(x.T, x.H, x.N, dtype=torch.float32, device=x.device)
    blocks = columns_blocks(x)
    launch = Launch(
        attention_columns_kernel,
        (triton.cdiv(x.most_rows * x.G, blocks.M), triton.cdiv(x.N, blocks.N), x.B * x.H_kv),
        {
            **strided("query", x.query, "thd"),
            **strided("key", x.key, "bhkd"),
            **strided("lse", lse, "th"),
            **strided("image", x.image, "bn"),
            **strided("visible", x.visible, "tc"),
            "row_offsets_ptr": x.row_offsets,
            "columns_ptr": columns,
            "T": x.T,
            "K": x.K,
            "N": x.N,
            "image_start": x.image_start,
            "logit_scale": x.logit_scale,
            "cap_scale": x.cap_scale,
            "SOFTCAP": x.softcap,
            "RAGGED": x.row_offsets is not None,
            "SPAN": x.image_start >= 0,
            "H_KV": x.H_kv,
            "G": x.G,
            "D_QK": x.D_qk,
            "BLOCK_M": blocks.M,
            "BLOCK_N": blocks.N,
            "BLOCK_D_QK": x.width_of_tiles(x.D_qk),
            "PRECISION": x.precision,
        },
        blocks.warps,
        blocks.stages,
    )
    return launch, columns
