"""Pictures of an explanation: overlays, figures, and the HTML report. Needs numpy and Pillow, never torch."""

from .colormap import DEFAULT_COLORMAP, NAMES
from .html import render_html, to_html
from .overlay import DEFAULT_OPACITY, overlay
from .plot import plot

__all__ = ["DEFAULT_COLORMAP", "DEFAULT_OPACITY", "NAMES", "overlay", "plot", "render_html", "to_html"]
