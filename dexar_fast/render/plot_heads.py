"""A matplotlib figure of the head weights: layers across, heads down."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING

from ..result.appearance import DEFAULT_COLORMAP
from .colormap import table
from .fonts import font_families

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..result.explanation import Floats

_MOST_TICKS = 20


def plot_heads(weights: Floats, layers: Sequence[int], title: str, *, colormap: str = DEFAULT_COLORMAP) -> Figure:
    """Draw head weights as a grid whose columns are layers and whose rows are heads.

    Args:
        weights: ``(L, H)``, not negative.
        layers: what to call the L layers.
        title: above the grid.
        colormap: a name of `dexar_fast.render.colormap`, from 0 to the largest weight.

    Raises:
        ImportError: matplotlib is not installed.
        InputError: there is no such colour map.
    """
    try:
        from matplotlib.colors import ListedColormap

        from .figure import ShownFigure
    except ImportError as error:
        raise ImportError("plot_heads() needs matplotlib: pip install dexar-fast[plot]") from error
    n_layers, n_heads = weights.shape
    colours = ListedColormap(table(colormap) / 255)
    figure = ShownFigure(figsize=(_inches(n_layers) + 1.6, _inches(n_heads) + 1.0), layout="constrained")
    axes = figure.add_subplot()
    grid = axes.imshow(weights.T, cmap=colours, vmin=0, vmax=float(weights.max()) or 1.0, interpolation="nearest")
    columns, rows = (range(0, count, ceil(count / _MOST_TICKS)) for count in (n_layers, n_heads))
    axes.set_xticks(columns, [str(layers[column]) for column in columns])
    axes.set_yticks(rows)
    axes.set_xlabel("layer")
    axes.set_ylabel("head")
    axes.set_title(title, fontsize=10, fontfamily=font_families(), parse_math=False)
    bar = figure.colorbar(grid, ax=axes, pad=0.02)
    bar.set_label("w = relu(S_img - S_text)\nlogits per unit of attention", parse_math=False)
    return figure


def _inches(count: int) -> float:
    """Length of an axis: cells are large enough to see one by one where there are few."""
    return min(10.0, max(2.4, 0.2 * count))
