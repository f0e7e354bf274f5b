"""InternVL and Qianfan-OCR: the tiles of an image, then the image as a whole, in one run of placeholders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ...layout.image_layout import LayoutBuilder, tile_boxes
from ..family import Family, Prompt

Size = tuple[int, int]  # width, height
# (image, tile, fewest tiles, most tiles) -> rows, columns
Tiling = Callable[[Size, Size, int, int], tuple[int, int]]


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """A square per view, its patches merged by `downsample_ratio`."""
    config = prompt.config
    side = int(prompt["pixel_values"].shape[-1] // config.vision_config.patch_size[0] * config.downsample_ratio)
    lay_out_tiles(prompt, tokens, prompt.runs(config.image_token_id), side, closest_tiling)


def lay_out_tiles(prompt: Prompt, tokens: LayoutBuilder, lengths: Sequence[int], side: int, tiling: Tiling) -> None:
    """Images of several square views each, the tiles and then the whole, or of one view.

    Where the user's images are not known, nor is how tiles lie: then each view is shown for itself.

    Args:
        lengths: number of placeholders of each image.
        side: of each view, in placeholders.
        tiling: how the processor cuts an image.
    """
    height, width = prompt["pixel_values"].shape[-2:]
    for length in lengths:
        n_views = length // side**2
        if not prompt.images_known:
            for _ in range(n_views):
                tokens.image((width, height))
                tokens.grid(side, side)
            continue
        size = tokens.image((width, height))
        if n_views > 1:
            processor = prompt.image_processor
            rows, cols = tiling(size, (width, height), processor.min_patches, processor.max_patches)
            for box in tile_boxes((0, 0, *size), rows, cols):
                tokens.grid(side, side, box)
        tokens.grid(side, side, thumbnail=n_views > 1)


def closest_tiling(size: Size, tile: Size, fewest: int, most: int) -> tuple[int, int]:
    """Rows and columns of the tiles whose shape is nearest to an image's.

    Of several that are as near, the last that is smaller than twice the image, in the order of transformers: by number
    of tiles, then of columns.
    """
    (width, height), (tile_width, tile_height) = size, tile
    best, smallest = (1, 1), float("inf")
    for rows, cols in tilings(fewest, most):
        difference = abs(width / height - cols / rows)
        fits = 2 * width * height > tile_width * tile_height * cols * rows
        if difference < smallest or (difference == smallest and fits):
            best, smallest = (rows, cols), difference
    return best


def tilings(fewest: int, most: int) -> list[tuple[int, int]]:
    """Rows and columns of all rectangles of so many tiles, by number of tiles, then of columns."""
    shapes = [(rows, cols) for cols in range(1, most + 1) for rows in range(1, most // cols + 1)]
    return sorted((shape for shape in shapes if shape[0] * shape[1] >= fewest), key=lambda shape: shape[0] * shape[1])


INTERNVL = Family(name="internvl", model_types=("internvl",), layout=layout)
QIANFAN_OCR = replace(
    INTERNVL, name="qianfan_ocr", model_types=("qianfan_ocr",), prompt_image="image_placeholder_token"
)
