"""Figures as files."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

from dexar_fast.result.atomic import write_atomically


def write_svg(figure: Any, path: Path) -> None:
    """Write a matplotlib figure; the same figure gives the same bytes."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    image = BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "dexar_fast", "svg.fonttype": "none"}):
        FigureCanvasSVG(figure).print_svg(image, metadata={"Date": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, image.getvalue())
