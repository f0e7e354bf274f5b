"""Few rows on CPUs: all heads at once, which are the lanes; products are made in C++, which reads each key as it lies.

For one row the kernel takes no longer than Python takes for some tensors. So here are none but one for everything that
the kernel writes in between, and it adds to the caller's maps itself. And since the layers of a model differ in
addresses alone, the rest is described to the kernel once.
"""

from __future__ import annotations

from operator import mul
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .cpp_layer import WORD, Layer, block_of, d_dot_out, empty, padded, point
from .cpp_library import DTYPES, Block, Factors, Matrix, Sums, pointer, run_block
from .cpp_parts import Part
from .signals import SIGNALS

ProductForm = tuple[int, int, int, int, int, float]
"""Heads of the keys; then the fields of `Factors` behind its addresses."""
Strides = tuple[int, ...] | None


class _Product(NamedTuple):
    """Of rows ``(T, H, D)`` float32 and keys ``(H_kv, K, D)``."""

    rows: int  # addresses
    keys: int
    form: ProductForm
    held: tuple[Tensor, Tensor]  # what the addresses are of


class _Form(NamedTuple):
    """What layers have in common. Of each of the sums its signals, and the strides of its tensors."""

    n_heads: int
    value: ProductForm | None
    key: ProductForm | None
    sums: tuple[tuple[str, str, Strides, Strides, Strides], ...]
    softcap: float | None
    lse_is_known: bool


def run(layer: Layer, part: Part) -> None:
    """Everything that is asked of these rows."""
    H, attention = layer.H, layer.attention
    value = key = None
    if layer.d_out is not None and layer.value is not None:
        value = _product(layer.d_out, layer.value, 1.0, part)
    if attention is not None:
        key = _product(attention.query, attention.key, attention.scale, part)
    form = _Form(
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
        layer.softcap,
        layer.lse_is_known,
    )
    described = part.described.get(form)
    if described is None:
        described = part.described[form] = _describe(form, part)
    block = Block.from_buffer_copy(described[0])
    sums = (Sums * len(layer.sums)).from_buffer_copy(described[1])

    lanes, first, column = padded(H), part.rows.start, part.image.start
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
    for of, each in zip(sums, layer.sums, strict=True):
        of.weights = pointer(layer.weights, first * H)
        of.lane_weights, free = free, free + weights * WORD
        of.maps.data = _address(each.maps, first, column)
        of.unfiltered.data = _address(each.unfiltered, first, column)
        of.token_sums.data = _address(each.token_sums, part.sample, 0, column)
    block.sums = sums
    d = d_dot_out(layer, part)  # is held until the kernel has read it
    point(block, layer, part, 0, d)
    run_block(block)


def _describe(form: _Form, part: Part) -> tuple[Block, Any]:
    """`Block`, and its `Sums`, without what is a layer's own: addresses."""
    block = block_of(part, form.n_heads, form.n_heads, form.softcap, form.lse_is_known)
    block.heads_are_lanes, block.members, block.n_sums = True, 1, len(form.sums)
    for name, product in (("value", form.value), ("key", form.key)):
        if product is not None:
            block.n_key_heads = product[0]
            setattr(block, name, Factors(None, None, *product[1:]))
    sums = (Sums * len(form.sums))()
    for of, (score_signal, map_signal, *strides) in zip(sums, form.sums, strict=True):
        of.score_signal, of.map_signal = SIGNALS.index(score_signal), SIGNALS.index(map_signal)
        of.maps, of.unfiltered, of.token_sums = (
            Matrix() if each is None else Matrix(None, *each[-2:]) for each in strides
        )
    return block, sums


def _address(tensor: Tensor | None, *index: int) -> int | None:
    return None if tensor is None else pointer(tensor, sum(map(mul, tensor.stride(), index)))


def _product(rows: Tensor, keys: Tensor, scale: float, part: Part) -> _Product:
    """Rows that are not contiguous float32, and keys whose last stride is not 1, are copied: the part's alone."""
    first, sample = part.rows.start, part.sample
    if rows.dtype != torch.float32 or not rows.is_contiguous():
        rows, first = rows[part.rows].to(torch.float32).contiguous(), 0
    if keys.stride(3) != 1:
        keys, sample = keys[sample : sample + 1].contiguous(), 0
    _, n_heads, _, depth = keys.shape
    sample_stride, head_stride, key_stride, _ = keys.stride()
    return _Product(
        rows.data_ptr() + first * rows.stride(0) * WORD,
        keys.data_ptr() + (sample * sample_stride + part.keys.start * key_stride) * keys.itemsize,
        (n_heads, head_stride, key_stride, depth, DTYPES[keys.dtype], scale),
        (rows, keys),
    )
