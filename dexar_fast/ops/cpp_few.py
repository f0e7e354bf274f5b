"""Few rows on CPUs: all heads at once, which are the lanes; products are made in C++, which reads each key as it lies.

For one row the kernel takes no longer than Python takes for some tensors. So here are none but one for everything that
the kernel writes in between, and it adds to the caller's maps itself. And since the layers of a model differ in
addresses alone, the rest is described to the kernel once.
"""

from __future__ import annotations

from functools import lru_cache
from operator import mul
from typing import NamedTuple

import torch
from torch import Tensor

from .cpp_layer import WORD, Layer, block_of, d_dot_out, empty, padded, point
from .cpp_library import DTYPES, Block, Factors, Matrix, Sums, pointer, run_block
from .cpp_parts import Part
from .signals import SIGNALS

KEPT = 64  # descriptions

Strides = tuple[int, ...] | None


class _Factors(NamedTuple):
    """A product of rows ``(T, H, D)`` float32 and keys ``(H_kv, K, D)``, by their addresses, and what layers share."""

    rows: int
    keys: int
    form: tuple[int, int, int, int, int, float]  # heads of the keys; then as `Factors`
    held: tuple[Tensor, Tensor]  # what the addresses are of


class _Form(NamedTuple):
    """What layers have in common. Of each of the sums its signals, and the strides of its tensors."""

    part: Part
    n_heads: int
    value: tuple[int, int, int, int, int, float] | None
    key: tuple[int, int, int, int, int, float] | None
    sums: tuple[tuple[str, str, Strides, Strides, Strides], ...]
    softcap: float | None
    lse_is_known: bool


def run(layer: Layer, part: Part) -> None:
    """Everything that is asked of these rows."""
    H, attention = layer.H, layer.attention
    value = key = None
    if layer.d_out is not None and layer.value is not None:
        value = _factors(layer.d_out, layer.value, 1.0, part)
    if attention is not None:
        key = _factors(attention.query, attention.key, attention.scale, part)
    form = _Form(
        part,
        H,
        value and value.form,
        key and key.form,
        tuple(
            (
                each.score_signal,
                each.map_signal,
                each.maps.stride(),
                None if each.unfiltered is None else each.unfiltered.stride(),
                None if each.token_sums is None else each.token_sums.stride(),
            )
            for each in layer.sums
        ),
        None if attention is None else attention.softcap,
        layer.lse_is_known,
    )
    described, described_sums = _describe(form)
    block = Block.from_buffer_copy(described)
    sums = (Sums * len(layer.sums)).from_buffer_copy(described_sums)

    lanes, rows, column = padded(H), part.rows.start, part.image.start
    panels, weights = part.n_rows * part.n_keys * lanes, part.n_rows * lanes
    products = (value is not None) + (key is not None)
    # The gradients, the logits, and the head weights of each of the sums.
    # Never empty, since a null pointer means that there is no such product.
    scratch = empty(max(1, products * panels + weights * len(layer.sums)))
    free = scratch.data_ptr()
    if value is not None:
        block.gradient, free = free, free + panels * WORD
        block.value.rows, block.value.keys = value.rows, value.keys
    if key is not None:
        block.logits, free = free, free + panels * WORD
        block.key.rows, block.key.keys = key.rows, key.keys
    for of, each, (_, _, *strides) in zip(sums, layer.sums, form.sums, strict=True):
        of.weights = pointer(layer.weights, rows * H)
        of.lane_weights, free = free, free + weights * WORD
        of.maps.data = _address(each.maps, strides[0], rows, column)
        of.unfiltered.data = _address(each.unfiltered, strides[1], rows, column)
        of.token_sums.data = _address(each.token_sums, strides[2], part.sample, 0, column)
    block.sums = sums
    d = d_dot_out(layer, part)
    point(block, layer, part, 0, d)
    run_block(block)


@lru_cache(maxsize=KEPT)
def _describe(form: _Form) -> tuple[bytes, bytes]:
    """`Block` and its `Sums`, without addresses of what is a layer's own."""
    block = block_of(form.part, form.n_heads, form.n_heads, form.softcap, form.lse_is_known)
    block.heads_are_lanes, block.members, block.n_sums = True, 1, len(form.sums)
    for name, factors in (("value", form.value), ("key", form.key)):
        if factors is not None:
            block.n_key_heads = factors[0]
            setattr(block, name, Factors(None, None, *factors[1:]))
    sums = (Sums * len(form.sums))()
    for of, (score_signal, map_signal, *strides) in zip(sums, form.sums, strict=True):
        of.score_signal, of.map_signal = SIGNALS.index(score_signal), SIGNALS.index(map_signal)
        of.maps, of.unfiltered, of.token_sums = (
            Matrix() if each is None else Matrix(None, *each[-2:]) for each in strides
        )
    return bytes(block), bytes(sums)


def _address(tensor: Tensor | None, strides: Strides, *index: int) -> int | None:
    if tensor is None or strides is None:
        return None
    return pointer(tensor, sum(map(mul, strides, index)))


def _factors(rows: Tensor, keys: Tensor, scale: float, part: Part) -> _Factors:
    """Of one product. The part's own are copied, if any."""
    first_row, sample = part.rows.start, part.sample
    if rows.dtype != torch.float32 or not rows.is_contiguous():
        rows, first_row = rows[part.rows].to(torch.float32).contiguous(), 0
    if keys.stride(3) != 1:
        keys, sample = keys[sample : sample + 1].contiguous(), 0
    _, n_heads, _, depth = keys.shape
    sample_stride, head_stride, key_stride, _ = keys.stride()
    return _Factors(
        rows.data_ptr() + first_row * rows.stride(0) * WORD,
        keys.data_ptr() + (sample * sample_stride + part.keys.start * key_stride) * keys.itemsize,
        (n_heads, head_stride, key_stride, depth, DTYPES[keys.dtype], scale),
        (rows, keys),
    )
