"""The ops on CPUs: torch's own BLAS makes the products, one block at a time, and C++ (``csrc/``) does all the rest.

The products ``V dO^T`` (and ``K Q^T``) of some heads go into a buffer that stays in cache, and passes over it take
maxima, head weights and weighted sums. Products of few rows are made in C++ too. Besides inputs and results there are
only buffers of a constant size and the block's maps.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from .cpp_library import DTYPES, WIDTH, Block, Factors, Scores, Sums, pointer, run_block
from .cpp_parts import Part, parts_of
from .keys import PackedKeys
from .signals import SIGNALS, Attention, MapSums

MOST_ROWS = 256  # more make the product no faster
BLOCK_ELEMENTS = 1 << 21  # 8 MiB: of long prompts fewer rows are taken at once, and no product is made twice
HEADS_ELEMENTS = 1 << 19  # 2 MiB: heads whose products are no larger share one call
# Whatever the caller's default dtype and device are.
_empty = partial(torch.empty, dtype=torch.float32, device="cpu")
_zeros = partial(torch.zeros, dtype=torch.float32, device="cpu")

# Of so many pairs of row and query head of a group products are made in C++, which reads each key once, as it lies.
# At more BLAS is faster, which takes float32 alone.
FEW_PAIRS = {torch.float32: 8, torch.bfloat16: 24, torch.float16: 24}
TASKS = 16  # of a call, so that a few rows keep many cores busy; no thread count changes the order of a sum


def head_scores(
    d_out: Tensor, value: Tensor, keys: PackedKeys, signal: str, attention: Attention | None
) -> tuple[Tensor, Tensor | None]:
    """Eq. 4: see `dexar_fast.ops.head_scores`."""
    lse, scores = _new_lse(attention), _empty(3, *d_out.shape[:2])
    _run(_Layer(keys, d_out, value, attention, lse, scores={signal: scores}))
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
    sums = [MapSums(signal, signal, maps, unfiltered, token_sums)]
    weights = weights.to(torch.float32).contiguous()
    _run(_Layer(keys, d_out, value, attention, *_lse(attention), weights=weights, sums=sums))


def score_and_accumulate(
    d_out: Tensor, value: Tensor, keys: PackedKeys, attention: Attention | None, sums: Sequence[MapSums]
) -> tuple[Tensor, Tensor | None]:
    """Eq. 4 and 5 in one pass: see `dexar_fast.ops.score_and_accumulate_all`."""
    signals = dict.fromkeys(each.score_signal for each in sums)
    lse, scores = _new_lse(attention), _empty(len(signals), 3, *d_out.shape[:2])
    _run(_Layer(keys, d_out, value, attention, lse, scores=dict(zip(signals, scores, strict=True)), sums=sums))
    return scores, lse


def attention_lse(attention: Attention, keys: PackedKeys) -> Tensor:
    """Log-sum-exp of the logits of all visible keys ``(T, H)``: see `dexar_fast.ops.attention_lse`."""
    lse = _new_lse(attention)
    assert lse is not None
    _run(_Layer(keys, None, None, attention, lse))
    return lse


def attention_columns(attention: Attention, keys: PackedKeys) -> Tensor:
    """Softmax probabilities of the image keys: see `dexar_fast.ops.attention_columns`."""
    shape = (*attention.query.shape[:2], keys.image.shape[1])
    columns = attention.query.new_zeros(shape, dtype=torch.float32)
    _run(_Layer(keys, None, None, attention, *_lse(attention), columns=columns))
    return columns


def _new_lse(attention: Attention | None) -> Tensor | None:
    return None if attention is None else _empty(attention.query.shape[:2])


def _lse(attention: Attention | None) -> tuple[Tensor | None, bool]:
    """That of the caller, or a new one; and whether it is known."""
    if attention is None or attention.lse is None:
        return _new_lse(attention), False
    return attention.lse.to(torch.float32).contiguous(), True


@dataclass(frozen=True)
class _Layer:
    """Every op: what is None or empty is not needed, or not wanted.

    Attributes:
        keys, d_out, value, attention: as for the ops.
        lse: ``(T, H)`` float32; is written unless `lse_is_known`.
        weights: ``(T, H)`` float32, contiguous; None takes those that follow from the scores.
        scores: of each signal ``(3, T, H)``, are written.
        sums: are added to.
        columns: ``(T, H, N)``, written where a row sees a key.
    """

    keys: PackedKeys
    d_out: Tensor | None
    value: Tensor | None
    attention: Attention | None
    lse: Tensor | None
    lse_is_known: bool = False
    weights: Tensor | None = None
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    sums: Sequence[MapSums] = ()
    columns: Tensor | None = None

    @cached_property
    def signals(self) -> set[str]:
        """All that are read off."""
        return {*self.scores, *(each.map_signal for each in self.sums)}

    @cached_property
    def per_row(self) -> Tensor:
        """``(T, H, _)``; attention or gradient is always there."""
        tensor = self.d_out if self.attention is None else self.attention.query
        assert tensor is not None
        return tensor

    @cached_property
    def per_key(self) -> Tensor:
        """``(B, H_kv, K, _)``."""
        tensor = self.value if self.attention is None else self.attention.key
        assert tensor is not None
        return tensor

    @cached_property
    def H(self) -> int:
        return self.per_row.shape[1]

    @cached_property
    def group(self) -> int:
        """Query heads of a key/value head."""
        return self.H // self.per_key.shape[1]


def _run(layer: _Layer) -> None:
    if layer.signals <= {"attention"}:
        layer = replace(layer, d_out=None, value=None)
    n_keys, most = layer.keys.kinds.shape[1], max(layer.keys.rows, default=0)
    is_few = most * layer.group <= FEW_PAIRS[layer.per_row.dtype]
    columns = n_keys * (_padded(layer.H) if is_few else 1)
    for part in parts_of(layer.keys, max(1, min(MOST_ROWS, BLOCK_ELEMENTS // max(1, columns)))):
        if is_few:
            _run_few(layer, part)
        else:
            _run_many(layer, part)


def _run_few(layer: _Layer, part: Part) -> None:
    """All heads at once, which are the lanes; products are made in C++."""
    lanes = _padded(layer.H)
    share = _Share(layer, part, (lanes // WIDTH, part.n_rows, part.n_image))
    block = share.block(range(layer.H))
    block.heads_are_lanes, block.members = True, 1
    columns = None if layer.columns is None else _zeros(part.n_rows, layer.H, part.n_image)
    block.columns = pointer(columns)
    kept = []  # what the block points to
    for given, product, rows, keys, scale in _factors(layer):
        rows, keys = rows[part.rows].to(torch.float32).contiguous(), keys[part.sample, :, part.keys]
        keys = keys if keys.stride(2) == 1 else keys.contiguous()
        block.n_key_heads = keys.shape[0]  # values and keys may be of different widths
        factors = Factors(pointer(rows), pointer(keys), *keys.stride()[:2], keys.shape[2], DTYPES[keys.dtype], scale)
        out = _empty(max(1, part.n_rows * part.n_keys * lanes))
        kept += [rows, keys, out]
        setattr(block, given, ctypes.pointer(factors))
        setattr(block, product, pointer(out))
    run_block(block, torch.get_num_threads())
    if columns is not None and layer.columns is not None:
        layer.columns[part.rows, :, part.image] = columns
    share.add(lambda maps: maps)


def _run_many(layer: _Layer, part: Part) -> None:
    """Some heads after the others; their rows are the lanes."""
    lanes = _padded(part.n_rows)
    chunks = max(1, TASKS // max(1, lanes // WIDTH))
    share = _Share(layer, part, (chunks, part.n_image, lanes))
    for heads, key_heads, products in _products(layer, part, lanes):
        columns = None if layer.columns is None else _zeros(len(heads), part.n_image, lanes)
        block = share.block(heads)
        block.members, block.n_chunks = len(heads) // len(key_heads), min(chunks, len(heads))
        block.gradient, block.logits, block.columns = (pointer(each) for each in (*products, columns))
        run_block(block, torch.get_num_threads())
        if columns is not None and layer.columns is not None:
            of_heads = columns[..., : part.n_rows].permute(2, 0, 1)
            layer.columns[part.rows, heads.start : heads.stop, part.image] = of_heads
    share.add(lambda maps: maps[:, : part.n_rows].T)


class _Share:
    """What a part of the rows adds to the whole.

    Args:
        shape: of the maps as the kernels lay them out, chunks first: these are added up in a fixed order.
    """

    def __init__(self, layer: _Layer, part: Part, shape: tuple[int, ...]) -> None:
        self.layer, self.part = layer, part
        self.maps = [_zeros(shape) for _ in layer.sums]
        self.unfiltered = [None if each.unfiltered is None else _zeros(shape) for each in layer.sums]
        self.token_sums = [None if each.token_sums is None else _zeros(layer.H, part.n_image) for each in layer.sums]
        self.d_dot_out = None
        if "score_gradient" in layer.signals and layer.d_out is not None and layer.attention is not None:
            d_out, out = (x[part.rows].to(torch.float32) for x in (layer.d_out, layer.attention.out))
            self.d_dot_out = torch.linalg.vecdot(d_out, out)

    def block(self, heads: range) -> Block:
        """What is the same for few rows and for many."""
        layer, part = self.layer, self.part
        first = part.rows.start * layer.H + heads.start  # of what is (T, H)
        sums = [
            Sums(
                pointer(layer.weights, first),
                pointer(maps),
                pointer(unfiltered),
                pointer(token_sums, heads.start * part.n_image),
                SIGNALS.index(each.score_signal),
                SIGNALS.index(each.map_signal),
            )
            for each, maps, unfiltered, token_sums in zip(
                layer.sums, self.maps, self.unfiltered, self.token_sums, strict=True
            )
        ]
        block = Block(
            n_rows=part.n_rows,
            n_heads=len(heads),
            n_keys=part.n_keys,
            first_key=part.keys.start,
            n_image_keys=part.n_image,
            head_stride=layer.H,
            kinds=pointer(part.kinds),
            visible=pointer(part.visible),
            d_dot_out=pointer(self.d_dot_out, heads.start),
            lse=pointer(layer.lse, first),
            sums=(Sums * len(sums))(*sums),
            n_sums=len(sums),
            softcap=0.0 if layer.attention is None else layer.attention.softcap or 0.0,
            lse_is_known=layer.lse_is_known,
        )
        for signal, scores in layer.scores.items():
            block.scores[SIGNALS.index(signal)] = Scores(*(pointer(each, first) for each in scores))
        return block

    def add(self, as_rows: Callable[[Tensor], Tensor]) -> None:
        """Add to the whole; `as_rows` makes ``(n_rows, n_image)`` of the kernels' maps."""
        part = self.part
        for each, maps, unfiltered, token_sums in zip(
            self.layer.sums, self.maps, self.unfiltered, self.token_sums, strict=True
        ):
            each.maps[part.rows, part.image] += as_rows(maps.sum(dim=0))
            if each.unfiltered is not None and unfiltered is not None:
                each.unfiltered[part.rows, part.image] += as_rows(unfiltered.sum(dim=0))
            if each.token_sums is not None and token_sums is not None:
                each.token_sums[part.sample, :, part.image] += token_sums


def _factors(layer: _Layer) -> Iterator[tuple[str, str, Tensor, Tensor, float]]:
    """Of each product its fields of `Block`, rows, keys and scale."""
    if layer.d_out is not None and layer.value is not None:
        yield "value", "gradient", layer.d_out, layer.value, 1.0
    if layer.attention is not None:
        yield "key", "logits", layer.attention.query, layer.attention.key, layer.attention.scale


def _products(layer: _Layer, part: Part, lanes: int) -> Iterator[tuple[range, range, list[Tensor | None]]]:
    """Panels of ``V dO^T`` and ``scale * K Q^T`` of some heads after the other, each in the last one's place."""
    panel = part.n_keys * lanes
    widened = part.n_keys * layer.per_key.shape[3] // layer.group if layer.per_key.dtype != torch.float32 else 0
    calls = list(_heads_at_once(layer.H, layer.per_key.shape[1], HEADS_ELEMENTS // max(1, panel, widened)))
    most = max(len(heads) for heads, _ in calls)
    # Never empty, since a null pointer means that there is no such product.
    buffers = {product: _empty(max(1, most * panel)) for _, product, *_ in _factors(layer)}
    wide: dict[str, Tensor] = {}  # keys in float32
    last = None
    for heads, key_heads in calls:
        for _, product, rows, keys, scale in _factors(layer):
            if key_heads != last:
                wide[product] = keys[part.sample, key_heads.start : key_heads.stop, part.keys].to(torch.float32)
            of_rows = rows[part.rows, heads.start : heads.stop].to(torch.float32).transpose(0, 1)  # [heads, n_rows, D]
            padded = torch.nn.functional.pad(of_rows, (0, 0, 0, lanes - part.n_rows))
            side_by_side = padded.reshape(len(key_heads), -1, rows.shape[2])  # [key heads, members * lanes, D]
            out = buffers[product][: len(heads) * panel].view(len(key_heads), part.n_keys, -1)
            torch.baddbmm(out, wide[product], side_by_side.mT, beta=0, alpha=scale, out=out)
        last = key_heads
        yield heads, key_heads, [buffers.get("gradient"), buffers.get("logits")]


def _heads_at_once(n_heads: int, n_key_heads: int, at_once: int) -> Iterator[tuple[range, range]]:
    """Query heads whose products are made together, with their key heads: whole groups, or a part of one."""
    group = n_heads // n_key_heads
    width = n_heads if at_once >= group else group
    step = at_once // group * group if at_once >= group else max(1, at_once)
    for start in range(0, n_heads, width):
        for first in range(start, start + width, step):
            heads = range(first, min(first + step, start + width))
            yield heads, range(heads.start // group, (heads.stop - 1) // group + 1)


def _padded(lanes: int) -> int:
    return -(-lanes // WIDTH) * WIDTH
