"""How a map looks where nobody asks otherwise."""

DEFAULT_COLORMAP = "inferno"  # its zero is black: the image steps back, and what the map shows glows
DEFAULT_OPACITY = 0.55
