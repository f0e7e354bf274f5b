"""The ways to lay a map over a picture: what ink each value leaves, before it is mixed with the picture.

``"highlight"`` leaves the picture as it is where the map is low: the ink thickens with the value, and a thin double
line, dark outside and light inside, runs where the map is half as strong as it can be. One of the two stands out from
any picture, also for eyes that see no colours. ``"heat"`` colours every value alike, the lowest too.

The tables are the definition: `overlay` and the report's script both draw from them.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..result.appearance import DEFAULT_DRAWING, LOOKS, Drawing
from .colormap import NAMES, SCALES, table

LINE_VALUE = 0.5  # as `Word.mask` and `Word.box`
LINE_WIDTH = 1 / 300  # of each of the two lines, as a share of the map's longer side; at least a pixel
LINE_COLOURS = ((0, 0, 0), (255, 255, 255))  # outside, inside
LEAST_SLOPE = 0.002  # over a line's width: on flatter ground, half a step of 256, a line has no place

_UNTOUCHED = 0.05  # up to this value the picture keeps its pixels
_THICKEST = 0.75  # the picture shows through, and magenta still has a contrast of 3 to white and to black

DRAWINGS: tuple[Drawing, ...] = get_args(Drawing)
Values = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Style:
    """A drawing with its colours and opacity, checked.

    Attributes:
        drawing: one of ``DRAWINGS``.
        colormap: one of ``colormaps(drawing)``.
        heatmap_opacity: in [0, 1].
    """

    drawing: Drawing
    colormap: str
    heatmap_opacity: float


def style(drawing: Drawing, heatmap_opacity: float | None = None, colormap: str | None = None) -> Style:
    """What is asked for, and the drawing's own `Look` for what is None.

    Raises:
        InputError: no such drawing, no colour map that it can use, or an opacity that is no number from 0 to 1.
    """
    if drawing not in DRAWINGS:
        raise InputError(f"drawing: expected one of {', '.join(DRAWINGS)}; got {drawing!r}")
    colormap = LOOKS[drawing].colormap if colormap is None else colormap
    table(colormap)
    if colormap not in colormaps(drawing):
        raise InputError(
            f"colormap: expected one of {', '.join(SCALES)} for drawing={drawing!r}, where the colour has to say the "
            f"value; got {colormap!r}"
        )
    opacity = LOOKS[drawing].opacity if heatmap_opacity is None else heatmap_opacity
    is_number = isinstance(opacity, (int, float, np.number)) and not isinstance(opacity, bool)
    if not is_number or not 0.0 <= float(opacity) <= 1.0:  # NaN fails the comparison too
        raise InputError(f"heatmap_opacity: expected a number from 0 to 1, got {opacity!r}")
    return Style(drawing, colormap, float(opacity))


def colormaps(drawing: Drawing) -> tuple[str, ...]:
    """The colour maps that a drawing can use."""
    return NAMES if drawing == "highlight" else SCALES


def outlined(drawing: Drawing) -> bool:
    """Whether the drawing has the line around what is hot."""
    return drawing == "highlight"


def thickness(drawing: Drawing) -> NDArray[np.uint8]:
    """``(256,)`` uint8: opacity of the ink of the value ``i / 255``, before the opacity that is asked for."""
    if drawing == "heat":
        return np.full(256, 255, dtype=np.uint8)
    above = np.clip((np.linspace(0, 1, 256) - _UNTOUCHED) / (1 - _UNTOUCHED), 0, 1)
    smooth = above**2 * (3 - 2 * above)  # level at both ends: no edge where it begins
    return np.rint(255 * _THICKEST * smooth).astype(np.uint8)


def for_script() -> dict[str, Any]:
    """What a script needs to draw the same, as JSON values: a map in steps of 1/255, tables in base64."""
    line = {
        "value": 255 * LINE_VALUE,
        "width": LINE_WIDTH,
        "colours": LINE_COLOURS,
        "leastSlope": 255 * LEAST_SLOPE,
    }
    return {
        "colormaps": {name: base64.b64encode(table(name).tobytes()).decode("ascii") for name in NAMES},
        "drawings": {
            name: {
                "colormaps": colormaps(name),
                "colormap": LOOKS[name].colormap,
                "opacity": LOOKS[name].opacity,
                "thickness": base64.b64encode(thickness(name).tobytes()).decode("ascii"),
                "line": line if outlined(name) else None,
            }
            for name in DRAWINGS
        },
        "drawing": DEFAULT_DRAWING,
    }


def ink(values: Values, of: Style, longer_side: float) -> tuple[Values, Values]:
    """The ink on a rectangle of pixels.

    Args:
        values: ``(height, width)`` in [0, 1].
        of: the drawing.
        longer_side: of the whole map in these pixels, which the line is a share of.

    Returns:
        ``(height, width, 3)``, colours from 0 to 255 times their opacity, and ``(height, width)``, the opacity in
        [0, 1].
    """
    index = np.rint(np.clip(values, 0.0, 1.0) * 255).astype(np.uint8)
    opacity = (thickness(of.drawing).astype(np.float32) / 255)[index]
    colours = table(of.colormap)[index] * opacity[..., None]
    if outlined(of.drawing):
        width = max(1.0, longer_side * LINE_WIDTH)
        inwards = _distance(values, width)
        near = np.abs(inwards) < width + 1
        for colour, middle in zip(LINE_COLOURS, (-width / 2, width / 2)):
            covered = np.clip((width + 1) / 2 - np.abs(inwards[near] - middle), 0, 1)  # a pixel is partly on a line
            opacity[near] += covered * (1 - opacity[near])
            colours[near] += covered[:, None] * (np.array(colour, dtype=np.float32) - colours[near])
    share = np.float32(of.heatmap_opacity)
    return colours * share, opacity * share


def _distance(values: Values, width: float) -> NDArray[np.float32]:
    """Pixels from where the map crosses ``LINE_VALUE``, to first order, positive inside; far where it is flat."""
    height = np.asarray(values, dtype=np.float32) - np.float32(LINE_VALUE)
    slope = np.hypot(*(_slope(height, axis) for axis in (0, 1)))
    flat = slope * width < LEAST_SLOPE
    distance: NDArray[np.float32] = np.where(flat, np.float32(np.inf), height / np.where(flat, np.float32(1), slope))
    return distance


def _slope(values: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    if values.shape[axis] == 1:
        return np.zeros_like(values)
    slope: NDArray[np.float32] = np.gradient(values, axis=axis)
    return slope
