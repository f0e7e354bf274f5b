"""An explanation in three lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..inputs.tokens import printable

if TYPE_CHECKING:
    from .explanation import Explanation
    from .word import Word

_LONGEST = 72  # characters of a text
_WORDS = 3  # named at each end


def summary(explanation: Explanation) -> str:
    """The answer, how it was explained, and which words rest on the image; in what a terminal can show."""
    words = explanation.words()
    counts = f"{len(explanation.tokens)} tokens, {len(words)} {'words' if explanation.targets is None else 'targets'}"
    lines = (
        f"Explanation of {_short(explanation.answer.strip())!r}: {counts}",
        f"  by {', '.join(explanation.methods)} over {len(explanation.layers)} layers of "
        f"{_short(str(explanation.settings.get('model') or 'a model'))}; {_maps(explanation)}",
        f"  {_grounding(words)}",
    )
    return "\n".join(map(printable, lines))


def _maps(explanation: Explanation) -> str:
    grids = explanation.grids
    if not grids:
        return f"{explanation.answer_map.shape[0]} queries without a place"
    grid, several = grids[0], len(grids) > 1
    width, height = grid.image_size
    return f"maps of {grid.rows} x {grid.cols} on {width} x {height} pixels" + (
        f", and of {len(grids) - 1} more images" if several else ""
    )


def _grounding(words: list[Word]) -> str:
    supported = [(word.grounding, word.text) for word in words if word.grounding is not None]
    if not supported:
        return "grounding was not asked for: explain(..., grounding=True) tells which words rest on the image"
    falling = sorted(supported, key=lambda one: -one[0])
    most, least = falling[:_WORDS], falling[_WORDS:][-_WORDS:]
    said = ", ".join(f"{share:.2f} {_short(text)!r}" for share, text in most)
    return (
        f"grounding: {said}"
        + (" ... " if len(falling) > 2 * _WORDS else ", " if least else "")
        + ", ".join(f"{share:.2f} {_short(text)!r}" for share, text in least)
    )


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
