"""Ovis 2: the image as a whole, then its tiles, with tokens that mark where columns and rows of tiles end."""

from __future__ import annotations

from math import isqrt

from ...layout.image_layout import LayoutBuilder, tile_boxes
from ..family import Family, Prompt


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """A square per view. The marks are learned, and are no placeholders: text."""
    config = prompt.config
    height, width = prompt["pixel_values"].shape[-2:]
    start, grid, column, row, end = config.visual_indicator_token_ids
    ids = prompt["input_ids"][0].tolist()
    position = 0
    while start in ids[position:]:
        first = ids.index(start, position)
        position = ids.index(end, first)
        of_image = ids[first:position]
        side = isqrt(of_image.index(grid) - 1)
        rows = 1 + of_image.count(row)
        cols = 1 + of_image.count(column) // rows
        tiled = of_image.count(config.image_token_id) > side**2
        size = tokens.image((cols * width, rows * height))
        tokens.grid(side, side, thumbnail=tiled)
        for box in tile_boxes((0, 0, *size), rows, cols) if tiled else ():
            tokens.grid(side, side, box)


FAMILY = Family(name="ovis2", model_types=("ovis2",), layout=layout)
