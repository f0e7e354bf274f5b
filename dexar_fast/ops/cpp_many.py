"""Many rows on CPUs: some heads after the others; their rows are the lanes, and torch's BLAS makes the products."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .cpp_layer import Layer, block_of, d_dot_out, empty, padded, point, zeros
from .cpp_library import WIDTH, Sums, matrix, pointer, run_block
from .cpp_parts import Part
from .signals import SIGNALS

HEADS_ELEMENTS = 1 << 19  # 2 MiB: heads whose products are no larger share one call
TASKS = 16  # of a call, so that a few rows keep many cores busy; no thread count changes the order of a sum


def run(layer: Layer, part: Part) -> None:
    """Everything that is asked of these rows."""
    lanes = padded(part.n_rows)
    chunks = max(1, TASKS // max(1, lanes // WIDTH))
    # As the kernels lay maps out, chunks first: these are added up in a fixed order.
    shape = (chunks, part.n_image, lanes)
    maps = [zeros(shape) for _ in layer.sums]
    unfiltered = [None if each.unfiltered is None else zeros(shape) for each in layer.sums]
    d = d_dot_out(layer, part)
    for heads, key_heads, products in _products(layer, part, lanes):
        sums = [
            Sums(
                weights=pointer(layer.weights, part.rows.start * layer.H + heads.start),
                panels=pointer(of_maps),
                unfiltered_panels=pointer(of_unfiltered),
                token_sums=matrix(
                    None if each.token_sums is None else each.token_sums[part.sample], heads.start, part.image.start
                ),
                score_signal=SIGNALS.index(each.score_signal),
                map_signal=SIGNALS.index(each.map_signal),
            )
            for each, of_maps, of_unfiltered in zip(layer.sums, maps, unfiltered, strict=True)
        ]
        block = block_of(part, len(heads), layer.H, layer.softcap, layer.lse_is_known)
        point(block, layer, part, heads.start, d)
        block.sums, block.n_sums = (Sums * len(sums))(*sums), len(sums)
        block.members, block.n_chunks = len(heads) // len(key_heads), min(chunks, len(heads))
        block.gradient, block.logits = (pointer(each) for each in products)
        run_block(block)
    for each, of_maps, of_unfiltered in zip(layer.sums, maps, unfiltered, strict=True):
        _add(each.maps, of_maps, part)
        if each.unfiltered is not None and of_unfiltered is not None:
            _add(each.unfiltered, of_unfiltered, part)


def _add(whole: Tensor, of_chunks: Tensor, part: Part) -> None:
    whole[part.rows, part.image] += of_chunks.sum(dim=0)[:, : part.n_rows].T


def _factors(layer: Layer) -> Iterator[tuple[str, Tensor, Tensor, float]]:
    """Of each product its field of `Block`, rows, keys and scale."""
    if layer.d_out is not None and layer.value is not None:
        yield "gradient", layer.d_out, layer.value, 1.0
    if layer.attention is not None:
        yield "logits", layer.attention.query, layer.attention.key, layer.attention.scale


def _products(layer: Layer, part: Part, lanes: int) -> Iterator[tuple[range, range, list[Tensor | None]]]:
    """Panels of ``V dO^T`` and ``scale * K Q^T`` of some heads after the other, each in the last one's place."""
    panel = part.n_keys * lanes
    widened = part.n_keys * layer.per_key.shape[3] // layer.group if layer.per_key.dtype != torch.float32 else 0
    calls = list(_heads_at_once(layer.H, layer.per_key.shape[1], HEADS_ELEMENTS // max(1, panel, widened)))
    most = max(len(heads) for heads, _ in calls)
    # Never empty, since a null pointer means that there is no such product.
    buffers = {product: empty(max(1, most * panel)) for product, *_ in _factors(layer)}
    wide: dict[str, Tensor] = {}  # keys in float32
    last = None
    for heads, key_heads in calls:
        for product, rows, keys, scale in _factors(layer):
            if key_heads != last:
                wide[product] = keys[part.sample, key_heads.start : key_heads.stop, part.keys].to(torch.float32)
            of_rows = rows[part.rows, heads.start : heads.stop].to(torch.float32).transpose(0, 1)  # [heads, n_rows, D]
            of_rows = torch.nn.functional.pad(of_rows, (0, 0, 0, lanes - part.n_rows))
            side_by_side = of_rows.reshape(len(key_heads), -1, rows.shape[2])  # [key heads, members * lanes, D]
            out = buffers[product][: len(heads) * panel].view(len(key_heads), part.n_keys, side_by_side.shape[1])
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
