"""One map over the image, at the image's own resolution.

The rule of opacity: it is the same for every pixel that the model saw, ``(1 - a) * image + a * colour(value)``. A
colour on the image is then always the same mixture of the legend's colour, and a low value is as visible as a high
one. What the model never saw is grey and dark: ``UNSEEN_BRIGHTNESS`` times its luma, whatever the opacity.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import InputError
from ..layout.grid import Grid, seen, to_pixels
from ..result.appearance import DEFAULT_COLORMAP, DEFAULT_OPACITY
from .colormap import colours_of

UNSEEN_BRIGHTNESS = 0.3
NEUTRAL = (128, 128, 128)  # stands in for an image that was not kept

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R 601, as in Pillow's "L"
_TOLERANCE = 1e-4  # maps kept as float16 may leave [0, 1] by a rounding


def overlay(
    image: Image.Image | None,
    cell_map: NDArray[np.floating[Any]],
    grid: Grid,
    *,
    heatmap_opacity: float = DEFAULT_OPACITY,
    colormap: str = DEFAULT_COLORMAP,
) -> Image.Image:
    """Lay one map over the image.

    Args:
        image: the user's image, of ``grid.image_size`` pixels; None draws on neutral grey.
        cell_map: ``(rows, cols)`` in [0, 1]; bilinear between cell centres.
        grid: where the cells lie on the image.
        heatmap_opacity: share of the colour in the mixture, in [0, 1]; 0 leaves seen pixels exactly as they are.
        colormap: one of ``colormap.NAMES``.

    Returns:
        An RGB image of ``grid.image_size`` pixels.

    Raises:
        InputError: an argument is out of range, or the shapes of image, map and grid disagree.
    """
    check_opacity(heatmap_opacity)
    check_map(cell_map, grid)
    background = np.asarray(_background(image, grid), dtype=np.float32)  # (height, width, 3)
    colours = colours_of(to_pixels(cell_map, grid), colormap).astype(np.float32)
    mixed = background + np.float32(heatmap_opacity) * (colours - background)
    unseen = ~seen(grid)
    mixed[unseen] = UNSEEN_BRIGHTNESS * (background[unseen] @ _LUMA)[:, None]
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def check_opacity(heatmap_opacity: float) -> None:
    """Raise InputError unless the opacity is a number in [0, 1]."""
    is_number = isinstance(heatmap_opacity, (int, float, np.number)) and not isinstance(heatmap_opacity, bool)
    if not is_number or not 0.0 <= float(heatmap_opacity) <= 1.0:  # NaN fails the comparison too
        raise InputError(f"heatmap_opacity: expected a number from 0 to 1, got {heatmap_opacity!r}")


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
