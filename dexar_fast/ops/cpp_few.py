"""Few rows on CPUs: lanes are heads, and threads share the keys."""

from __future__ import annotations

from .cpp_call import call_of
from .cpp_layer import WORD, Layer, empty, padded
from .cpp_library import run_block
from .cpp_parts import Part


def run(layer: Layer, part: Part) -> None:
    """Everything that is asked of these rows."""
    block, sums, held = call_of(layer, part, heads_are_lanes=True)
    lanes = padded(layer.H)
    panels, weights = part.n_rows * part.n_keys * lanes, part.n_rows * lanes
    products = (block.value.rows is not None) + (block.key.rows is not None)
    # The gradients, the logits, and the head weights of each of the sums.
    # Never empty, since a null pointer means that there is no such product.
    room = empty(max(1, products * panels + weights * len(sums)))
    free = room.data_ptr()
    if block.value.rows is not None:
        block.gradient, free = free, free + panels * WORD
    if block.key.rows is not None:
        block.logits, free = free, free + panels * WORD
    for of in sums:
        of.lane_weights, free = free, free + weights * WORD
    run_block(block)
    del held
