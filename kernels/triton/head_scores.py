"""Head scores (Eq. 4): the largest relu(signal) of each row and head on image keys and on text keys."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .combine import combine_scores
from .config import Blocks, head_scores_blocks, splits_in_waves
from .extremes import IMAGE, MIXED, TEXT, add_tile, final_scores, no_extremes, store_scores
from .launch import Launch, Operands, strided
from .tiles import (
    cap_logits,
    load_tile,
    load_visible,
    products,
    sample_and_split,
    sample_rows,
    to_bits,
    to_number,
)


@triton.jit(do_not_specialize=["T", "K", "KEY_SPLITS", "kinds_stride_b"])
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
    scores_ptr,
    weights_ptr,
    lse_ptr,
    partial_ptr,
    g_ptr,
    logits_ptr,
    T,
    K,
    KEY_SPLITS,
    logit_scale,
    cap_scale,
    SIGNALS: tl.constexpr,
    SPLIT: tl.constexpr,
    WRITE: tl.constexpr,
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
    PRECISION: tl.constexpr,
):
    """``S_img[t, i] = max over image keys j of relu(signal[t, i, j])``, ``S_text`` likewise (Eq. 4), in one pass.

    The signal is G, ``P (G - D)``, ``P G`` or P, with ``G_j = <dO, V_j>``, ``P_j = exp(l_j - lse)`` and
    ``l_j = scale <q, k_j>``. Where P is needed it is kept relative to the maximum of the logits so far, as flash
    attention does, and all maxima are scaled with it.

    Program (row block, kv head, sample and key split) holds BLOCK_M pairs m of row and query head, ``t = m // G`` and
    ``i = kv G + m % G``, and walks over the keys that any of its rows sees: all heads of a GQA group share each tile.
    Of few rows it also WRITEs G and logits of the image keys ``(T, H, K)`` for `few.weigh_kernel`.
    """
    b, split = sample_and_split(tl.program_id(2), KEY_SPLITS, SPLIT)
    b = b.to(tl.int64)
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
    if SPLIT:
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
    if row_dot_ptr is not None:
        row_dot = tl.load(row_dot_ptr + row * (H_KV * G) + head, mask=is_row, other=0.0)  # [BLOCK_M]
    kinds_ptr += b * kinds_stride_b

    extremes = no_extremes(BLOCK_M, SIGNALS)
    text_seen = tl.zeros([BLOCK_M], tl.int32)
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
        if WRITE:
            is_cell = is_row[:, None] & (is_key & (kind == IMAGE))[None, :]
            cell = ((row * (H_KV * G) + head) * K)[:, None] + position[None, :]
            if WITH_G:
                tl.store(g_ptr + cell, to_number(g_bits), mask=is_cell)
            if WITH_LSE:
                tl.store(logits_ptr + cell, logits, mask=is_cell)
        all_seen = (first_key >= start_seen_by_all) & (first_key + BLOCK_N <= stop_seen_by_all)
        least = tl.min(kind, 0)
        one_kind = tl.where(all_seen & (least == tl.max(kind, 0)), least, MIXED)
        if one_kind == IMAGE:
            extremes, text_seen, highest, total = add_tile(
                extremes, text_seen, highest, total, g_bits, logits, row_dot, None, None,
                SIGNALS, WITH_G, WITH_LSE, IMAGE,
            )  # fmt: skip
        elif one_kind == TEXT:
            extremes, text_seen, highest, total = add_tile(
                extremes, text_seen, highest, total, g_bits, logits, row_dot, None, None,
                SIGNALS, WITH_G, WITH_LSE, TEXT,
            )  # fmt: skip
        else:
            seen = (j[None, :] >= start[:, None]) & (j[None, :] < stop[:, None]) & is_key[None, :]
            extremes, text_seen, highest, total = add_tile(
                extremes, text_seen, highest, total, g_bits, logits, row_dot, seen, kind,
                SIGNALS, WITH_G, WITH_LSE, MIXED,
            )  # fmt: skip

    offset = row * (H_KV * G) + head
    size = T.to(tl.int64) * (H_KV * G)
    if SPLIT:
        part = KEY_SPLITS * size
        partial_ptr += split * size + offset
        for i in tl.static_range(len(SIGNALS)):
            image, text, low = extremes[i]
            tl.store(partial_ptr + 3 * i * part, image, mask=is_row)
            tl.store(partial_ptr + (3 * i + 1) * part, text, mask=is_row)
            tl.store(partial_ptr + (3 * i + 2) * part, to_bits(low), mask=is_row)
        if WITH_LSE:
            of_softmax: tl.constexpr = 3 * len(SIGNALS)
            tl.store(partial_ptr + of_softmax * part, to_bits(highest), mask=is_row)
            tl.store(partial_ptr + (of_softmax + 1) * part, to_bits(total), mask=is_row)
            tl.store(partial_ptr + (of_softmax + 2) * part, text_seen, mask=is_row)
    else:
        scores = final_scores(extremes, text_seen, total, SIGNALS)
        store_scores(scores, highest, total, scores_ptr, weights_ptr, lse_ptr, offset, is_row, size, SIGNALS, WITH_LSE)


class Scores(NamedTuple):
    """What `head_scores` writes.

    Attributes:
        scores: ``(signals, 3, T, H)`` float32: S_img, S_text and the smallest image value.
        weights: ``(signals, T, H)`` float32, w.
        lse: ``(T, H)`` float32, or None.
        partial: of each range of keys, int32, or None if there is one.
    """

    scores: Tensor
    weights: Tensor
    lse: Tensor | None
    partial: Tensor | None = None

    @property
    def splits(self) -> int:
        return 1 if self.partial is None else self.partial.shape[1]


def head_scores(
    x: Operands,
    signals: tuple[str, ...],
    blocks: Blocks | None = None,
    written: tuple[Tensor | None, Tensor | None] | None = None,
) -> tuple[list[Launch], Scores]:
    """Launches, in order, and what they write.

    Args:
        x: with query and key where a signal reads P or the log-sum-exp is wanted.
        signals: some of `SIGNALS`; none for the log-sum-exp alone.
        blocks: stand in for those of `config`.
        written: where G and logits ``(T, H, K)`` of the image keys go too; ranges of keys are not combined then.
    """
    with_lse, with_g = x.query is not None, x.d_out is not None
    blocks = blocks or head_scores_blocks(x, signals, writes=written is not None)
    row_blocks = triton.cdiv(x.most_rows * x.G, blocks.M)
    splits = splits_in_waves(x.machine, blocks, row_blocks * x.H_kv * x.B, triton.cdiv(x.K, blocks.N))
    scores = torch.empty(len(signals), 3, x.T, x.H, dtype=torch.float32, device=x.device)
    weights = torch.empty(len(signals), x.T, x.H, dtype=torch.float32, device=x.device)
    lse = torch.empty(x.T, x.H, dtype=torch.float32, device=x.device) if with_lse else None
    partial = None
    if splits > 1:
        kept = 3 * len(signals) + 3 * with_lse
        partial = torch.empty(kept, splits, x.T, x.H, dtype=torch.int32, device=x.device)
    common = {
        "partial_ptr": partial,
        "scores_ptr": scores,
        "weights_ptr": weights,
        "lse_ptr": lse,
        "KEY_SPLITS": splits,
    }
    launch = Launch(
        head_scores_kernel,
        (row_blocks, x.H_kv, x.B * splits),
        {
            **strided("d_out", x.d_out, "thd"),
            **strided("value", x.value, "bhkd"),
            **strided("query", x.query, "thd"),
            **strided("key", x.key, "bhkd"),
            "row_dot_ptr": x.row_dot if "score_gradient" in signals else None,
            **strided("kinds", x.kinds, "bk"),
            **strided("visible", x.visible, "tc"),
            "row_offsets_ptr": x.row_offsets,
            **common,
            "g_ptr": None if written is None else written[0],
            "logits_ptr": None if written is None else written[1],
            "T": x.T,
            "K": x.K,
            "logit_scale": x.logit_scale,
            "cap_scale": x.cap_scale,
            "SIGNALS": signals,
            "SPLIT": splits > 1,
            "WRITE": written is not None,
            "WITH_G": with_g,
            "WITH_LSE": with_lse,
            "SOFTCAP": x.softcap,
            "RAGGED": x.row_offsets is not None,
            "H_KV": x.H_kv,
            "G": x.G,
            **x.widths(),
            "BLOCK_M": blocks.M,
            "BLOCK_N": blocks.N,
            "PRECISION": x.precision,
        },
        blocks.warps,
        blocks.stages,
    )
    if splits == 1 or written is not None:
        return [launch], Scores(scores, weights, lse, partial)
    return [launch, combine_scores(common, x.T * x.H, signals, with_lse)], Scores(scores, weights, lse, partial)
