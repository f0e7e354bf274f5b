"""Figures that show themselves in a notebook."""

from __future__ import annotations

from io import BytesIO

from matplotlib.figure import Figure


class ShownFigure(Figure):
    """A figure of matplotlib. Notebooks show a bare one only once pyplot was imported, which is the caller's choice."""

    def _repr_png_(self) -> bytes:
        png = BytesIO()
        self.savefig(png, format="png")
        return png.getvalue()
