"""Many rows on CPUs: lanes are rows, and threads take some rows with some heads at a time."""

from __future__ import annotations

import torch

from .cpp_call import call_of
from .cpp_layer import WORD, Layer, empty, zeros
from .cpp_library import STRIP, run_block
from .cpp_parts import Part

TASKS = 16  # at least, unless maps are large, to keep many cores busy; no thread count changes the order of a sum
MOST_STRIPS, FEWEST_STRIPS = 4, 2  # of a task: their products with some keys fill the registers
TASK_ELEMENTS = 1 << 17  # 512 KiB: a task's products with one head stay in a core's cache
PANEL_ELEMENTS = 1 << 23  # 32 MiB: of the copies of a map


def most_rows(layer: Layer) -> int:
    """That run at once: with many image keys, as many as there is room for a copy of their maps."""
    n_copied = layer.keys.image.size(1) if layer.sums else 0
    return max(1, PANEL_ELEMENTS // max(1, n_copied))


def run(layer: Layer, part: Part) -> None:
    """Everything that is asked of these rows."""
    block, sums, held = call_of(layer, part, heads_are_lanes=False)
    depths = [each.depth for each in (block.value, block.key) if each.rows is not None]
    strips = -(-part.n_rows // STRIP)
    at_once = TASK_ELEMENTS // (len(depths) * max(1, part.n_keys) * STRIP)
    block.strips_at_once = at_once = min(strips, max(FEWEST_STRIPS, min(MOST_STRIPS, at_once)))
    shares = -(-strips // max(1, at_once))  # of the rows
    numbers = strips * STRIP * part.n_image  # of maps
    chunks = min(-(-TASKS // max(1, shares)), PANEL_ELEMENTS // max(1, numbers), layer.H)
    block.n_chunks = chunks = max(1, chunks)

    threads = torch.get_num_threads()
    # Never empty, since a null pointer means that there is no such product.
    panels = max(1, at_once * part.n_keys * STRIP)
    room = empty(threads, len(depths) * panels + (at_once + 1) * STRIP * max(depths))
    free = room.data_ptr()
    if block.value.rows is not None:
        block.gradient, free = free, free + threads * panels * WORD
    if block.key.rows is not None:
        block.logits, free = free, free + threads * panels * WORD
    block.packed = free

    added = []
    for of in sums:
        for name, source, size in (
            ("panels", of.maps, chunks * numbers),
            ("unfiltered_panels", of.unfiltered, chunks * numbers),
            ("row_sums", of.token_sums, shares * layer.H * part.n_image),
        ):
            if source.data is not None:
                added.append(zeros(max(1, size)))
                setattr(of, name, added[-1].data_ptr())
    run_block(block)
    del held
