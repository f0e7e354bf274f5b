"""What is said about a word, by the labels that the report says it with; reading.js is the same for its page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .languages import ENGLISH, Language, labels

if TYPE_CHECKING:
    from ..result.word import Word


def reading(word: Word | None, method: str, lang: Language = ENGLISH) -> str:
    """Whether a word rests on the image, and where its map is strongest; None is the whole answer.

    Args:
        word: of several images, the place is on the one that its map is strongest on.
        method: of the map.
        lang: see `dexar_fast.render.languages.labels`.

    Returns:
        At most two sentences: without grounding not the first, without a place not the second.

    Raises:
        InputError: no such language, or a table that is not complete.
    """
    said = labels(lang)

    def of_method(name: str) -> str:
        return said.get(f"{name}_{method}", said[f"{name}_other"])

    if word is None:
        return of_method("whole")
    sentences = []
    if word.grounding is not None:
        name = "rests" if word.grounding > 0.75 else "rests_against" if word.grounding < 0.25 else "rests_hardly"
        quoted = said["quoted"].format(text=word.text)
        sentences.append(said[name].format(word=quoted, share=f"{word.grounding:.2f}"))
    if word.grids and word.peak is not None:
        sentences.append(of_method("bright").format(place=said[f"place_{word.place.replace(' ', '_')}"]))
    return " ".join(sentences)
