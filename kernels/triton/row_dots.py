"""``D = <dO, o>`` of each row and head: the sum of P G over all keys, which the signal P (G - D) subtracts."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Launch, strided
from .tiles import load_tile

BLOCK = 16


@triton.jit(do_not_specialize=["T"])
def row_dots_kernel(
    d_out_ptr,
    d_out_stride_t,
    d_out_stride_h,
    d_out_stride_d,
    out_ptr,
    out_stride_t,
    out_stride_h,
    out_stride_d,
    row_dot_ptr,
    T,
    H: tl.constexpr,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """``D[t, i] = sum over d of dO[t, i, d] o[t, i, d]``. A program takes BLOCK of the T H pairs (t, i)."""
    pair = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    is_pair = pair < T.to(tl.int64) * H
    row = pair // H
    head = pair % H
    offset = row * d_out_stride_t + head * d_out_stride_h
    d_out = load_tile(d_out_ptr, offset, is_pair, d_out_stride_d, 0, D, BLOCK_D).to(tl.float32)  # [BLOCK, D]
    offset = row * out_stride_t + head * out_stride_h
    out = load_tile(out_ptr, offset, is_pair, out_stride_d, 0, D, BLOCK_D).to(tl.float32)  # [BLOCK, D]
    tl.store(row_dot_ptr + pair, tl.sum(d_out * out, 1), mask=is_pair)


def row_dots(d_out: Tensor, out: Tensor) -> tuple[Launch, Tensor]:
    """The launch, and what it writes ``(T, H)`` float32, of two tensors ``(T, H, D)``."""
    T, H, D = d_out.shape
    row_dot = torch.empty(T, H, dtype=torch.float32, device=d_out.device)
    arguments = {
        **strided("d_out", d_out, "thd"),
        **strided("out", out, "thd"),
        "row_dot_ptr": row_dot,
        "T": T,
        "H": H,
        "D": D,
        "BLOCK": BLOCK,
        "BLOCK_D": triton.next_power_of_2(D),
    }
    return Launch(row_dots_kernel, (triton.cdiv(T * H, BLOCK),), arguments, warps=4, stages=1), row_dot
