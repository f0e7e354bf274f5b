"""A matplotlib figure of the answer map and the tokens that rest most on the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from math import ceil
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..inputs.tokens import printable, token_labels
from ..result.appearance import DEFAULT_DRAWING, Drawing
from .drawing import style
from .fit import fit
from .fonts import font_families
from .montage import montage
from .overlay import overlay

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..result.explanation import Explanation

MOST_TOKENS = 12  # shown when the caller names none
_COLUMNS = 4
_PANEL_PIXELS = 512  # a panel is never drawn larger than this, so a photograph need not be blended at full size


def plot(
    explanation: Explanation,
    *,
    tokens: Sequence[int] | None = None,
    drawing: Drawing = DEFAULT_DRAWING,
    heatmap_opacity: float | None = None,
    colormap: str | None = None,
) -> Figure:
    """Draw the answer map, and beside it a grid of token maps titled with token and weight.

    The figure belongs to no pyplot window and no global setting is touched: save it with ``figure.savefig(path)``.

    Args:
        explanation: what to draw; several images are drawn side by side.
        tokens: indices of tokens (of targets, where there are any), negative ones from the end; None takes the
            ``MOST_TOKENS`` of largest weight, in the order of the answer.
        drawing, heatmap_opacity, colormap: as in ``overlay``.

    Returns:
        A matplotlib Figure.

    Raises:
        ImportError: matplotlib is not installed.
        InputError: a token index or another argument is out of range.
    """
    try:
        from .figure import ShownFigure
    except ImportError as error:
        raise ImportError("plot() needs matplotlib: pip install dexar-fast[plot]") from error
    look = asdict(style(drawing, heatmap_opacity, colormap))
    explanation = montage(explanation)
    chosen = _chosen(explanation, tokens)
    image, grid = fit(explanation.image, explanation.grid, _PANEL_PIXELS)
    families = font_families()

    def draw(axes: Axes, cell_map: np.ndarray[Any, Any], title: str) -> None:
        axes.imshow(overlay(image, cell_map, grid, **look))
        # Answers hold "$" and "_": they are text, not mathematics.
        axes.set_title(title, fontsize=9, fontfamily=families, parse_math=False)
        axes.set_axis_off()
        axes.set_anchor("N")

    rows = max(1, ceil(len(chosen) / _COLUMNS))
    width, height = grid.image_size
    panel_height = min(2.4, 1.7 * height / width) + 0.35
    lead = min(3, rows)  # the answer map spans this many token panels each way
    figure = ShownFigure(figsize=(1.8 * (_COLUMNS + lead), rows * panel_height), layout="constrained")
    labels = token_labels(explanation.row_texts)
    panels = figure.add_gridspec(rows, _COLUMNS + lead)
    draw(figure.add_subplot(panels[:lead, :lead]), explanation.answer_map, "answer map")
    for place, index in enumerate(chosen):
        row, column = divmod(place, _COLUMNS)
        title = f"{_title(explanation, labels, index)}  {explanation.token_weights[index]:#.3g}"
        draw(figure.add_subplot(panels[row, lead + column]), explanation.token_maps[index], title)
    return figure


def _chosen(explanation: Explanation, tokens: Sequence[int] | None) -> list[int]:
    """Indices of the tokens to draw, not negative."""
    count = len(explanation.row_texts)
    if tokens is None:
        largest = np.argsort(-np.asarray(explanation.token_weights, dtype=np.float64), kind="stable")
        return sorted(int(index) for index in largest[:MOST_TOKENS])
    for index in tokens:
        if not isinstance(index, Integral) or not -count <= index < count:
            raise InputError(f"tokens: expected indices from {-count} to {count - 1}, got {index}")
    return [int(index) % count for index in tokens]


def _title(explanation: Explanation, labels: Sequence[str], index: int) -> str:
    """The label of a row, and what it was contrasted with or how probable it is."""
    target = explanation.targets and explanation.targets[index]
    foil = explanation.rather_than(*((target.start, target.stop) if target else (index, index + 1)))
    share = f" {target.probability:.0%}" if target and target.probability is not None else ""
    return f"{labels[index].strip()}{share}" + (f", not {printable(foil)}" if foil else "")
