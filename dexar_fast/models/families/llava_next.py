"""LLaVA-NeXT (Video): the image as a whole, then its tiles as one grid without padding, a newline token per row."""

from __future__ import annotations

from math import ceil, inf, sqrt

from ...layout.grid import Box
from ...layout.image_layout import LayoutBuilder
from ..family import Family, Prompt
from .llava import cropped_box
from .videos import images_and_videos


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """Base grid and unpadded tile grid of each image; `image_sizes` holds the true ``(height, width)``."""
    for height, width in prompt["image_sizes"].tolist():
        tiled_image(prompt, tokens, (width, height))


def tiled_image(prompt: Prompt, tokens: LayoutBuilder, size: tuple[int, int], most: float = inf) -> None:
    """Base grid and unpadded tile grid of one image of ``(width, height)`` pixels.

    Args:
        prompt, tokens: as for `layout`.
        size: of the image.
        most: the model shrinks a grid that is clearly larger than that many tiles.
    """
    tile = prompt.config.vision_config.image_size
    side = tile // prompt.config.vision_config.patch_size
    tokens.image_as_processed(size)
    canvas = best_resolution(size, prompt.config.image_grid_pinpoints)
    rows, cols, box = unpadded(size, canvas, tile, side)
    ratio = sqrt(rows * cols / (most * side**2))
    if ratio > 1.1:
        rows, cols = int(rows // ratio), int(cols // ratio)
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


def unpadded(size: tuple[int, int], canvas: tuple[int, int], tile: int, side: int) -> tuple[int, int, Box]:
    """Rows and columns of patches that are left of a canvas when the padding is cut off, and the box they cover.

    The canvas consists of tiles of ``tile x tile`` pixels, with ``side x side`` patches each.

    The image is scaled to fit the canvas and centred. Whole patches are cut, so some padding may stay: the box may be
    larger than the image.
    """
    (width, height), (canvas_width, canvas_height) = size, canvas
    cols, rows = canvas_width // tile * side, canvas_height // tile * side
    patch = tile / side  # pixels at the end of a tile that make no patch are shared out
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


def layout_with_videos(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """LLaVA-NeXT-Video: images as above; a video's frames are grids, pooled by `spatial_pool_stride`."""
    config = prompt.config
    images, videos = iter(prompt.inputs.get("image_sizes", ())), iter(prompt.inputs.get("pixel_values_videos", ()))
    for is_video in images_and_videos(prompt, tokens):
        if is_video:
            for frame in next(videos, ()):
                tile = frame.shape[-1]
                side, stride = tile // config.vision_config.patch_size, config.spatial_pool_stride
                size = tokens.image((tile, tile))
                left, top, right, bottom = cropped_box(prompt, size, video=True) or (0.0, 0.0, float(tile), float(tile))
                pooled = side // stride
                share = pooled * stride / side  # what fills no pool is left out
                tokens.grid(pooled, pooled, (left, top, left + share * (right - left), top + share * (bottom - top)))
        elif (image := next(images, None)) is not None:
            height, width = image.tolist()
            tiled_image(prompt, tokens, (width, height))


INPUTS = ("input_ids", "attention_mask", "pixel_values", "image_sizes")

LLAVA_NEXT = Family(name="llava_next", model_types=("llava_next",), layout=layout, inputs=INPUTS)
LLAVA_NEXT_VIDEO = Family(
    name="llava_next_video",
    model_types=("llava_next_video",),
    layout=layout_with_videos,
    inputs=(*INPUTS, "pixel_values_videos"),
    placeholders=("image_token_id", "video_token_id"),
)
