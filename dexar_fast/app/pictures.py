"""What the app shows of an explanation: words in their colours, maps over the picture, files to take along."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from ..layout.per_image import as_tuple
from ..render.languages import ENGLISH, Language
from ..render.overlay import overlay
from ..render.reading import reading
from ..result.explanation import Explanation
from ..runs.stream import StreamedToken

ANSWER = "the whole answer"

Captioned = list[tuple[Image.Image, str]]


def coloured_words(explanation: Explanation) -> list[tuple[str, float]]:
    """Each word, and how far the image speaks against it: from -1 (it rests on it, Gradio's violet) to 1 (red)."""
    return [(f"{word.text} ", _against(word.grounding)) for word in explanation.words()]


def coloured_token(token: StreamedToken) -> tuple[str, float]:
    """The same of one token of an answer that is being written."""
    return token.token, _against(token.grounding)


def token_maps(token: StreamedToken, picture: Image.Image) -> Captioned:
    """A token's map over the picture, with the lens that is shown first."""
    text = token.token.strip() or "…"
    return [(overlay(picture, one, grid), text) for one, grid in zip(as_tuple(token.token_map), token.grids)]


def word_maps(explanation: Explanation, *words: int | None) -> Captioned:
    """The maps of some words, or of the answer for None, with each lens beside each other.

    Raises:
        InputError: the model's image tokens have no place on the image.
    """
    return [
        (explanation.of_method(method).overlay(word=word), _caption(explanation, method, word))
        for word in words
        for method in explanation.methods
    ]


def word_choices(explanation: Explanation) -> list[tuple[str, int]]:
    """The words by number, as a list offers them."""
    return [(f"{index + 1}  {word.text}", index) for index, word in enumerate(explanation.words())]


def two_words(explanation: Explanation) -> tuple[int, int]:
    """Indices of the two words that rest most on the image, to compare first; of a single word that one twice."""
    words = explanation.words()
    best = sorted(range(len(words)), key=lambda index: -(words[index].grounding or 0.0))
    first, second = sorted((best[0], best[min(1, len(best) - 1)]))
    return first, second


def readings(explanation: Explanation, *words: int | None, lang: Language = ENGLISH) -> str:
    """What is to be said about some words, or about the answer for None, a line each."""
    every = explanation.words()
    return "\n".join(reading(None if word is None else every[word], explanation.method, lang) for word in words)


def write_files(
    explanation: Explanation, word: int | None, folder: Path, lang: Language = ENGLISH
) -> tuple[str, str, str]:
    """The report, the table of words and the overlay of a word, in place of those that the folder held."""
    folder.mkdir(exist_ok=True)
    report, table, picture = folder / "report.html", folder / "words.csv", folder / "overlay.png"
    explanation.to_html(report, lang=lang)
    explanation.to_csv(table)
    explanation.overlay(word=word).save(picture)
    return str(report), str(table), str(picture)


def _caption(explanation: Explanation, method: str, word: int | None) -> str:
    text = ANSWER if word is None else explanation.words()[word].text
    return f"{text}: {method}"


def _against(grounding: float | None) -> float:
    return 0.0 if grounding is None else 1 - 2 * grounding
