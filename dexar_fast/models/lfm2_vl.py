"""LFM2-VL: convolutions between attention layers; tiles between markers, then the image as a whole, of any shape."""

from __future__ import annotations

import re

from ..layout import LayoutBuilder, tile_boxes
from .family import Family, Prompt
from .idefics3 import marked_runs

_TILE = re.compile(r"<\|img_row_(\d+)_col_(\d+)\|>")


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """`spatial_shapes` holds rows and columns of patches of each view. The view without a marker is an image's last."""
    factor = prompt.config.downsample_factor
    cell = prompt.config.vision_config.patch_size * factor
    tiles: list[tuple[tuple[int, int], int]] = []  # row and column of each tile, and its cells to a side
    for marker, (rows, cols) in zip(marked_runs(prompt, _TILE), (prompt["spatial_shapes"] // factor).tolist()):
        if marker is not None:
            tiles.append((marker, rows))
            continue
        size = tokens.image((cols * cell, rows * cell))
        if tiles:
            last, side = tiles[-1]
            for box in tile_boxes((0, 0, *size), *last):
                tokens.grid(side, side, box)
        tokens.grid(rows, cols, thumbnail=bool(tiles))
        tiles = []


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
