"""Head scores (Eq. 4): the largest relu(signal) of each row and head on image keys and on text keys."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .config import Blocks, head_scores_blocks, splits_to_fill
from .launch import Launch, Operands, strided
from .tiles import (
    LN2,
    UNSEEN,
    cap_logits,
    load_tile,
    load_visible,
    products,
    read_signal,
    relu,
    sample_rows,
    to_bits,
    to_number,
)

MIXED = tl.constexpr(0)
IMAGE = tl.constexpr(1)
TEXT = tl.constexpr(2)
COMBINE_BLOCK = 128


@triton.jit
def finite_base(highest):
    """What is subtracted from logits before exp2: their maximum, or 0 where it is infinite."""
    return tl.where(tl.abs(highest) == float("inf"), 0.0, highest)


@triton.jit
def rescale(bits, factor):
    """Running extremes, made relative to another maximum of the logits."""
    return tl.where(bits == UNSEEN, UNSEEN, to_bits(to_number(bits) * factor))


@triton.jit
def add_tile(
    image,
    text,
    low,
    highest,
    total,
    g_bits,
    logits,
    row_dot,
    seen,
    kind,
    SIGNAL: tl.constexpr,
    WITH_LSE: tl.constexpr,
    ALL: tl.constexpr,
):
    """Running maxima, minimum and softmax sums ``[BLOCK_M]`` after one more tile of keys ``[BLOCK_M, BLOCK_N]``.

    ALL is IMAGE or TEXT for a tile of such keys alone that all rows see, which needs no masks, or MIXED.
    """
    p = logits
    if WITH_LSE:
        if ALL == MIXED:
            logits = tl.where(seen, logits, float("-inf"))
        higher = tl.maximum(highest, tl.max(logits, 1))
        base = finite_base(higher)
        factor = tl.exp2(highest - base)
        p = tl.exp2(logits - base[:, None])  # [BLOCK_M, BLOCK_N], P times the final sum
        total = total * factor + tl.sum(p, 1)
        highest = higher
        if SIGNAL != "gradient" and SIGNAL != "none":
            image = rescale(image, factor)
            text = rescale(text, factor)
            low = rescale(low, factor)
    if SIGNAL != "none":
        g = None
        if SIGNAL != "attention":
            g = to_number(g_bits)
        bits = to_bits(read_signal(g, p, row_dot, SIGNAL))  # [BLOCK_M, BLOCK_N]
        if ALL == IMAGE:
            image = tl.maximum(image, tl.max(bits, 1))
            low = tl.minimum(low, tl.min(bits, 1))
        elif ALL == TEXT:
            text = tl.maximum(text, tl.max(bits, 1))
        else:  # masks as bits: one instruction applies two of them
            seen_image = tl.where(seen, -1, 0) & tl.where(kind == IMAGE, -1, 0)[None, :]
            seen_text = tl.where(seen, -1, 0) & tl.where(kind == TEXT, -1, 0)[None, :]
            image = tl.maximum(image, tl.max(bits & seen_image, 1))
            low = tl.minimum(low, tl.min((bits & seen_image) | (UNSEEN & ~seen_image), 1))
            text = tl.maximum(text, tl.max(bits & seen_text, 1))
    return image, text, low, highest, total


@triton.jit
def store_scores(
    image,
    text,
    low,
    highest,
    total,
    image_ptr,
    text_ptr,
    image_min_ptr,
    weight_ptr,
    lse_ptr,
    offset,
    is_row,
    SIGNAL: tl.constexpr,
    WITH_LSE: tl.constexpr,
):
    """The final ``S_img``, ``S_text``, smallest image value, ``w = relu(S_img - S_text)`` and log-sum-exp."""
    if WITH_LSE:
        tl.store(lse_ptr + offset, finite_base(highest) * LN2 + tl.log(total), mask=is_row)
    if SIGNAL != "none":
        image = to_number(image)
        text = to_number(text)
        # A maximum that is NaN makes the minimum NaN; without an image key in sight the maximum is 0, and so is it.
        low = tl.where((image != image) | (low == UNSEEN), image, to_number(tl.maximum(low, 0)))
        if SIGNAL != "gradient":
            divisor = tl.where(total == 0.0, 1.0, total)  # 0: the row sees nothing, and its scores are 0
            image = image / divisor
            text = text / divisor
            low = low / divisor
        tl.store(image_ptr + offset, image, mask=is_row)
        tl.store(text_ptr + offset, text, mask=is_row)
        tl.store(image_min_ptr + offset, low, mask=is_row)
        tl.store(weight_ptr + offset, relu(image - text), mask=is_row)


@triton.jit(do_not_specialize=["T", "K"])
def head_scores_kernel(
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
    kinds_ptr,
    kinds_stride_b,
    kinds_stride_k,
    visible_ptr,
    visible_stride_t,
    visible_stride_c,
    row_offsets_ptr,
    image_ptr,
    text_ptr,
    image_min_ptr,
    weight_ptr,
    lse_ptr,
    partial_ptr,
    T,
    K,
    logit_scale,
    cap_scale,
    SIGNAL: tl.constexpr,
    WITH_G: tl.constexpr,
    WITH_LSE: tl.constexpr,
    SOFTCAP: tl.constexpr,
    RAGGED: tl.constexpr,
    H_KV: tl.constexpr,
    G: tl.constexpr,
    D_V: tl.constexpr,
    D_QK: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D_V: tl.constexpr,
    BLOCK_D_QK: tl.constexpr,
    KEY_SPLITS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``S_img[t, i] = max over image keys j of relu(signal[t, i, j])``, ``S_text`` likewise (Eq. 4), in one pass.

    The signal is G, ``P (G - D)``, ``P G`` or P, with ``G_j = <dO, V_j>``, ``P_j = exp(l_j - lse)`` and
    ``l_j = scale <q, k_j>``. Where P is needed it is kept relative to the maximum of the logits so far, as flash
    attention does, and all maxima are scaled with it.

    Program (row block, kv head, sample and key split) holds BLOCK_M pairs m of row and query head, ``t = m // G`` and
    ``i = kv G + m % G``, and walks over the keys that any of its rows sees: all heads of a GQA group share each tile.
    """
    b = (tl.program_id(2) // KEY_SPLITS).to(tl.int64)
    split = tl.program_id(2) % KEY_SPLITS
    kv = tl.program_id(1).to(tl.int64)
    first, count = sample_rows(row_offsets_ptr, b, T, RAGGED)
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)  # [BLOCK_M]
    if tl.program_id(0) * BLOCK_M >= count * G:
        return
    is_row = m < count * G
    row = (first + m // G).to(tl.int64)
    head = kv * G + m % G

    start, stop = load_visible(visible_ptr, visible_stride_t, visible_stride_c, row, is_row, K)
    start_seen = tl.min(start, 0)
    stop_seen = tl.max(stop, 0)
    start_seen_by_all = tl.max(tl.where(is_row, start, 0), 0)
    stop_seen_by_all = tl.min(tl.where(is_row, stop, K), 0)
    if KEY_SPLITS > 1:
        tiles = tl.cdiv(tl.maximum(stop_seen - start_seen, 0), BLOCK_N)
        of_split = tl.cdiv(tiles, KEY_SPLITS) * BLOCK_N
        start_seen += split * of_split
        stop_seen = tl.minimum(stop_seen, start_seen + of_split)

    d_out = None
    query = None
    row_dot = None
    d_out_offset = row * d_out_stride_t + head * d_out_stride_h
    query_offset = row * query_stride_t + head * query_stride_h
    if WITH_G:
        value_ptr += b * value_stride_b + kv * value_stride_h
        if BLOCK_D_V >= D_V:
            d_out = load_tile(d_out_ptr, d_out_offset, is_row, d_out_stride_d, 0, D_V, BLOCK_D_V)  # [BLOCK_M, D_V]
    if WITH_LSE:
        key_ptr += b * key_stride_b + kv * key_stride_h
        if BLOCK_D_QK >= D_QK:
            query = load_tile(query_ptr, query_offset, is_row, query_stride_d, 0, D_QK, BLOCK_D_QK)  # [BLOCK_M, D_QK]
    if SIGNAL == "score_gradient":
        row_dot = tl.load(row_dot_ptr + row * (H_KV * G) + head, mask=is_row, other=0.0)  # [BLOCK_M]
    kinds_ptr += b * kinds_stride_b

    image = tl.zeros([BLOCK_M], tl.int32)
    text = tl.zeros([BLOCK_M], tl.int32)
    low = tl.full([BLOCK_M], UNSEEN, tl.int32)
    highest = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    for first_key in tl.range(start_seen, stop_seen, BLOCK_N):
        j = first_key + tl.arange(0, BLOCK_N)  # [BLOCK_N]
        is_key = j < stop_seen
        position = j.to(tl.int64)
        kind = tl.load(kinds_ptr + position * kinds_stride_k, mask=is_key, other=0).to(tl.int32)  # [BLOCK_N]
        g_bits = None
        logits = None
        if WITH_G:
            g = products(
                d_out, d_out_ptr, d_out_offset, is_row, d_out_stride_d,
                None, value_ptr, position * value_stride_k, is_key, value_stride_d,
                D_V, BLOCK_D_V, PRECISION,
            )  # [BLOCK_M, BLOCK_N]  # fmt: skip
            g_bits = to_bits(g)  # for free, and Triton 3.6 cannot compile a product that is first used behind a branch
        if WITH_LSE:
            logits = products(
                query, query_ptr, query_offset, is_row, query_stride_d,
                None, key_ptr, position * key_stride_k, is_key, key_stride_d,
                D_QK, BLOCK_D_QK, PRECISION,
            )  # [BLOCK_M, BLOCK_N]  # fmt: skip
            logits = cap_logits(logits, logit_scale, cap_scale, SOFTCAP)
        all_seen = (first_key >= start_seen_by_all) & (first_key + BLOCK_N <= stop_seen_by_all)
        least = tl.min(kind, 0)
        one_kind = tl.where(all_seen & (least == tl.max(kind, 0)), least, MIXED)
        if one_kind == IMAGE:
            image, text, low, highest, total = add_tile(
                image, text, low, highest, total, g_bits, logits, row_dot, None, None, SIGNAL, WITH_LSE, IMAGE
            )
        elif one_kind == TEXT:
            image, text, low, highest, total = add_tile(
                image, text, low, highest, total, g_bits, logits, row_dot, None, None, SIGNAL, WITH_LSE, TEXT
            )
        else:
            seen = (j[None, :] >= start[:, None]) & (j[None, :] < stop[:, None]) & is_key[None, :]
            image, text, low, highest, total = add_tile(
                image, text, low, highest, total, g_bits, logits, row_dot, seen, kind, SIGNAL, WITH_LSE, MIXED
            )

    offset = row * (H_KV * G) + head
    if KEY_SPLITS == 1:
        store_scores(
            image, text, low, highest, total, image_ptr, text_ptr, image_min_ptr, weight_ptr, lse_ptr, offset, is_row,
            SIGNAL, WITH_LSE,
        )  # fmt: skip
    else:
        size = T.to(tl.int64) * (H_KV * G)
        partial_ptr += split * size + offset
        tl.store(partial_ptr, image, mask=is_row)
        tl.store(partial_ptr + KEY_SPLITS * size, text, mask=is_row)
        tl.store(partial_ptr + 2 * KEY_SPLITS * size, low, mask=is_row)
        tl.store(partial_ptr + 3 * KEY_SPLITS * size, to_bits(highest), mask=is_row)
        tl.store(partial_ptr + 4 * KEY_SPLITS * size, to_bits(total), mask=is_row)


@triton.jit(do_not_specialize=["size"])
def combine_scores_kernel(
    partial_ptr,
    image_ptr,
    text_ptr,
    image_min_ptr,
    weight_ptr,
    lse_ptr,
    size,
    SIGNAL: tl.constexpr,
    WITH_LSE: tl.constexpr,
    KEY_SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Extremes over all keys from those of KEY_SPLITS ranges ``(5, KEY_SPLITS, T, H)``, always in the same order."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    is_row = offset < size
    size = size.to(tl.int64)
    image = tl.zeros([BLOCK], tl.int32)
    text = tl.zeros([BLOCK], tl.int32)
    low = tl.full([BLOCK], UNSEEN, tl.int32)
    highest = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for split in range(KEY_SPLITS):
        of_split = partial_ptr + split * size + offset
        image_of_split = tl.load(of_split, mask=is_row, other=0)
        text_of_split = tl.load(of_split + KEY_SPLITS * size, mask=is_row, other=0)
        low_of_split = tl.load(of_split + 2 * KEY_SPLITS * size, mask=is_row, other=0)
        if WITH_LSE:
            highest_of_split = to_number(tl.load(of_split + 3 * KEY_SPLITS * size, mask=is_row, other=0))
            total_of_split = to_number(tl.load(of_split + 4 * KEY_SPLITS * size, mask=is_row, other=0))
            higher = tl.maximum(highest, highest_of_split, propagate_nan=tl.PropagateNan.ALL)
            base = finite_base(higher)
            factor = tl.exp2(highest - base)
            factor_of_split = tl.exp2(highest_of_split - base)
            total = total * factor + total_of_split * factor_of_split
            highest = higher
            if SIGNAL != "gradient" and SIGNAL != "none":
                image = rescale(image, factor)
                text = rescale(text, factor)
                low = rescale(low, factor)
                image_of_split = rescale(image_of_split, factor_of_split)
                text_of_split = rescale(text_of_split, factor_of_split)
                low_of_split = rescale(low_of_split, factor_of_split)
        image = tl.maximum(image, image_of_split)
        text = tl.maximum(text, text_of_split)
        low = tl.minimum(low, low_of_split)
    store_scores(
        image, text, low, highest, total, image_ptr, text_ptr, image_min_ptr, weight_ptr, lse_ptr, offset, is_row,
        SIGNAL, WITH_LSE,
    )  # fmt: skip


def head_scores(x: Operands, signal: str, blocks: Blocks | None = None) -> tuple[list[Launch], dict[str, Tensor]]:
    """Launches, in order, and what they write: ``image``, ``text``, ``image_min``, ``weight`` and ``lse``, ``(T, H)``.

    `signal` is one of `SIGNALS` or "none", for the log-sum-exp alone; ``lse`` is there where `x` has query and key.
    `blocks` stand in for those of `config`.
    """
    with_lse = x.query is not None
    names = ["image", "text", "image_min", "weight"] if signal != "none" else []
    names += ["lse"] if with_lse else []
    out = {name: torch.empty(x.T, x.H, dtype=torch.float32, device=x.device) for name in names}
    pointers = {f"{name}_ptr": out.get(name) for name in ("image", "text", "image_min", "weight", "lse")}
    blocks = blocks or head_scores_blocks(x, signal)
    row_blocks = triton.cdiv(x.most_rows * x.G, blocks.M)
    splits = splits_to_fill(x.machine, row_blocks * x.H_kv * x.B, triton.cdiv(x.K, blocks.N))
    partial = None
    if splits > 1:
        partial = torch.empty(5, splits, x.T, x.H, dtype=torch.int32, device=x.device)
    scores = Launch(
        head_scores_kernel,
        (row_blocks, x.H_kv, x.B * splits),
        {
            **(strided("d_out", x.d_out, "thd")),
            **(strided("value", x.value, "bhkd")),
            **(strided("query", x.query, "thd")),
            **(strided("key", x.key, "bhkd")),
            "row_dot_ptr": x.row_dot,
            **strided("kinds", x.kinds, "bk"),
            **strided("visible", x.visible, "tc"),
            "row_offsets_ptr": x.row_offsets,
            **pointers,
            "partial_ptr": partial,
            "T": x.T,
            "K": x.K,
            "logit_scale": x.logit_scale,
            "cap_scale": x.cap_scale,
            "SIGNAL": signal,
            "WITH_G": signal not in ("none", "attention"),
            "WITH_LSE": with_lse,
            "SOFTCAP": x.softcap,
            "RAGGED": x.row_offsets is not None,
            "H_KV": x.H_kv,
            "G": x.G,
            **x.widths(),
            "BLOCK_M": blocks.M,
            "BLOCK_N": blocks.N,
            "KEY_SPLITS": splits,
            "PRECISION": x.precision,
        },
        blocks.warps,
        blocks.stages,
    )
    if splits == 1:
        return [scores], out
    combine = Launch(
        combine_scores_kernel,
        (triton.cdiv(x.T * x.H, COMBINE_BLOCK),),
        {
            "partial_ptr": partial,
            **pointers,
            "size": x.T * x.H,
            "SIGNAL": signal,
            "WITH_LSE": with_lse,
            "KEY_SPLITS": splits,
            "BLOCK": COMBINE_BLOCK,
        },
        warps=4,
        stages=1,
    )
    return [scores, combine], out
