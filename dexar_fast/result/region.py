"""Where on the image a map is strongest, for people: a point, a box, a mask, and words for a place."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..layout.grid import Grid, largest_of_lines, to_pixels

CellMap = NDArray[np.floating[Any]]


def peak(cell_map: CellMap, grid: Grid) -> tuple[float, float] | None:
    """``(x, y)`` in the image's pixels, the middle of the strongest cell; None for a constant map."""
    if cell_map.max() <= cell_map.min():
        return None
    row, column = divmod(int(cell_map.argmax()), grid.cols)
    left, top, right, bottom = grid.box
    x = left + (column + 0.5) * (right - left) / grid.cols
    y = top + (row + 0.5) * (bottom - top) / grid.rows
    width, height = grid.image_size
    return min(max(x, 0.0), width), min(max(y, 0.0), height)


def mask(cell_map: CellMap, grid: Grid, share: float = 0.5) -> NDArray[np.bool_]:
    """``(height, width)`` bool: pixels at which the map, as it is drawn, reaches this share of its largest value.

    Raises:
        InputError: the share is not above 0 and at most 1.
    """
    _check_share(share)
    pixels = to_pixels(cell_map, grid)
    largest = pixels.max()
    reached: NDArray[np.bool_] = (pixels >= share * largest) & (largest > 0)
    return reached


def box(cell_map: CellMap, grid: Grid, share: float = 0.5) -> tuple[int, int, int, int] | None:
    """``(left, top, right, bottom)`` in pixels, the smallest that holds all of `mask`; None where that is empty.

    Raises:
        InputError: as `mask`.
    """
    _check_share(share)
    of_rows, of_columns = largest_of_lines(cell_map, grid)
    least = share * min(of_rows.max(), of_columns.max())  # one number, but for rounding
    if least <= 0:
        return None
    rows, columns = np.flatnonzero(of_rows >= least), np.flatnonzero(of_columns >= least)
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _check_share(share: float) -> None:
    if not 0 < share <= 1:
        raise InputError(f"share: expected a share of the largest value, above 0 and at most 1; got {share!r}")


def place_name(point: tuple[float, float] | None, image_size: tuple[int, int]) -> str:
    """A pixel's third of the image: "upper left", "centre", "right"; "nowhere in particular" without one."""
    if point is None:
        return "nowhere in particular"
    x, y = point[0] / image_size[0], point[1] / image_size[1]
    row = "upper" if y < 1 / 3 else "lower" if y >= 2 / 3 else ""
    column = "left" if x < 1 / 3 else "right" if x >= 2 / 3 else ""
    if not row and not column:
        return "centre"
    return f"{row} {column or 'middle'}".strip()
