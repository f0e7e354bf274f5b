"""The definition of every op in plain torch. Other backends are tested against this file in float64.

Symbols: T rows (answer tokens), H query heads, H_kv key/value heads, ``H = G * H_kv``, D head width, K keys, N image
keys, B samples. Query head i reads key/value head ``i // G``. All sums run in float32, or in float64 if the inputs are
float64.

No tensor of size (T, H, K) exists: rows are taken in blocks of at most ``BLOCK_ELEMENTS`` gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .keys import TEXT, PackedKeys, Sample
from .signals import Attention, MapSums

BLOCK_ELEMENTS = 1 << 18  # 1 MiB of float32: a block's gradients stay in a core's cache


def head_scores(
    d_out: Tensor, value: Tensor, keys: PackedKeys, signal: str, attention: Attention | None
) -> tuple[Tensor, Tensor | None]:
    """Eq. 4: see `dexar_fast.ops.head_scores`."""
    T, H, _ = d_out.shape
    scores = d_out.new_zeros((3, T, H), dtype=accumulator(d_out))
    image, text, image_min = scores
    lse = None if attention is None else attention_lse(attention, keys)
    if attention is not None:
        attention = attention._replace(lse=lse)
    for block in _blocks(d_out, value, keys, attention):
        rows, heads = block.rows, block.heads
        x, hidden = block.signal(signal, block.sample.image)  # [rows, G, N], [rows, 1, N]
        if x.shape[-1]:
            image[rows, heads] = x.clamp(min=0).masked_fill(hidden, 0).amax(dim=-1)
            sees_any = ~hidden.all(dim=-1)  # [rows, 1]
            image_min[rows, heads] = x.masked_fill(hidden, math.inf).amin(dim=-1).where(sees_any, 0)
        x, hidden = block.signal(signal, (block.sample.kinds == TEXT).nonzero().squeeze(-1))  # [rows, G, M]
        if x.shape[-1]:
            text[rows, heads] = x.clamp(min=0).masked_fill(hidden, 0).amax(dim=-1)
    return scores, lse


def accumulate_maps(
    d_out: Tensor,
    value: Tensor,
    weights: Tensor,
    keys: PackedKeys,
    signal: str,
    attention: Attention | None,
    maps: Tensor,
    unfiltered: Tensor | None,
    token_sums: Tensor | None,
) -> None:
    """Eq. 5, one layer's share, added in place: see `dexar_fast.ops.accumulate_maps`."""
    if attention is not None and attention.lse is None:
        attention = attention._replace(lse=attention_lse(attention, keys))
    for block in _blocks(d_out, value, keys, attention):
        rows, columns = block.rows, slice(len(block.sample.image))
        x, hidden = block.signal(signal, block.sample.image)  # [rows, G, N], [rows, 1, N]
        x = x.clamp(min=0).masked_fill(hidden, 0)
        w = weights[rows, block.heads].to(x.dtype)  # [rows, G]
        weighted = (w[:, None] @ x).masked_fill(hidden, 0)  # [rows, 1, G] @ [rows, G, N]; NaN times zero is NaN
        maps[rows, columns] += weighted.squeeze(1)
        if unfiltered is not None:
            unfiltered[rows, columns] += x.sum(dim=1)
        if token_sums is not None:
            token_sums[block.b, block.heads, columns] += x.sum(dim=0)


def score_and_accumulate(
    d_out: Tensor, value: Tensor, keys: PackedKeys, attention: Attention | None, sums: Sequence[MapSums]
) -> tuple[Tensor, Tensor | None]:
    """Eq. 4, ``w = relu(S_img - S_text)`` and Eq. 5 of each: see `dexar_fast.ops.score_and_accumulate_all`."""
    signals = list(dict.fromkeys(each.score_signal for each in sums))
    scores, lses = zip(*(head_scores(d_out, value, keys, signal, attention) for signal in signals), strict=True)
    if attention is not None:
        attention = attention._replace(lse=lses[0])
    for each in sums:
        image, text, _ = scores[signals.index(each.score_signal)]
        weights = (image - text).clamp(min=0)
        accumulate_maps(d_out, value, weights, keys, each.map_signal, attention, *each[2:])
    return torch.stack(scores), lses[0]


def attention_lse(attention: Attention, keys: PackedKeys) -> Tensor:
    """Log-sum-exp of the logits of all visible keys ``(T, H)``: see `dexar_fast.ops.attention_lse`."""
    query = attention.query
    lse = query.new_empty(query.shape[:2], dtype=accumulator(query))
    for block in _blocks(query, attention.key, keys, attention):
        every_key = torch.arange(len(block.sample.kinds), device=query.device)
        logits = block.logits(every_key).masked_fill(block.is_hidden(every_key), -math.inf)  # [rows, G, K]
        lse[block.rows, block.heads] = logits.logsumexp(dim=-1)
    return lse


def attention_columns(attention: Attention, keys: PackedKeys) -> Tensor:
    """Softmax probabilities of the image keys: see `dexar_fast.ops.attention_columns`."""
    query = attention.query
    T, H, _ = query.shape
    columns = query.new_zeros((T, H, keys.image.shape[1]), dtype=accumulator(query))
    if attention.lse is None:
        attention = attention._replace(lse=attention_lse(attention, keys))
    for block in _blocks(query, attention.key, keys, attention):
        image = block.sample.image
        probabilities = block.probabilities(image).masked_fill(block.is_hidden(image), 0)
        columns[block.rows, block.heads, : len(image)] = probabilities
    return columns


def accumulator(x: Tensor) -> torch.dtype:
    """The dtype that sums run in: float64 for float64 inputs, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


@dataclass(frozen=True)
class _Block:
    """Some rows of one sample and the G heads of one key/value head; tensors in the accumulator's dtype.

    Attributes:
        b, sample: its index and its keys.
        within: the rows, counted in the sample; rows, heads: the same in the whole call.
        d_out: ``[rows, G, D]``; value: ``[K, D]``; attention: of the whole call, or None.
        query: ``[rows, G, D]``; key: ``[K, D]``; both None without attention.
    """

    b: int
    sample: Sample
    within: slice
    rows: slice
    heads: slice
    d_out: Tensor
    value: Tensor
    attention: Attention | None
    query: Tensor | None
    key: Tensor | None

    def signal(self, signal: str, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Some keys' signal ``[rows, G, columns]``, and which of them are hidden ``[rows, 1, columns]``."""
        hidden = self.is_hidden(columns)
        if signal == "attention":
            return self.probabilities(columns), hidden
        g = self.d_out @ self.value[columns].T
        if signal == "gradient":
            return g, hidden
        if signal == "score_gradient":
            assert self.attention is not None
            out = self.attention.out[self.rows, self.heads].to(g.dtype)
            g = g - (self.d_out * out).sum(dim=-1, keepdim=True)  # G - D
        return self.probabilities(columns) * g, hidden

    def probabilities(self, columns: Tensor) -> Tensor:
        """P ``[rows, G, columns]``; of no meaning where hidden."""
        assert self.attention is not None
        assert self.attention.lse is not None
        return (self.logits(columns) - self.attention.lse[self.rows, self.heads, None]).exp()

    def logits(self, columns: Tensor) -> Tensor:
        """``scale * q.k``, soft-capped ``[rows, G, columns]``."""
        assert self.attention is not None
        assert self.query is not None
        assert self.key is not None
        logits = self.attention.scale * (self.query @ self.key[columns].T)
        cap = self.attention.softcap
        return logits if cap is None else cap * (logits / cap).tanh()

    def is_hidden(self, columns: Tensor) -> Tensor:
        """``[rows, 1, columns]`` bool."""
        return self.sample.is_hidden(self.within, columns)[:, None]


def _blocks(d_out: Tensor, value: Tensor, keys: PackedKeys, attention: Attention | None) -> Iterator[_Block]:
    """Rows of one GQA group of one sample at a time, in blocks that stay in cache."""
    H_kv, K = value.shape[1:3]
    G = d_out.shape[1] // H_kv
    dtype = accumulator(d_out)
    step = max(1, BLOCK_ELEMENTS // max(1, G * K))
    for b, (of_sample, sample) in enumerate(keys.samples()):
        count = of_sample.stop - of_sample.start
        for group in range(H_kv):
            heads = slice(group * G, (group + 1) * G)
            v = value[b, group].to(dtype)
            k = None if attention is None else attention.key[b, group].to(dtype)
            for start in range(0, count, step):
                within = slice(start, min(start + step, count))
                rows = slice(of_sample.start + within.start, of_sample.start + within.stop)
                q = None if attention is None else attention.query[rows, heads].to(dtype)
                yield _Block(b, sample, within, rows, heads, d_out[rows, heads].to(dtype), v, attention, q, k)
