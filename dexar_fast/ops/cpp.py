"""The ops on CPUs: torch's own BLAS makes the products, one block at a time, and C++ (``csrc/``) does all the rest.

For each head and block of rows the product ``V dO^T`` (and ``K Q^T``) goes into a buffer that stays in cache, and one
pass over it takes maxima, head weight and weighted sum; of few rows several heads go together. Besides inputs and
results there are only buffers of a constant size and the block's maps ``(N, rows)``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .cpp_library import Block, run_block
from .keys import IMAGE, PackedKeys
from .signals import SIGNALS, Attention, HeadScores

MOST_ROWS = 256  # more make the product no faster
BLOCK_ELEMENTS = 1 << 21  # 8 MiB: of long prompts fewer rows are taken at once, and no product is made twice
HEADS_ELEMENTS = 1 << 17  # 512 KiB: heads whose products are no larger share one call


def head_scores(d_out: Tensor, value: Tensor, keys: PackedKeys, signal: str, attention: Attention | None) -> HeadScores:
    """Eq. 4: see `dexar_fast.ops.head_scores`."""
    scores = _new_scores(d_out, attention)
    _run(keys, d_out, value, attention, (signal, signal), scores=scores)
    return scores


def accumulate_maps(
    d_out: Tensor,
    value: Tensor,
    weights: Tensor,
    keys: PackedKeys,
    signal: str,
    attention: Attention | None,
    maps: Tensor,
    unfiltered: Tensor | None,
) -> None:
    """Eq. 5, one layer's share, added in place: see `dexar_fast.ops.accumulate_maps`."""
    weights = weights.to(torch.float32).contiguous()
    _run(keys, d_out, value, attention, (signal, signal), weights=weights, sums=(maps, unfiltered))


def score_and_accumulate(
    d_out: Tensor,
    value: Tensor,
    keys: PackedKeys,
    score_signal: str,
    map_signal: str,
    attention: Attention | None,
    maps: Tensor,
    unfiltered: Tensor | None,
) -> HeadScores:
    """Eq. 4 and 5 in one pass: see `dexar_fast.ops.score_and_accumulate`."""
    scores = _new_scores(d_out, attention)
    signals = (score_signal, map_signal)
    _run(keys, d_out, value, attention, signals, scores=scores, sums=(maps, unfiltered))
    return scores


def attention_lse(attention: Attention, keys: PackedKeys) -> Tensor:
    """Log-sum-exp of the logits of all visible keys ``(T, H)``: see `dexar_fast.ops.attention_lse`."""
    lse = attention.query.new_empty(attention.query.shape[:2], dtype=torch.float32)
    _run(keys, None, None, attention, ("attention", "attention"), lse=lse)
    return lse


def attention_columns(attention: Attention, keys: PackedKeys) -> Tensor:
    """Softmax probabilities of the image keys: see `dexar_fast.ops.attention_columns`."""
    shape = (*attention.query.shape[:2], keys.image.shape[1])
    columns = attention.query.new_zeros(shape, dtype=torch.float32)
    _run(keys, None, None, attention, ("attention", "attention"), columns=columns)
    return columns


def _new_scores(d_out: Tensor, attention: Attention | None) -> HeadScores:
    return HeadScores(*(d_out.new_empty(d_out.shape[:2], dtype=torch.float32) for _ in range(4 if attention else 3)))


def _run(
    keys: PackedKeys,
    d_out: Tensor | None,
    value: Tensor | None,
    attention: Attention | None,
    signals: tuple[str, str],
    *,
    scores: HeadScores | None = None,
    weights: Tensor | None = None,
    lse: Tensor | None = None,
    sums: tuple[Tensor | None, Tensor | None] = (None, None),
    columns: Tensor | None = None,
) -> None:
    """Every op: what is None is not needed, or not wanted.

    Args:
        keys, d_out, value, attention: as for the ops.
        signals: of the scores and of the maps.
        scores: is written, its log-sum-exp too.
        weights: ``(T, H)`` float32, contiguous; None takes those that follow from the scores.
        lse: is written.
        sums: `maps` and `unfiltered`, each added to.
        columns: ``(T, H, N)``, written where a row sees a key.
    """
    if signals == ("attention", "attention"):
        d_out = value = None
    per_head = {"weights": weights, "lse": lse}  # each (T, H)
    if scores is not None:
        per_head |= {"image": scores.image, "text": scores.text, "image_min": scores.image_min, "lse": scores.lse}
    lse_is_known = False
    if attention is not None and per_head["lse"] is None:
        lse_is_known = attention.lse is not None
        new = attention.query.new_empty(attention.query.shape[:2], dtype=torch.float32)
        per_head["lse"] = new if attention.lse is None else attention.lse.to(torch.float32).contiguous()
    H = _per_row_and_key(d_out, value, attention)[0].shape[1]
    for part in _parts(keys):
        maps, unfiltered = (None if x is None else _zeros(part.n_image, part.n_rows) for x in sums)
        block = Block(
            n_rows=part.n_rows,
            n_keys=part.n_keys,
            first_key=part.keys.start,
            kinds=part.kinds.data_ptr(),
            visible=part.visible.data_ptr(),
            maps=_pointer(maps),
            unfiltered=_pointer(unfiltered),
            head_stride=H,
            n_image_keys=part.n_image,
            lse_is_known=lse_is_known,
            score_signal=SIGNALS.index(signals[0]),
            map_signal=SIGNALS.index(signals[1]),
        )
        for heads, products in _products(part, d_out, value, attention):
            of_heads = None if columns is None else _zeros(len(heads), part.n_image, part.n_rows)
            block.n_heads, block.columns = len(heads), _pointer(of_heads)
            block.gradient, block.logits, block.d_dot_out = (_pointer(product) for product in products)
            for name, tensor in per_head.items():
                if tensor is not None:
                    setattr(block, name, tensor.data_ptr() + 4 * (part.rows.start * H + heads.start))
            run_block(block, torch.get_num_threads())
            if columns is not None and of_heads is not None:
                columns[part.rows, heads.start : heads.stop, part.image] = of_heads.permute(2, 0, 1)
        for total, of_part in zip(sums, (maps, unfiltered), strict=True):
            if total is not None and of_part is not None:
                total[part.rows, part.image] += of_part.T


@dataclass(frozen=True)
class _Part:
    """Rows of one sample that run at once.

    Attributes:
        sample: its index.
        rows: which, in the whole call.
        keys: from the first to the last that any of the rows sees; `kinds` ``(n_keys,)`` says what they are.
        image: the image keys among them, as columns of a map.
        visible: ``(n_rows, 2)``.
    """

    sample: int
    rows: slice
    keys: slice
    image: slice
    kinds: Tensor
    visible: Tensor

    @property
    def n_rows(self) -> int:
        return len(self.visible)

    @property
    def n_keys(self) -> int:
        return len(self.kinds)

    @property
    def n_image(self) -> int:
        return int(self.image.stop - self.image.start)


def _parts(keys: PackedKeys) -> Iterator[_Part]:
    step = max(1, min(MOST_ROWS, BLOCK_ELEMENTS // max(1, keys.kinds.shape[1])))
    for b, (of_sample, sample) in enumerate(keys.samples()):
        kinds = sample.kinds.contiguous()
        for start in range(of_sample.start, of_sample.stop, step):
            rows = slice(start, min(start + step, of_sample.stop))
            visible = keys.visible[rows].clamp(0, len(kinds)).contiguous()
            bounds = visible[:, 0].amin(), torch.maximum(visible[:, 0].amin(), visible[:, 1].amax())
            seen = slice(*(int(bound) for bound in bounds))
            first = int((kinds[: seen.start] == IMAGE).sum())
            image = slice(first, first + int((kinds[seen] == IMAGE).sum()))
            yield _Part(b, rows, seen, image, kinds[seen], visible)


def _products(
    part: _Part, d_out: Tensor | None, value: Tensor | None, attention: Attention | None
) -> Iterator[tuple[range, tuple[Tensor | None, Tensor | None, Tensor | None]]]:
    """``V dO^T``, ``scale * K Q^T`` and ``<dO, o>`` of some heads after the other, each in the last one's place."""
    per_row, per_key = _per_row_and_key(d_out, value, attention)
    shape = part.n_keys, part.n_rows
    at_once = HEADS_ELEMENTS // max(1, math.prod(shape))
    groups = list(_heads_at_once(per_row.shape[1], per_key.shape[1], at_once))
    most = max(len(heads) for heads, _ in groups)

    def buffer() -> Tensor:
        # Never empty, since a null pointer means that there is no such product.
        return torch.empty(max(1, most * math.prod(shape)), dtype=torch.float32, device="cpu")

    def of_keys(tensor: Tensor, key_heads: range) -> Tensor:  # [1 or heads, n_keys, D]
        return tensor[part.sample, key_heads.start : key_heads.stop, part.keys].to(torch.float32)

    def of_rows(tensor: Tensor, heads: range) -> Tensor:  # [heads, n_rows, D]
        return tensor[part.rows, heads.start : heads.stop].to(torch.float32).transpose(0, 1)

    gradients, logits = (None if given is None else buffer() for given in (d_out, attention))
    last = None
    for heads, key_heads in groups:
        d_dot_out = None
        size = len(heads), *shape
        if key_heads != last:
            v = None if value is None else of_keys(value, key_heads)
            k = None if attention is None else of_keys(attention.key, key_heads)
            last = key_heads
        if v is not None and d_out is not None and gradients is not None:
            d = of_rows(d_out, heads)
            _product(v, d, 1.0, gradients[: math.prod(size)].view(size))
        if k is not None and attention is not None and logits is not None:
            out = logits[: math.prod(size)].view(size)
            _product(k, of_rows(attention.query, heads), attention.scale, out)
            if attention.softcap is not None:
                out.div_(attention.softcap).tanh_().mul_(attention.softcap)
            if d_out is not None:
                d_dot_out = torch.linalg.vecdot(d, of_rows(attention.out, heads)).contiguous()
        yield heads, (gradients, logits, d_dot_out)


def _heads_at_once(n_heads: int, n_key_heads: int, at_once: int) -> Iterator[tuple[range, range]]:
    """Query heads whose products are made together, with their key heads: as many of these, or one for all."""
    group = n_heads // n_key_heads
    width = n_heads if group == 1 else group
    step = min(max(1, at_once), width)
    for start in range(0, n_heads, width):
        for first in range(start, start + width, step):
            heads = range(first, min(first + step, start + width))
            yield heads, heads if group == 1 else range(first // group, first // group + 1)


def _product(of_keys: Tensor, of_rows: Tensor, scale: float, out: Tensor) -> None:
    """``scale * of_keys of_rows^T`` of each head."""
    torch.baddbmm(out, of_keys.expand(len(out), -1, -1), of_rows.mT, beta=0, alpha=scale, out=out)


def _per_row_and_key(d_out: Tensor | None, value: Tensor | None, attention: Attention | None) -> tuple[Tensor, Tensor]:
    """A tensor ``(T, H, ...)`` and one ``(B, H_kv, K, ...)``; attention or gradient is always there."""
    if attention is not None:
        return attention.query, attention.key
    assert d_out is not None
    assert value is not None
    return d_out, value


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _zeros(*shape: int) -> Tensor:
    """What the kernels add to, whatever the caller's default dtype and device are."""
    return torch.zeros(shape, dtype=torch.float32, device="cpu")
