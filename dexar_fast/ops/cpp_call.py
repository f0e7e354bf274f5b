"""A layer and some rows as the C++ kernels take them.

For one row the kernel takes no longer than Python takes for some tensors. So nothing is copied that the kernel can read
or add to as it lies. And since the layers of a model differ in addresses alone, the rest is described once.
"""

from __future__ import annotations

from operator import mul
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .cpp_layer import WORD, Layer, d_dot_out
from .cpp_library import DTYPES, Block, Factors, Matrix, Scores, Sums, pointer
from .cpp_parts import Part
from .signals import SIGNALS

ProductForm = tuple[int | float, ...]
"""Heads of the keys; then the fields of `Factors` behind its addresses."""
Strides = tuple[int, ...] | None


class Call(NamedTuple):
    """What the kernels are told; they need room besides.

    Attributes:
        sums: an array of `Sums`, which `block` points to.
        held: tensors that `block` points to, to be kept until the kernels have run.
    """

    block: Block
    sums: Any
    held: tuple[Tensor | None, ...]


class _Product(NamedTuple):
    """Of rows ``(T, H, D)`` and keys ``(H_kv, K, D)``."""

    rows: int  # addresses
    keys: int
    form: ProductForm
    held: tuple[Tensor, Tensor]  # what the addresses are of


class _Form(NamedTuple):
    """What layers have in common. Of each of the sums its signals, and the strides of its tensors."""

    n_heads: int
    heads_are_lanes: bool
    value: ProductForm | None
    key: ProductForm | None
    sums: tuple[tuple[str, str, Strides, Strides, Strides], ...]
    softcap: float | None
    lse_is_known: bool


def call_of(layer: Layer, part: Part, *, heads_are_lanes: bool) -> Call:
    """Everything that is asked of these rows."""
    attention = layer.attention
    value = key = None
    if layer.d_out is not None and layer.value is not None:
        value = _product(layer.d_out, layer.value, 1.0, part, heads_are_lanes)
    if attention is not None:
        key = _product(attention.query, attention.key, attention.scale, part, heads_are_lanes)
    form = _Form(
        layer.H,
        heads_are_lanes,
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

    first, column = part.rows.start, part.image.start
    if value is not None:
        block.value.rows, block.value.keys = value.rows, value.keys
    if key is not None:
        block.key.rows, block.key.keys = key.rows, key.keys
    for of, each in zip(sums, layer.sums, strict=True):
        of.weights = pointer(layer.weights, first * layer.H)
        of.maps.data = _address(each.maps, first, column)
        of.unfiltered.data = _address(each.unfiltered, first, column)
        of.token_sums.data = _address(each.token_sums, part.sample, 0, column)
    block.sums = sums
    d = d_dot_out(layer, part)
    _point(block, layer, part, d)
    return Call(block, sums, (d, *(value.held if value else ()), *(key.held if key else ())))


def _describe(form: _Form, part: Part) -> tuple[Block, Any]:
    """`Block`, and its `Sums`, without what is a layer's own: addresses."""
    block = Block(
        n_rows=part.n_rows,
        n_heads=form.n_heads,
        n_keys=part.n_keys,
        first_key=part.keys.start,
        n_image_keys=part.n_image,
        kinds=part.kinds.data_ptr(),
        image_keys=part.image_keys.data_ptr(),
        visible=part.visible.data_ptr(),
        n_sums=len(form.sums),
        softcap=form.softcap or 0.0,
        lse_is_known=form.lse_is_known,
        heads_are_lanes=form.heads_are_lanes,
    )
    for name, product in (("value", form.value), ("key", form.key)):
        if product is not None:
            block.n_key_heads = int(product[0])
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


def _product(rows: Tensor, keys: Tensor, scale: float, part: Part, heads_are_lanes: bool) -> _Product:
    """The part's alone is copied: where a last stride is not 1, and rows to float32 where lanes are heads."""
    first, sample = part.rows.start, part.sample
    if rows.stride(2) != 1 or (heads_are_lanes and rows.dtype != torch.float32):
        dtype = torch.float32 if heads_are_lanes else rows.dtype
        rows, first = rows[part.rows].to(dtype).contiguous(), 0
    if keys.stride(3) != 1:
        keys, sample = keys[sample : sample + 1].contiguous(), 0
    _, n_heads, _, depth = keys.shape
    sample_stride, head_stride, key_stride, _ = keys.stride()
    row_stride, row_head_stride, _ = rows.stride()
    return _Product(
        rows.data_ptr() + first * row_stride * rows.itemsize,
        keys.data_ptr() + (sample * sample_stride + part.keys.start * key_stride) * keys.itemsize,
        (n_heads, row_stride, row_head_stride, head_stride, key_stride, depth, DTYPES[keys.dtype], scale),
        (rows, keys),
    )


def _point(block: Block, layer: Layer, part: Part, d_dot_out: Tensor | None) -> None:
    """Addresses of the layer's results, of a known log-sum-exp, and of ``D``."""
    first = part.rows.start * layer.H  # of what is (T, H)
    block.d_dot_out, block.lse = pointer(d_dot_out), pointer(layer.lse, first)
    if layer.columns is not None:
        for of_no_key in (slice(part.image.start), slice(part.image.stop, None)):
            layer.columns[part.rows, :, of_no_key] = 0
        block.column_stride = layer.columns.shape[2]
        block.columns = pointer(layer.columns, first * block.column_stride + part.image.start)
    if layer.scores is not None:
        at, size = layer.scores.data_ptr() + first * WORD, layer.scores.stride(1) * WORD
        for i, signal in enumerate(layer.score_signals):
            image = at + 3 * i * size
            block.scores[SIGNALS.index(signal)] = Scores(image, image + size, image + 2 * size)
