"""The outlines of the drawn shapes, as tests on coordinates measured from the shape's centre."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

RING_HOLE = 0.42
"""Radius of a ring's hole over its outer radius. Small enough that the centre patch shows some ring."""


def _circle(x: Floats, y: Floats) -> Mask:
    return np.asarray(x * x + y * y <= 1.0)


def _square(x: Floats, y: Floats) -> Mask:
    return np.asarray(np.maximum(abs(x), abs(y)) <= 0.88)


def _triangle(x: Floats, y: Floats) -> Mask:
    return np.asarray((y <= 0.85) & (abs(x) <= (y + 0.95) / 1.8))


def _cross(x: Floats, y: Floats) -> Mask:
    return np.asarray((np.minimum(abs(x), abs(y)) <= 0.32) & (np.maximum(abs(x), abs(y)) <= 1.0))


def _ring(x: Floats, y: Floats) -> Mask:
    distance = np.hypot(x, y)
    return np.asarray((distance <= 1.0) & (distance >= RING_HOLE))


def _star(x: Floats, y: Floats) -> Mask:
    """Five points, one of them up; each half point is the triangle (centre, tip, notch)."""
    half_point = np.pi / 5
    angle = np.mod(np.arctan2(x, -y) + half_point, 2 * half_point) - half_point  # folded to the nearest tip
    along = np.hypot(x, y) * np.cos(angle)
    across = abs(np.hypot(x, y) * np.sin(angle))
    notch_along, notch_across = 0.45 * np.cos(half_point), 0.45 * np.sin(half_point)
    return np.asarray(across * (1.0 - notch_along) <= notch_across * (1.0 - along))


OUTLINES: dict[str, Callable[[Floats, Floats], Mask]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
}


def shape_mask(shape: str, centre: tuple[float, float], radius: float, size: tuple[int, int], scale: int) -> Mask:
    """Pixels of one shape: bool (height * scale, width * scale), where `size` is (width, height).

    `centre` (x, y) and `radius` are in units of the unscaled picture. A pixel belongs to the shape when its
    centre lies inside the outline, so edges are hard and the mask is exact.
    """
    across, down = ((np.arange(n * scale) + 0.5) / scale for n in size)
    x = (across[None, :] - centre[0]) / radius
    y = (down[:, None] - centre[1]) / radius
    x, y = np.broadcast_arrays(x, y)
    return OUTLINES[shape](x, y)
