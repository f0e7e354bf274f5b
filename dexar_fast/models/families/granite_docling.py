"""Granite Docling: a page's tiles between `<row_r_col_c>` markers, then the page as a whole; DeepStack."""

from __future__ import annotations

from ...layout.image_layout import LayoutBuilder
from ..family import Family, Prompt
from .idefics3 import TILE, marked_runs, one_image
from .qwen_vl import continue_with_deepstack


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """A square per tile, of four times the tokens on the fine route. A page of one tile is not shown again."""
    vision = prompt.config.vision_config
    side = vision.image_size // vision.patch_size // vision.scale_factor
    side = 2 * side if "tile_fine_mask" in prompt.inputs else side
    height, width = prompt["pixel_values"].shape[-2:]
    tiles: list[tuple[int, int]] = []
    for marker in marked_runs(prompt, TILE):
        if tiles and marker == (1, 1):  # the next page begins
            one_image(tokens, tiles, side, (width, height), whole=False)
            tiles = []
        if marker is not None:
            tiles.append(marker)
        else:
            one_image(tokens, tiles, side, (width, height))
            tiles = []
    if tiles:
        one_image(tokens, tiles, side, (width, height), whole=False)


FAMILY = Family(
    name="granite_docling",
    model_types=("granite_docling",),
    layout=layout,
    inputs=("input_ids", "attention_mask", "pixel_values", "pixel_attention_mask", "tile_fine_mask"),
    decoder="model.text_model",
    layers="model.text_model.layers",
    final_norm="model.text_model.norm",
    continue_arguments=continue_with_deepstack,
)
