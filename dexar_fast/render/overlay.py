"""One map over the image, at the image's own resolution.

`dexar_fast.render.drawing` says how each value is drawn: by default what is hot is coloured and outlined, and the rest
keeps its pixels. What the model never saw is grey and dark: ``UNSEEN_BRIGHTNESS`` times its luma, however the rest is
drawn.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import InputError
from ..layout.grid import Grid, seen, to_pixels
from ..result.appearance import DEFAULT_DRAWING, Drawing
from .drawing import ink, style

UNSEEN_BRIGHTNESS = 0.3
NEUTRAL = (128, 128, 128)  # stands in for an image that was not kept

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R 601, as in Pillow's "L"
_TOLERANCE = 1e-4  # maps kept as float16 may leave [0, 1] by a rounding


def overlay(
    image: Image.Image | None,
    cell_map: NDArray[np.floating[Any]],
    grid: Grid,
    *,
    drawing: Drawing = DEFAULT_DRAWING,
    heatmap_opacity: float | None = None,
    colormap: str | None = None,
) -> Image.Image:
    """Lay one map over the image.

    Args:
        image: the user's image, of ``grid.image_size`` pixels; None draws on neutral grey.
        cell_map: ``(rows, cols)`` in [0, 1]; bilinear between cell centres.
        grid: where the cells lie on the image.
        drawing: ``"highlight"`` colours and outlines what is hot and leaves the rest as it is, the line at half of the
            scale; ``"heat"`` colours everything.
        heatmap_opacity: of all that is drawn, in [0, 1]; 0 leaves seen pixels exactly as they are. None takes the
            drawing's own: 1 for ``"highlight"``, whose colour is at most 0.75 opaque by itself, 0.55 for ``"heat"``.
        colormap: one of ``colormap.NAMES``, for ``"heat"`` of ``colormap.SCALES``. None takes the drawing's own,
            ``"magenta"`` or ``"inferno"``.

    Returns:
        An RGB image of ``grid.image_size`` pixels.

    Raises:
        InputError: an argument is out of range, or the shapes of image, map and grid disagree.
    """
    chosen = style(drawing, heatmap_opacity, colormap)
    check_map(cell_map, grid)
    pixels = np.array(_background(image, grid), dtype=np.float32)  # (height, width, 3)
    lit = seen(grid)
    part = _span(lit, 1), _span(lit, 0)  # beyond it the map has no slope that tells anything
    left, top, right, bottom = grid.box
    colours, opacity = ink(to_pixels(cell_map, grid)[part], chosen, max(right - left, bottom - top))
    pixels[part] *= 1 - opacity[..., None]
    pixels[part] += colours
    pixels[~lit] = UNSEEN_BRIGHTNESS * (pixels[~lit] @ _LUMA)[:, None]
    return Image.fromarray(np.rint(pixels).astype(np.uint8))


def _span(inside: NDArray[np.bool_], axis: int) -> slice:
    """From the first True to the last, whatever the place along the other axis."""
    places = np.flatnonzero(inside.any(axis=axis))
    return slice(places[0], places[-1] + 1) if len(places) else slice(0)


def check_map(cell_map: NDArray[np.floating[Any]], grid: Grid) -> None:
    """Raise InputError unless the map has the grid's shape and finite values in [0, 1]."""
    if np.shape(cell_map) != (grid.rows, grid.cols):
        raise InputError(f"cell_map: expected shape {(grid.rows, grid.cols)}, got {np.shape(cell_map)}")
    low, high = float(np.min(cell_map)), float(np.max(cell_map))
    if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):
        raise InputError(f"cell_map: expected finite values from 0 to 1, got values from {low:g} to {high:g}")


def _background(image: Image.Image | None, grid: Grid) -> Image.Image:
    if image is None:
        return Image.new("RGB", grid.image_size, NEUTRAL)
    check_size(image, grid)
    return image.convert("RGB")


def check_size(image: Image.Image, grid: Grid) -> None:
    """Raise InputError unless the image has the size that the grid was made for."""
    if image.size != grid.image_size:
        raise InputError(f"image: expected {grid.image_size} pixels (grid.image_size), got {image.size}")
