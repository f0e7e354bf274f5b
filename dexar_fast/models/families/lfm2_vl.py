"""LFM2-VL: convolutions between attention layers; tiles behind markers, then the image as a whole, of any shape."""

from __future__ import annotations

import re
from itertools import zip_longest

from ...layout.image_layout import LayoutBuilder, tile_boxes
from ..family import Family, Prompt
from .idefics3 import marked_runs

_TILE = re.compile(r"<\|img_row_(\d+)_col_(\d+)\|>")


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """`spatial_shapes` holds rows and columns of patches of each view: tiles, and the whole if there is a thumbnail.

    Between two views of an image stands one token, its marker; between two images stand several.
    """
    config = prompt.config
    factor = config.downsample_factor
    cell = config.vision_config.patch_size * factor
    views = list(zip(marked_runs(prompt, _TILE), (prompt["spatial_shapes"] // factor).tolist()))
    for length in prompt.runs(config.image_token_id, joined_over=1):
        of_image: list[tuple[tuple[int, int] | None, list[int]]] = []
        while views and length > 0:
            of_image.append(views.pop(0))
            rows, cols = of_image[-1][1]
            length -= rows * cols
        tiles = [marker for marker, _ in of_image if marker is not None]
        down, across = tiles[-1] if tiles else (1, 1)
        rows, cols = of_image[0][1]
        size = tokens.image((across * cols * cell, down * rows * cell))
        marker, (rows, cols) = of_image[-1]
        if marker is None:  # the whole image, in its own shape; tiles are made to fit
            tokens.expect_shape((cols * cell, rows * cell), rounded_to=cell)
        boxes = tile_boxes((0, 0, *size), down, across) if tiles else []
        for (_, (rows, cols)), box in zip_longest(of_image, boxes):
            tokens.grid(rows, cols, box, thumbnail=bool(tiles) and box is None)


FAMILY = Family(
    name="lfm2_vl",
    model_types=("lfm2_vl",),
    layout=layout,
    inputs=("input_ids", "attention_mask", "pixel_values", "spatial_shapes", "pixel_attention_mask"),
    final_norm="model.language_model.embedding_norm",
    projection="out_proj",
    rows="whole",
    gradient_path="replay",
)
