"""How a map looks where nobody asks otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Drawing = Literal["highlight", "heat"]
"""``"highlight"`` colours what is hot and leaves the rest of the picture as it is; ``"heat"`` colours everything."""


@dataclass(frozen=True)
class Look:
    """What a drawing takes where nobody asks otherwise.

    Attributes:
        colormap: a name of `dexar_fast.render.colormap`.
        opacity: of all that is drawn, in [0, 1].
    """

    colormap: str
    opacity: float


LOOKS: dict[Drawing, Look] = {
    "highlight": Look("magenta", 1.0),  # whose colour is never opaque by itself; no other is rarer in photographs
    "heat": Look("inferno", 0.55),  # its zero is black: the image steps back, and what the map shows glows
}
DEFAULT_DRAWING: Drawing = "highlight"
DEFAULT_COLORMAP = LOOKS["heat"].colormap  # where every value needs a colour, as in a grid of heads
