"""From image tokens to pixels of the image that the user gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Grid:
    """Where a map of ``rows x cols`` cells lies on the user's image.

    Attributes:
        rows, cols: cells of the map; row 0 is the top, column 0 the left.
        box: ``(left, top, right, bottom)`` in pixels of the user's image, the rectangle that the cells cover.
            A processor that crops makes it smaller than the image; one that pads makes it larger.
        image_size: ``(width, height)`` of the user's image in pixels.
    """

    rows: int
    cols: int
    box: Box
    image_size: tuple[int, int]

    @property
    def cells(self) -> int:
        return self.rows * self.cols


def whole_image(rows: int, cols: int, image_size: tuple[int, int]) -> Grid:
    """A grid that covers the image exactly: the processor resized it without cropping or padding."""
    width, height = image_size
    return Grid(rows, cols, (0.0, 0.0, float(width), float(height)), image_size)


def resized_and_cropped(
    rows: int,
    cols: int,
    image_size: tuple[int, int],
    resize: Mapping[str, int] | None,
    crop: Mapping[str, int] | None,
) -> Grid:
    """A grid behind a CLIP-like image processor: resize, then crop (or pad) to the centre.

    Args:
        rows, cols: cells of the map.
        image_size: ``(width, height)`` of the user's image.
        resize: ``{"shortest_edge": n}`` or ``{"height": h, "width": w}`` in pixels, as transformers writes it; None
            for none.
        crop: ``{"height": h, "width": w}`` in pixels, or None for none.

    Raises:
        InputError: ``resize`` is of neither form.
    """
    width, height = image_size
    new_width, new_height = resized(image_size, resize)
    scale_x, scale_y = new_width / width, new_height / height
    crop_width, crop_height = (crop["width"], crop["height"]) if crop else (new_width, new_height)
    left, top = (new_width - crop_width) // 2, (new_height - crop_height) // 2
    box = (left / scale_x, top / scale_y, (left + crop_width) / scale_x, (top + crop_height) / scale_y)
    return Grid(rows, cols, box, image_size)


def resized(image_size: tuple[int, int], resize: Mapping[str, int] | None) -> tuple[int, int]:
    """``(width, height)`` that an image of ``image_size`` is resized to; arguments as of `resized_and_cropped`.

    Raises:
        InputError: ``resize`` is of neither form.
    """
    width, height = image_size
    if resize is None:
        return width, height
    if resize.get("shortest_edge"):
        short = resize["shortest_edge"]
        # transformers truncates the long edge
        new_width = short if width <= height else int(short * width / height)
        return new_width, short if height <= width else int(short * height / width)
    if resize.get("height") and resize.get("width"):
        return resize["width"], resize["height"]
    raise InputError(f"processor: expected an image size of shortest_edge, or of height and width; got {dict(resize)}")


def padded_to_square(image_size: tuple[int, int]) -> Box:
    """The square that an image of ``(width, height)`` in its middle is padded to, in the image's pixels."""
    width, height = image_size
    longest = max(image_size)
    left, top = (longest - width) // 2, (longest - height) // 2
    return float(-left), float(-top), float(longest - left), float(longest - top)


def to_pixels(cell_map: NDArray[np.floating], grid: Grid) -> NDArray[np.float32]:
    """Upsample one map to the user's image.

    Args:
        cell_map: ``(rows, cols)``.
        grid: where the cells lie.

    Returns:
        ``(height, width)`` float32: bilinear between cell centres (``align_corners=False``), zero on pixels that
        the model never saw.

    Raises:
        InputError: the map's shape is not the grid's.
    """
    if cell_map.shape != (grid.rows, grid.cols):
        raise InputError(f"cell_map: expected shape {(grid.rows, grid.cols)}, got {cell_map.shape}")
    width, height = grid.image_size
    left, top, right, bottom = grid.box
    # An affine transform would blend the border cells with a fill colour; sampling clamped centres does not.
    rows = _sample_positions(height, top, bottom, grid.rows)
    cols = _sample_positions(width, left, right, grid.cols)
    values = np.asarray(cell_map, dtype=np.float32)
    pixels = _interpolate(_interpolate(values, rows, axis=0), cols, axis=1)
    pixels[~seen(grid)] = 0.0
    return pixels


def largest_of_lines(cell_map: NDArray[np.floating], grid: Grid) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The largest value in each row and in each column of `to_pixels`, up to rounding, without its pixels.

    Between two neighbouring cell centres a line of pixels is linear, so its extremes are at the ends: of a photograph's
    millions of pixels only a few thousand need a value.

    Returns:
        ``(height,)`` and ``(width,)`` float32.

    Raises:
        InputError: the map's shape is not the grid's.
    """
    if cell_map.shape != (grid.rows, grid.cols):
        raise InputError(f"cell_map: expected shape {(grid.rows, grid.cols)}, got {cell_map.shape}")
    width, height = grid.image_size
    left, top, right, bottom = grid.box
    seen_rows, seen_cols = _seen_sides(grid)
    rows = _sample_positions(height, top, bottom, grid.rows)[seen_rows]
    cols = _sample_positions(width, left, right, grid.cols)[seen_cols]
    values = np.asarray(cell_map, dtype=np.float32)
    of_rows, of_cols = np.zeros(height, np.float32), np.zeros(width, np.float32)
    if rows.size and cols.size:
        ends_of_cols = _interpolate(_interpolate(values, rows, axis=0), _ends(cols), axis=1)
        ends_of_rows = _interpolate(_interpolate(values, _ends(rows), axis=0), cols, axis=1)
        of_rows[seen_rows], of_cols[seen_cols] = ends_of_cols.max(axis=1), ends_of_rows.max(axis=0)
    return of_rows, of_cols


def to_cells(pixel_map: NDArray[Any], grid: Grid) -> NDArray[np.float64]:
    """Mean over the area of each cell, the best that a map of this grid can say of a picture of pixels.

    Args:
        pixel_map: ``(height, width)``, of the user's image; outside it is zero.
        grid: where the cells lie.

    Returns:
        ``(rows, cols)`` float64.

    Raises:
        InputError: the shape is not the image's.
    """
    width, height = grid.image_size
    if pixel_map.shape != (height, width):
        raise InputError(f"pixel_map: expected shape {(height, width)}, got {pixel_map.shape}")
    left, top, right, bottom = grid.box
    rows, cols = _shares(height, top, bottom, grid.rows), _shares(width, left, right, grid.cols)
    means: NDArray[np.float64] = rows @ pixel_map.astype(np.float64) @ cols.T
    return means


def cell_edges(grid: Grid) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First pixel row of each row of cells and first pixel column of each column, with the ends behind the last."""
    width, height = grid.image_size
    left, top, right, bottom = grid.box
    rows = np.linspace(top, bottom, grid.rows + 1).round().astype(np.intp).clip(0, height)
    cols = np.linspace(left, right, grid.cols + 1).round().astype(np.intp).clip(0, width)
    return rows, cols


def seen(grid: Grid) -> NDArray[np.bool_]:
    """``(height, width)`` bool: pixels whose centre lies inside the grid's box, those that the model saw."""
    rows, cols = _seen_sides(grid)
    return rows[:, None] & cols[None, :]


def _seen_sides(grid: Grid) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    width, height = grid.image_size
    left, top, right, bottom = grid.box
    y, x = np.arange(height) + 0.5, np.arange(width) + 0.5
    return (y > top) & (y < bottom), (x > left) & (x < right)


def _ends(position: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of rising positions, the first and the last between each two neighbouring cells."""
    changes = np.flatnonzero(np.diff(np.floor(position)))
    return position[np.unique(np.concatenate(([0], changes, changes + 1, [len(position) - 1])))]


def _sample_positions(pixels: int, start: float, stop: float, cells: int) -> NDArray[np.float64]:
    """Cell coordinates of the pixel centres, clamped to the first and last cell centre."""
    position = (np.arange(pixels) + 0.5 - start) / (stop - start) * cells - 0.5
    return position.clip(0, cells - 1)


def _shares(pixels: int, start: float, stop: float, cells: int) -> NDArray[np.float64]:
    """``(cells, pixels)``: how much of each cell each pixel covers, along one axis."""
    edges = np.linspace(start, stop, cells + 1)[:, None]
    pixel = np.arange(pixels)
    covered = np.minimum(edges[1:], pixel + 1) - np.maximum(edges[:-1], pixel)
    shares: NDArray[np.float64] = covered.clip(min=0) / ((stop - start) / cells)
    return shares


def _interpolate(values: NDArray[np.float32], position: NDArray[np.float64], axis: int) -> NDArray[np.float32]:
    low = np.floor(position).astype(np.int64)
    high = np.minimum(low + 1, values.shape[axis] - 1)
    shape = [1, 1]
    shape[axis] = -1
    fraction = (position - low).astype(np.float32).reshape(shape)
    return values.take(low, axis) * (1 - fraction) + values.take(high, axis) * fraction


def draw_box(grid: Grid) -> tuple[float, float, float, float]:
    """The grid's box as fractions ``(left, top, width, height)`` of the image, for CSS and canvas."""
    width, height = grid.image_size
    left, top, right, bottom = grid.box
    return left / width, top / height, (right - left) / width, (bottom - top) / height
