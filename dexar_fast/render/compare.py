"""Words across, methods or models down: several explanations in one figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..inputs.tokens import printable
from ..result.appearance import DEFAULT_DRAWING, Drawing
from ..result.word import occurrences
from .drawing import style
from .fit import fit
from .fonts import font_families
from .montage import montage
from .overlay import overlay

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..result.explanation import Explanation
    from ..result.word import Word

MOST_WORDS = 8  # shown when the caller names none
_PANEL_PIXELS = 384

AskedWord = int | str | tuple[str, int]
"""A word's index, its text, or its text and which occurrence of it, from 0."""


def compare(
    explanations: Sequence[Explanation],
    *,
    words: Sequence[AskedWord] | None = None,
    methods: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    drawing: Drawing = DEFAULT_DRAWING,
    heatmap_opacity: float | None = None,
    colormap: str | None = None,
) -> Figure:
    """Draw a row for each explanation and method: its answer map, then its maps of the words.

    Args:
        explanations: of one answer by several models, of several answers, or one alone.
        words: as `Explanation.word` takes them, or ``("red", 1)`` for one that repeats. None takes the eight of the
            first explanation that rest most on the image, or weigh most where grounding was not asked for. A panel
            stays empty where an answer lacks the word.
        methods: of each explanation; None takes all methods of one explanation, and of several the one in front.
        labels: of the rows; by default what differs: the model, the method, else a number.
        drawing, heatmap_opacity, colormap: as in ``overlay``.

    Returns:
        A matplotlib Figure.

    Raises:
        ImportError: matplotlib is not installed.
        InputError: no explanation, one without a 2-D map or without the method; a word that no answer has, or that
            repeats in one; labels of another number.
    """
    try:
        from .figure import ShownFigure
    except ImportError as error:
        raise ImportError("compare() needs matplotlib: pip install dexar-fast[plot]") from error
    look = asdict(style(drawing, heatmap_opacity, colormap))
    explanations = list(explanations)
    if not explanations:
        raise InputError("explanations: expected at least one; got none")
    if methods is None and len(explanations) == 1:
        methods = explanations[0].methods
    rows = [
        montage(one if method is None else one.of_method(method))
        for one in explanations
        for method in ([None] if methods is None else methods)
    ]
    names = _labels(rows) if labels is None else list(labels)
    if len(names) != len(rows):
        raise InputError(f"labels: expected {len(rows)}, one for each row; got {len(names)}")
    asked = _strongest(rows[0]) if words is None else list(words)
    found = [[_find(row, word) for word in asked] for row in rows]
    for index, word in enumerate(asked):
        if not any(of_row[index] for of_row in found):
            raise InputError(f"words: expected words of the answers; none has {word!r}")

    columns = 1 + len(asked)
    figure = ShownFigure(figsize=(1.9 * columns, 2.1 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), columns, squeeze=False)
    text: dict[str, Any] = {"fontsize": 9, "fontfamily": font_families(), "parse_math": False}
    for row, name, of_row, across in zip(rows, names, found, panels):
        image, grid = fit(row.image, row.grid, _PANEL_PIXELS)
        maps = [row.answer_map, *(word and word.map for word in of_row)]
        titles = ["answer map", *(_title(word) for word in of_row)]
        for axes, cell_map, title in zip(across, maps, titles):
            if cell_map is not None:
                axes.imshow(overlay(image, cell_map, grid, **look))
            axes.set_title(title, **text)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
        across[0].set_ylabel("\n".join(map(printable, name.split("\n"))), **text)
    return figure


def _labels(rows: Sequence[Explanation]) -> list[str]:
    """What tells the rows apart."""
    models, methods = ([str(row.settings.get("model") or "") for row in rows], [row.method for row in rows])
    differing = [values for values in (models, methods) if len(set(values)) > 1]
    if not differing:
        return [row.method if len(rows) == 1 else str(number) for number, row in enumerate(rows, 1)]
    return ["\n".join(values) for values in zip(*differing)]


def _strongest(explanation: Explanation) -> list[AskedWord]:
    """The words that rest most on the image, in the order of the answer, each with its occurrence."""
    words = explanation.words()
    strengths = [word.weight if word.grounding is None else word.grounding for word in words]
    chosen = sorted(range(len(words)), key=lambda index: -strengths[index])[:MOST_WORDS]
    texts = [word.text for word in words]
    return [(texts[index], occurrences(texts, texts[index]).index(index)) for index in sorted(chosen)]


def _find(explanation: Explanation, word: AskedWord) -> Word | None:
    """The word in this answer, or None if it has none of this text."""
    text, nth = word if isinstance(word, tuple) else (word, None)
    if isinstance(text, str):
        found = occurrences([one.text for one in explanation.words()], text)
        if not found or (nth is not None and nth >= len(found)):
            return None
    return explanation.word(text, nth)


def _title(word: Word | None) -> str:
    if word is None:
        return "(not in this answer)"
    return printable(word.text) if word.grounding is None else f"{printable(word.text)}  {word.grounding:.2f}"
