"""Colour maps as small tables, so that a picture needs no matplotlib.

Those of ``SCALES`` are perceptually uniform: equal steps of a value look like equal steps of colour, and lightness
rises from 0 to 1, so they also read in grey. 33 anchors each, interpolated to 256 colours: within 2 of 255 of the
published tables (cividis within 6). viridis, inferno and magma: Smith, van der Walt and Firing, CC0. cividis: Nunez,
Anderton and Renslow 2018, made to look alike with and without red-green colour blindness.

``"magenta"`` is one colour, for a drawing whose opacity says the value (`dexar_fast.render.drawing`). It lies between
white and black in luminance, so that it stands out from both, and far from the colours of most photographs, also with
red-green colour blindness, where reds look like leaves and shadows (`tests/test_render_drawing.py`).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..result.appearance import DEFAULT_COLORMAP

_ANCHORS = {
    "inferno": """
        000004 040312 0b0724 150b37 210c4a 2f0a5b 3d0965 4a0c6b 56106e 63156e 70196e 7d1e6d 89226a
        962766 a32c61 af315b bb3654 c63d4d d14545 da4f3c e35932 eb6529 f1721e f67f14 f98c0a fb9b06
        fcaa0f fbba1f f9c932 f5d949 f2e865 f3f586 fcffa4""",
    "magma": """
        000004 030312 0a0822 130d34 1d1147 29115a 36106b 440f76 50127c 5d177f 691c81 762181 822681
        8f2a81 9c2e7f a9337d b6367a c33b75 cf4070 db476a e65164 ee5c5e f46a5c f9785d fb8861 fd9668
        fea571 feb47b fec287 fed194 fde0a1 fceeb0 fcfdbf""",
    "viridis": """
        440154 470d60 48186a 482374 472d7b 453781 424086 3e4989 3b528b 375b8d 33638d 2f6b8e 2c728e
        297a8e 26828e 23898e 21908c 1f978b 1f9f88 21a685 27ad81 31b57b 3ebc74 4dc26c 5cc863 6ece58
        82d34d 95d840 aadc32 c0df25 d5e21a eae51a fde725""",
    "cividis": """
        00224e 00285b 002e6a 053371 1a386f 273e6e 32436d 3b496c 434e6c 4b546c 535a6d 5a5f6e 61656f
        686a71 6f7073 767676 7c7c78 838179 8b8778 928d78 9a9376 a29975 aaa073 b3a670 bbad6d c3b369
        ccba64 d4c15f ddc858 e6d051 efd748 f8df3c fee838""",
}
SCALES: tuple[str, ...] = tuple(_ANCHORS)
"""Maps whose colour says the value."""
_PLAIN = {"magenta": "de00f0"}
NAMES: tuple[str, ...] = (*_PLAIN, *SCALES)


@cache
def table(name: str) -> NDArray[np.uint8]:
    """The 256 colours of a map.

    Args:
        name: one of ``NAMES``.

    Returns:
        ``(256, 3)`` uint8 RGB, read-only; row ``i`` is the colour of the value ``i / 255``.

    Raises:
        InputError: there is no map of that name.
    """
    if name not in NAMES:
        raise InputError(f"colormap: expected one of {', '.join(NAMES)}; got {name!r}")
    codes = _ANCHORS[name].split() if name in _ANCHORS else [_PLAIN[name]]
    anchors = np.array([list(bytes.fromhex(code)) for code in codes], dtype=np.float64)  # (33 or 1, 3)
    at, to = np.linspace(0, 255, len(anchors)), np.arange(256)
    colours = np.stack([np.interp(to, at, anchors[:, channel]) for channel in range(3)], axis=1)
    result = np.rint(colours).astype(np.uint8)
    result.flags.writeable = False  # the cache hands out one array
    return result


def colours_of(values: NDArray[np.floating[Any]], name: str = DEFAULT_COLORMAP) -> NDArray[np.uint8]:
    """Colour every value.

    Args:
        values: any shape, in [0, 1]; what lies outside is taken as 0 or 1.
        name: one of ``NAMES``.

    Returns:
        ``(*values.shape, 3)`` uint8 RGB.

    Raises:
        InputError: there is no map of that name.
    """
    index = np.rint(np.clip(values, 0.0, 1.0) * 255).astype(np.uint8)
    return table(name)[index]
