"""Llama 4: tiles with separators between them, then the image as a whole; most layers attend within chunks."""

from __future__ import annotations

from math import floor

from ...layout.grid import Box
from ...layout.image_layout import LayoutBuilder, tile_boxes
from ..family import Family, Prompt


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """A square per view; a separator stands behind each tile but a row's last, another behind each row."""
    vision = prompt.config.vision_config
    side = int(vision.image_size // vision.patch_size * vision.pixel_shuffle_ratio)
    for rows, cols in _tilings(prompt):
        size = tokens.image((max(cols, 1) * vision.image_size, max(rows, 1) * vision.image_size))
        if rows:
            for box in tile_boxes(_canvas(prompt, size, (cols, rows)), rows, cols):
                tokens.grid(side, side, box)
        tokens.grid(side, side, thumbnail=rows > 0)


def _tilings(prompt: Prompt) -> list[tuple[int, int]]:
    """Rows and columns of the tiles of each image; none of each for an image of one view."""
    marks = ("<|tile_x_separator|>", "<|tile_y_separator|>", "<|image_end|>")
    between, behind_row, end = prompt.tokenizer.convert_tokens_to_ids(list(marks))
    found, n_between, rows = [], 0, 0
    for token in prompt["input_ids"][0].tolist():
        n_between, rows = n_between + (token == between), rows + (token == behind_row)
        if token == end:
            found.append((rows, n_between // rows + 1 if rows else 0))
            n_between, rows = 0, 0
    return found


def _canvas(prompt: Prompt, size: tuple[int, int], tiling: tuple[int, int]) -> Box:
    """The tiles' rectangle in pixels of an image of ``(width, height)``, which lies at its top left.

    The image is made to fit, and enlarged to the side of one tile at most, unless the processor is told otherwise.
    """
    tile = prompt.config.vision_config.image_size
    canvas = tiling[0] * tile, tiling[1] * tile
    if not prompt.images_known:
        return 0.0, 0.0, float(canvas[0]), float(canvas[1])
    to_fit = canvas
    if not prompt.image_processor.resize_to_max_canvas:
        to_fit = min(max(size[0], tile), canvas[0]), min(max(size[1], tile), canvas[1])
    across, down = to_fit[0] / size[0], to_fit[1] / size[1]
    if across < down:
        resized = to_fit[0], min(floor(size[1] * across), to_fit[1])
    else:
        resized = min(floor(size[0] * down), to_fit[0]), to_fit[1]
    return 0.0, 0.0, canvas[0] * size[0] / max(1, resized[0]), canvas[1] * size[1] / max(1, resized[1])


FAMILY = Family(
    name="llama4",
    model_types=("llama4",),
    layout=layout,
    base="",
    decoder="language_model.model",
    layers="language_model.model.layers",
    final_norm="language_model.model.norm",
    head="language_model.lm_head",
    chunk_size="text_config.attention_chunk_size",
    takes_padding=False,  # the temperature of its attention grows with the number of keys, filled up or not
)
