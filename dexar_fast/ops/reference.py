"""The definition of every op in plain torch. Other backends are tested against this file in float64.

Symbols: T rows (answer tokens), H query heads, H_kv key/value heads, ``H = G * H_kv``, D head width, K keys, N image
keys. Query head i reads key/value head ``i // G``. All sums run in float32, or in float64 if the inputs are float64.

No tensor of size (T, H, K) exists: rows are taken in blocks of at most ``BLOCK_ELEMENTS`` gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .keys import KeySets

BLOCK_ELEMENTS = 1 << 18  # 1 MiB of float32: a block's gradients stay in a core's cache


class HeadScores(NamedTuple):
    """Extremes of ``relu(G)`` over the visible keys of one row and head, each ``(T, H)``.

    ``image`` and ``text`` are S_img and S_text of Eq. 4; ``image_min`` is the smallest value on the image keys, which
    the "reference" normalisation needs. A row that sees no key of a set has zero there.
    """

    image: Tensor
    text: Tensor
    image_min: Tensor


def head_scores(d_out: Tensor, value: Tensor, keys: KeySets) -> HeadScores:
    """Eq. 4 from ``G = dO V^T``: see `dexar_fast.ops.head_scores`."""
    T, H, _ = d_out.shape
    scores = HeadScores(*(d_out.new_zeros((T, H), dtype=accumulator(d_out)) for _ in range(3)))
    if T == 0:
        return scores
    text_keys = keys.text.nonzero().squeeze(-1)
    for heads, rows, d_out_block, v in _blocks(d_out, value):  # [rows, G, D], [K, D]
        if len(keys.image):
            g = d_out_block @ v[keys.image].T  # [rows, G, N]
            hidden = ~keys.is_visible(rows, keys.image)[:, None]  # [rows, 1, N]
            sees_image = ~hidden.all(dim=-1)  # [rows, 1]
            scores.image[rows, heads] = _hide(g, hidden, -math.inf).amax(dim=-1).clamp(min=0)
            lowest = _hide(g, hidden, math.inf).amin(dim=-1).clamp(min=0)
            scores.image_min[rows, heads] = lowest.where(sees_image, 0)
        if len(text_keys):
            g = d_out_block @ v[text_keys].T  # [rows, G, M]
            hidden = ~keys.is_visible(rows, text_keys)[:, None]
            scores.text[rows, heads] = _hide(g, hidden, -math.inf).amax(dim=-1).clamp(min=0)
    return scores


def accumulate_maps(
    d_out: Tensor, value: Tensor, weights: Tensor, keys: KeySets, maps: Tensor, unfiltered: Tensor | None
) -> None:
    """Eq. 5, one layer's share, added in place: see `dexar_fast.ops.accumulate_maps`."""
    for heads, rows, d_out_block, v in _blocks(d_out, value):  # [rows, G, D], [K, D]
        g = d_out_block @ v[keys.image].T  # [rows, G, N]
        g = _hide(g, ~keys.is_visible(rows, keys.image)[:, None], 0).clamp(min=0)
        w = weights[rows, heads].to(g.dtype)  # [rows, G]
        maps[rows] += (w[:, None] @ g).squeeze(1)  # [rows, 1, G] @ [rows, G, N]
        if unfiltered is not None:
            unfiltered[rows] += g.sum(dim=1)


def attention_columns(query: Tensor, key: Tensor, keys: KeySets, scale: float) -> Tensor:
    """Softmax probabilities of the image keys: see `dexar_fast.ops.attention_columns`."""
    T, H, _ = query.shape
    columns = query.new_zeros((T, H, len(keys.image)), dtype=accumulator(query))
    every_key = torch.arange(key.shape[1], device=key.device)
    for heads, rows, q, k in _blocks(query, key):  # [rows, G, D], [K, D]
        logits = scale * (q @ k.T)  # [rows, G, K]
        logits = logits.masked_fill(~keys.is_visible(rows, every_key)[:, None], -math.inf)
        lse = logits.logsumexp(dim=-1, keepdim=True)  # [rows, G, 1]
        sees_nothing = lse.isneginf()
        columns[rows, heads] = (logits[..., keys.image] - lse).exp().masked_fill(sees_nothing, 0)
    return columns


def accumulator(x: Tensor) -> torch.dtype:
    """The dtype that sums run in: float64 for float64 inputs, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _blocks(per_query: Tensor, per_key: Tensor) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """Rows of one GQA group: ``(heads, rows, per_query [rows, G, D], per_key [K, D])`` in the accumulator's dtype."""
    T, H, _ = per_query.shape
    H_kv, K, _ = per_key.shape
    G = H // H_kv
    dtype = accumulator(per_query)
    step = max(1, BLOCK_ELEMENTS // max(1, G * K))
    for group in range(H_kv):
        heads = slice(group * G, (group + 1) * G)
        of_group = per_key[group].to(dtype)
        for start in range(0, T, step):
            rows = slice(start, min(start + step, T))
            yield heads, rows, per_query[rows, heads].to(dtype), of_group


def _hide(g: Tensor, hidden: Tensor, value: float) -> Tensor:
    """Put ``value`` where a row does not see a key; most often it sees every one, and nothing is written."""
    return g.masked_fill(hidden, value) if bool(hidden.any()) else g
