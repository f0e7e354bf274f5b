"""Few rows on CPUs: all heads at once, which are the lanes; products are made in C++, which reads each key as it lies.

For one row the kernel takes no longer than Python takes for some tensors. So here are none but one for everything that
the kernel writes in between, and it adds to the caller's maps itself.
"""

from __future__ import annotations

from torch import Tensor

from .cpp_layer import WORD, Layer, block_of, d_dot_out, empty, padded
from .cpp_library import DTYPES, Factors, Sums, matrix, pointer, run_block
from .cpp_parts import Part
from .signals import SIGNALS


def run(layer: Layer, part: Part) -> None:
    """Everything that is asked of these rows."""
    H, first, column = layer.H, part.rows.start, part.image.start
    lanes = padded(H)
    panels, weights = part.n_rows * part.n_keys * lanes, part.n_rows * lanes
    products = (layer.d_out is not None) + (layer.attention is not None)
    # The gradients, the logits, and the head weights of each of the sums.
    # Never empty, since a null pointer means that there is no such product.
    scratch = empty(max(1, products * panels + weights * len(layer.sums)))
    gradient = scratch.data_ptr()
    logits = gradient + (products - 1) * panels * WORD
    of_sums = gradient + products * panels * WORD
    sums = [
        Sums(
            weights=pointer(layer.weights, first * H),
            lane_weights=of_sums + i * weights * WORD,
            maps=matrix(each.maps, first, column),
            unfiltered=matrix(each.unfiltered, first, column),
            token_sums=matrix(None if each.token_sums is None else each.token_sums[part.sample], 0, column),
            score_signal=SIGNALS.index(each.score_signal),
            map_signal=SIGNALS.index(each.map_signal),
        )
        for i, each in enumerate(layer.sums)
    ]
    d = d_dot_out(layer, part)
    block = block_of(layer, part, range(H), d, sums)
    block.heads_are_lanes, block.members = True, 1
    kept = []  # what the block points to
    if layer.d_out is not None and layer.value is not None:
        block.gradient, block.n_key_heads = gradient, layer.value.shape[1]
        block.value, *tensors = _factors(layer.d_out, layer.value, 1.0, part)
        kept += tensors
    if layer.attention is not None:
        query, key, _, scale, *_ = layer.attention
        block.logits, block.n_key_heads = logits, key.shape[1]
        block.key, *tensors = _factors(query, key, scale, part)
        kept += tensors
    run_block(block)


def _factors(rows: Tensor, keys: Tensor, scale: float, part: Part) -> tuple[Factors, Tensor, Tensor]:
    """Of one product, and the tensors that it points to: the part's own are copied, if any."""
    rows = rows[part.rows].float().contiguous()
    keys = keys[part.sample]
    keys = keys if keys.stride(2) == 1 else keys.contiguous()
    head_stride, key_stride, _ = keys.stride()
    first = pointer(keys, part.keys.start * key_stride)
    factors = Factors(pointer(rows), first, head_stride, key_stride, keys.shape[2], DTYPES[keys.dtype], scale)
    return factors, rows, keys
