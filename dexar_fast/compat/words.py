"""The words of an explanation for pages of other tools."""

from __future__ import annotations

from collections.abc import Iterable

from ..inputs.tokens import printable
from ..result.explanation import Explanation
from ..result.word import Word


def markdown_table(explanation: Explanation) -> str:
    """The words with their grounding and place as a table in Markdown; nothing in a word is taken for Markdown."""
    lines = ["| word | grounding | strongest at |", "|---|---|---|"]
    for word in explanation.words():
        text = "".join(f"&#{ord(c)};" if c in "|\\`*_[]<>&~#$!" else c for c in printable(word.text))
        grounding = "" if word.grounding is None else f"{word.grounding:.2f}"
        lines.append(f"| {text} | {grounding} | {word.place if word.grids else ''} |")
    return "\n".join(lines)


def lowest_grounding(words: Iterable[Word]) -> float | None:
    """That of the word that the image supports least; None if it was not asked for, or there is no word."""
    return min((word.grounding for word in words if word.grounding is not None), default=None)
