"""What the kernels do with one tile: load it, multiply it, read a signal off it. Arithmetic is in float32."""

from __future__ import annotations

import triton
import triton.language as tl
from triton import knobs

INTERPRETED = tl.constexpr(knobs.runtime.interpret)
UNSEEN = tl.constexpr(float("inf"))
"""A minimum over no key."""
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def sample_and_split(program, SPLITS, SPLIT: tl.constexpr):
    """Which sample, and which part of its work, the last axis of a grid stands for."""
    b = program
    split = (program * 0).to(tl.int64)
    if SPLIT:
        b = program // SPLITS
        split = (program % SPLITS).to(tl.int64)
    return b, split


@triton.jit
def sample_rows(row_offsets_ptr, b, T, RAGGED: tl.constexpr):
    """First row and number of rows of sample b."""
    first = 0
    count = T
    if RAGGED:
        first = tl.load(row_offsets_ptr + b)
        count = tl.load(row_offsets_ptr + b + 1) - first
    return first, count


@triton.jit
def load_visible(visible_ptr, stride_t, stride_c, row, is_row, K):
    """First key that each row sees and the one behind its last, in [0, K]; (K, 0) for a row that sees nothing."""
    start = tl.load(visible_ptr + row * stride_t, mask=is_row, other=0)  # [rows]
    stop = tl.load(visible_ptr + row * stride_t + stride_c, mask=is_row, other=0)  # [rows]
    start = tl.minimum(tl.maximum(start, 0), K).to(tl.int32)
    stop = tl.minimum(tl.maximum(stop, 0), K).to(tl.int32)
    sees_any = start < stop
    return tl.where(sees_any, start, K), tl.where(sees_any, stop, 0)


@triton.jit
def image_positions(image_ptr, stride_b, stride_n, b, n, N, image_start, SPAN: tl.constexpr):
    """Position of image key n of sample b ``[BLOCK_N]``, -1 where there is none."""
    if SPAN:
        return tl.where(n < N, image_start + n, -1).to(tl.int64)
    return tl.load(image_ptr + b.to(tl.int64) * stride_b + n.to(tl.int64) * stride_n, mask=n < N, other=-1)


@triton.jit
def load_tile(base_ptr, offset, is_row, stride_d, first_d, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Columns from first_d on of the rows at `offset` ``[rows, BLOCK_D]``; zero where there are none."""
    d = first_d + tl.arange(0, BLOCK_D)  # [BLOCK_D]
    pointers = base_ptr + offset[:, None] + d.to(tl.int64)[None, :] * stride_d
    if D % BLOCK_D == 0:
        tile = tl.load(pointers, mask=is_row[:, None], other=0.0)
    else:
        tile = tl.load(pointers, mask=is_row[:, None] & (d < D)[None, :], other=0.0)
    return tile


@triton.jit
def dot_rows(a, b, PRECISION: tl.constexpr):
    """``a b^T``: of ``[rows, D]`` and ``[keys, D]`` the products ``[rows, keys]`` in float32."""
    if INTERPRETED:  # its products of bfloat16 are wrong
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, tl.trans(b), input_precision=PRECISION)


@triton.jit
def products(
    a,
    a_ptr,
    a_offset,
    is_row,
    a_stride_d,
    b,
    b_ptr,
    b_offset,
    is_key,
    b_stride_d,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``sum over d of a[row, d] b[key, d]``, ``[rows, keys]``.

    A tile that the caller holds is taken as it is, one that is None is loaded. Operands wider than BLOCK_D are nobody's
    to hold: BLOCK_D columns of both are streamed at a time.
    """
    if BLOCK_D >= D:
        if a is None:
            a = load_tile(a_ptr, a_offset, is_row, a_stride_d, 0, D, BLOCK_D)  # [rows, D]
        if b is None:
            b = load_tile(b_ptr, b_offset, is_key, b_stride_d, 0, D, BLOCK_D)  # [keys, D]
        sums = dot_rows(a, b, PRECISION)
    else:
        sums = tl.zeros([a_offset.shape[0], b_offset.shape[0]], tl.float32)
        for first_d in tl.range(0, D, BLOCK_D):
            a_part = load_tile(a_ptr, a_offset, is_row, a_stride_d, first_d, D, BLOCK_D)  # [rows, BLOCK_D]
            b_part = load_tile(b_ptr, b_offset, is_key, b_stride_d, first_d, D, BLOCK_D)  # [keys, BLOCK_D]
            sums += dot_rows(a_part, b_part, PRECISION)
    return sums


@triton.jit
def cap_logits(products, logit_scale, cap_scale, SOFTCAP: tl.constexpr):
    """Attention logits in units of ln 2, so that exp2 turns them into probabilities.

    ``logit_scale`` is scale / ln 2 and ``cap_scale`` unused; under a soft cap c they are c / ln 2 and scale / c.
    """
    if SOFTCAP:
        # tanh, without a device library that the interpreter does not have: of small x its Taylor polynomial, for the
        # difference of large x has no relative accuracy there.
        x = products * cap_scale
        square = x * x
        small = x + x * square * (
            -1.0 / 3.0 + square * (2.0 / 15.0 + square * (-17.0 / 315.0 + square * (62.0 / 2835.0)))
        )
        products = tl.where(tl.abs(x) < 0.25, small, 1.0 - 2.0 / (tl.exp2(x * (2.0 / LN2)) + 1.0))
    return products * logit_scale


@triton.jit
def read_signal(g, p, row_dot, SIGNALS: tl.constexpr, i: tl.constexpr):
    """What the i-th signal reads off each key, before relu ``[rows, keys]``: see `SIGNALS` of ``dexar_fast.ops``.

    An infinite p, of an infinite logit, makes it NaN, whatever the sign of what p is multiplied with.
    """
    x = p
    if SIGNALS[i] == "gradient":
        x = g
    elif SIGNALS[i] == "score_gradient":
        x = p * (g - row_dot[:, None]) + p * 0.0
    elif SIGNALS[i] == "contribution":
        x = p * g + p * 0.0
    return x


@triton.jit
def relu(x):
    """NaN stays NaN."""
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def to_bits(x):
    """Bits of x as int32. They are ordered as numbers that are not negative are, with NaN above infinity.

    A running maximum of bits that starts at 0 is thus one of relu(x) that keeps NaN, which `tl.max` of numbers drops,
    at one instruction an element. GPUs write NaN without a sign; processors need not.
    """
    bits = x.to(tl.int32, bitcast=True)
    if INTERPRETED:
        bits = tl.where(x != x, 0x7FC00000, bits)
    return bits


@triton.jit
def to_number(bits):
    """The inverse of `to_bits`."""
    return bits.to(tl.float32, bitcast=True)
