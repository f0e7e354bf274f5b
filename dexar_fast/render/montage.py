"""Several images (or video frames) with their maps, side by side, as if they were one image."""

from __future__ import annotations

from math import ceil, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..layout.grid import Box, Grid, draw_box
from ..layout.per_image import as_tuple
from ..layout.tiles import Block, compose

if TYPE_CHECKING:
    from ..result.explanation import Explanation

_GAP = 0.02  # between images, of the height of a row
_BACKGROUND = (255, 255, 255)


def montage(explanation: Explanation) -> Explanation:
    """An explanation of one image as it is; of several, one whose image shows them all, in reading order.

    The cells have the finest size that occurs in any of them. Parts of an image that the model never saw have the value
    zero.

    Raises:
        InputError: there is no 2-D map.
    """
    explanation.require_map()
    if len(explanation.grids) == 1:
        return explanation
    size, places = _places(explanation.grids)
    blocks, first = [], 0
    for grid, place in zip(explanation.grids, places):
        blocks.append(_block(grid, place, first))
        first += grid.cells
    canvas, tokens, weights = compose(blocks, size)

    def placed(maps: Any) -> NDArray[Any] | None:
        if maps is None:
            return None
        flat = np.concatenate([one.reshape(*one.shape[:-2], -1) for one in maps], axis=-1)
        cells = (flat[..., tokens] * weights).sum(axis=-1).astype(flat.dtype)
        return cells.reshape(*flat.shape[:-1], canvas.rows, canvas.cols)

    return explanation.with_maps(
        placed,
        grid=canvas,
        image=None if explanation.image is None else _draw(as_tuple(explanation.image), size, places),
    )


def shown_images(grids: tuple[Grid, ...]) -> list[dict[str, Any]]:
    """Where each of several images lies in the montage, ``(left, top, width, height)`` as fractions, and its grid."""
    if len(grids) == 1:
        return []
    (width, height), places = _places(grids)
    return [
        {
            "place": (left / width, top / height, (right - left) / width, (bottom - top) / height),
            "rows": grid.rows,
            "cols": grid.cols,
            "box": draw_box(grid),
        }
        for grid, (left, top, right, bottom) in zip(grids, places)
    ]


def _places(grids: tuple[Grid, ...]) -> tuple[tuple[int, int], list[Box]]:
    """``(width, height)`` of the montage in pixels, and the rectangle of each image in it: rows of one height."""
    height = max(grid.image_size[1] for grid in grids)
    gap = max(1, round(_GAP * height))
    per_row = ceil(sqrt(len(grids)))
    places: list[Box] = []
    total_width, top = 0, 0
    for start in range(0, len(grids), per_row):
        left = 0
        for grid in grids[start : start + per_row]:
            width = max(1, round(grid.image_size[0] * height / grid.image_size[1]))
            places.append((left, top, left + width, top + height))
            left += width + gap
        total_width = max(total_width, left - gap)
        top += height + gap
    return (total_width, top - gap), places


def _block(grid: Grid, place: Box, first: int) -> Block:
    """The cells of one image whose centres lie on it (padding has none), where the image lies in the montage."""
    left, top, right, bottom = grid.box
    x, y = np.linspace(left, right, grid.cols + 1), np.linspace(top, bottom, grid.rows + 1)
    width, height = grid.image_size
    (cols,) = (((x[1:] + x[:-1]) / 2 > 0) & ((x[1:] + x[:-1]) / 2 < width)).nonzero()
    (rows,) = (((y[1:] + y[:-1]) / 2 > 0) & ((y[1:] + y[:-1]) / 2 < height)).nonzero()
    across, down = (place[2] - place[0]) / width, (place[3] - place[1]) / height
    box = (
        place[0] + max(x[cols[0]], 0) * across,
        place[1] + max(y[rows[0]], 0) * down,
        place[0] + min(x[cols[-1] + 1], width) * across,
        place[1] + min(y[rows[-1] + 1], height) * down,
    )
    return Block(first + rows[:, None] * grid.cols + cols, box)


def _draw(images: tuple[Image.Image, ...], size: tuple[int, int], places: list[Box]) -> Image.Image:
    canvas = Image.new("RGB", size, _BACKGROUND)
    for image, (left, top, right, bottom) in zip(images, places):
        small = image.convert("RGB").resize((round(right - left), round(bottom - top)), Image.Resampling.LANCZOS)
        canvas.paste(small, (round(left), round(top)))
    return canvas
