"""What a notebook shows of an explanation: the report in a frame, or a picture."""

from __future__ import annotations

import html
from io import BytesIO
from typing import TYPE_CHECKING

from .fit import fit
from .html import render_html
from .languages import ENGLISH, Language, labels
from .montage import montage
from .overlay import overlay
from .payload import data_uri

if TYPE_CHECKING:
    from PIL import Image

    from ..result.explanation import Explanation

HEIGHT = 720
"""Pixels of the frame; it can be dragged larger."""
PICTURE_PIXELS = 1024


class Shown:
    """An explanation as a notebook shows it, its report in a language of one's own.

    Raises:
        InputError: as `dexar_fast.render.languages.labels`.
    """

    def __init__(self, explanation: Explanation, lang: Language) -> None:
        self._explanation, self._said = explanation, labels(lang)

    def _repr_html_(self) -> str | None:
        return frame(self._explanation, lang=self._said)

    def _repr_png_(self) -> bytes | None:
        return picture(self._explanation)

    def __repr__(self) -> str:
        return repr(self._explanation)


def frame(explanation: Explanation, *, lang: Language = ENGLISH) -> str | None:
    """The interactive report as an element of another page; None where there is no 2-D map.

    The frame is sandboxed: its scripts run, with an origin of their own, so nothing in the report, which may come
    from a file that somebody sent, can reach the notebook. It may save files, where the notebook lets its frames.

    After it stands what only a page without scripts shows. Notebooks that are not trusted are such pages: they take the
    frame out, and would show nothing, since they prefer HTML to pictures even then.

    Raises:
        InputError: as `dexar_fast.render.html.render_html`.
    """
    if not explanation.grids:
        return None
    said = labels(lang)
    page = html.escape(render_html(explanation, lang=said), quote=True)
    style = f"width: 100%; height: {HEIGHT}px; border: 0; resize: vertical; overflow: auto"
    sandbox = "allow-scripts allow-downloads"
    return (
        f'<iframe title="DEX-AR" sandbox="{sandbox}" style="{style}" srcdoc="{page}"></iframe>'
        f"<noscript><p>{html.escape(said['untrusted'])}</p>"
        f'<img alt="{html.escape(said["answer_map"])}" src="{data_uri(_drawn(explanation))}"></noscript>'
    )


def picture(explanation: Explanation) -> bytes | None:
    """The answer map on the image as a PNG file, at most `PICTURE_PIXELS` wide and high; None where there is none."""
    if not explanation.grids:
        return None
    png = BytesIO()
    _drawn(explanation).save(png, "PNG")
    return png.getvalue()


def _drawn(explanation: Explanation) -> Image.Image:
    """The answer map on the image, of several images side by side."""
    shown = montage(explanation)
    image, grid = fit(shown.image, shown.grid, PICTURE_PIXELS)
    return overlay(image, shown.answer_map, grid)
