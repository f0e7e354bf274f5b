"""LLaVA-NeXT: the image as a whole, then its tiles as one grid without padding, each row ended by a newline token."""

from __future__ import annotations

from math import ceil

from ..geometry import Box
from ..layout import LayoutBuilder
from .family import Family, Prompt


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """Base grid and unpadded tile grid of each image; `image_sizes` holds the true ``(height, width)``."""
    config = prompt.config
    tile, patch = config.vision_config.image_size, config.vision_config.patch_size
    side = tile // patch
    for height, width in prompt["image_sizes"].tolist():
        tokens.image((width, height))
        canvas = best_resolution((width, height), config.image_grid_pinpoints)
        rows, cols, box = unpadded((width, height), canvas, patch)
        tokens.grid(side, side, thumbnail=True)
        tokens.grid(rows, cols, box, row_ends=True)


def best_resolution(size: tuple[int, int], pinpoints: list[list[int]]) -> tuple[int, int]:
    """The ``(width, height)`` among ``pinpoints`` (height, width) that shows most of an image and wastes least."""
    width, height = size

    def merit(canvas: list[int]) -> tuple[int, int]:
        scale = min(canvas[1] / width, canvas[0] / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        return effective, effective - canvas[0] * canvas[1]

    best = max(pinpoints, key=merit)
    return best[1], best[0]


def unpadded(size: tuple[int, int], canvas: tuple[int, int], patch: int) -> tuple[int, int, Box]:
    """Rows and columns of patches that are left of a canvas when the padding is cut off, and the box they cover.

    The image is scaled to fit the canvas and centred. Whole patches are cut, so some padding may stay: the box may be
    larger than the image.
    """
    (width, height), (canvas_width, canvas_height) = size, canvas
    cols, rows = canvas_width // patch, canvas_height // patch
    # transformers cuts patches by one rule ...
    if width / height > cols / rows:
        cut_x, cut_y = 0, (rows - int(round(height * (cols / width), 7))) // 2
    else:
        cut_x, cut_y = (cols - int(round(width * (rows / height), 7))) // 2, 0
    # ... and places the image by another.
    if canvas_width / width < canvas_height / height:
        new_width, new_height = canvas_width, min(ceil(height * canvas_width / width), canvas_height)
    else:
        new_width, new_height = min(ceil(width * canvas_height / height), canvas_width), canvas_height
    left, top = (canvas_width - new_width) // 2, (canvas_height - new_height) // 2
    across, down = width / new_width, height / new_height
    box = (
        (cut_x * patch - left) * across,
        (cut_y * patch - top) * down,
        ((cols - cut_x) * patch - left) * across,
        ((rows - cut_y) * patch - top) * down,
    )
    return rows - 2 * cut_y, cols - 2 * cut_x, box


FAMILY = Family(
    name="llava_next",
    model_types=("llava_next",),
    layout=layout,
    inputs=("input_ids", "attention_mask", "pixel_values", "image_sizes"),
)
