"""InternVL and Qianfan-OCR: the tiles of an image, then the image as a whole, in one run of placeholders."""

from __future__ import annotations

from dataclasses import replace

from ..layout import LayoutBuilder, tile_boxes
from .family import Family, Prompt


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """A square per view. Where the images are not known, nor is how tiles lie: then each view is shown for itself."""
    config = prompt.config
    height, width = prompt["pixel_values"].shape[-2:]
    side = int(height // config.vision_config.patch_size[0] * config.downsample_ratio)
    for run in prompt.runs(config.image_token_id):
        n_views = run // side**2
        if not prompt.images_known:
            for _ in range(n_views):
                tokens.image((width, height))
                tokens.grid(side, side)
            continue
        size = tokens.image((width, height))
        if n_views > 1:
            processor = prompt.image_processor
            rows, cols = closest_tiling(size, (width, height), processor.min_patches, processor.max_patches)
            for box in tile_boxes((0, 0, *size), rows, cols):
                tokens.grid(side, side, box)
        tokens.grid(side, side, thumbnail=n_views > 1)


def closest_tiling(size: tuple[int, int], tile: tuple[int, int], fewest: int, most: int) -> tuple[int, int]:
    """Rows and columns of ``fewest`` to ``most`` tiles whose shape is nearest to an image's.

    Among several of the same shape, the last that is not larger than twice the image; in the order of transformers,
    which goes by number of tiles and then by columns.

    Args:
        size, tile: ``(width, height)`` of the image and of one tile, in pixels.
    """
    (width, height), (tile_width, tile_height) = size, tile
    best, smallest = (1, 1), float("inf")
    shapes = ((cols, rows) for cols in range(1, most + 1) for rows in range(1, most // cols + 1))
    for cols, rows in sorted((s for s in shapes if s[0] * s[1] >= fewest), key=lambda s: s[0] * s[1]):
        difference = abs(width / height - cols / rows)
        fits = 2 * width * height > tile_width * tile_height * cols * rows
        if difference < smallest or (difference == smallest and fits):
            best, smallest = (rows, cols), difference
    return best


INTERNVL = Family(name="internvl", model_types=("internvl",), layout=layout)
QIANFAN_OCR = replace(
    INTERNVL, name="qianfan_ocr", model_types=("qianfan_ocr",), prompt_image="image_placeholder_token"
)
