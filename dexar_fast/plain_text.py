"""What rich would draw in a terminal, as text."""

from __future__ import annotations

from rich.console import Console, RenderableType

_WIDTH = 110  # columns


def plain_text(drawn: RenderableType) -> str:
    """Without colours, for `print` and for files."""
    console = Console(width=_WIDTH, color_system=None, force_terminal=False)
    with console.capture() as captured:
        console.print(drawn)
    return captured.get()
