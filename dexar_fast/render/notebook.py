"""What a notebook shows of an explanation: the report in a frame, or a picture."""

from __future__ import annotations

import html
from io import BytesIO
from typing import TYPE_CHECKING

from .fit import fit
from .html import render_html
from .montage import montage
from .overlay import overlay

if TYPE_CHECKING:
    from ..result.explanation import Explanation

HEIGHT = 720
"""Pixels of the frame; it can be dragged larger."""
PICTURE_PIXELS = 1024


def frame(explanation: Explanation) -> str | None:
    """The interactive report as an element of another page; None where there is no 2-D map.

    The frame is sandboxed: its scripts run, with an origin of their own, so nothing in the report, which may come
    from a file that somebody sent, can reach the notebook.

    Raises:
        InputError: as `dexar_fast.render.html.render_html`.
    """
    if not explanation.grids:
        return None
    page = html.escape(render_html(explanation), quote=True)
    style = f"width: 100%; height: {HEIGHT}px; border: 0; resize: vertical; overflow: auto"
    return f'<iframe title="DEX-AR" sandbox="allow-scripts" style="{style}" srcdoc="{page}"></iframe>'


def picture(explanation: Explanation) -> bytes | None:
    """The answer map on the image as a PNG file, at most `PICTURE_PIXELS` wide and high; None where there is none."""
    if not explanation.grids:
        return None
    shown = montage(explanation)
    image, grid = fit(shown.image, shown.grid, PICTURE_PIXELS)
    png = BytesIO()
    overlay(image, shown.answer_map, grid).save(png, "PNG")
    return png.getvalue()
