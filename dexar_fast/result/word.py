"""A word of an answer, with its map, and where that is strongest."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..layout.grid import Grid
from ..layout.per_image import as_tuple
from . import region


@dataclass(frozen=True)
class Word:
    """A run of tokens without white space between them, or what else the explanation has a row for.

    For scripts that put no white space between words, see `dexar_fast.inputs.tokens.word_spans`. Of several images
    `peak`, `box` and `mask` are about the one with the largest value, `image`.

    Attributes:
        text: the word without surrounding white space.
        start, stop: its tokens are ``tokens[start:stop]``.
        map: ``(h, w)`` in [0, 1]: ``minmax`` of the sum of its tokens' maps before their normalisation; of several
            images a tuple, one per image. A target has its own.
        weight: the largest ``delta`` of its tokens. A target has its own.
        grounding: how much the image supports the word, in [0, 1], or None if that was not asked for.
        grids: where the map's cells lie on each image; empty if there is no 2-D map.
        method: of the map.
    """

    text: str
    start: int
    stop: int
    map: Any = field(repr=False)
    weight: float
    grounding: float | None = None
    grids: tuple[Grid, ...] = field(default=(), repr=False)
    method: str = field(default="", repr=False)

    @property
    def image(self) -> int:
        """Index of the image that the word's map is strongest on."""
        return int(np.argmax([float(of_image.max()) for of_image in as_tuple(self.map)]))

    @property
    def peak(self) -> tuple[float, float] | None:
        """``(x, y)`` in pixels, where the map is strongest; None for a constant map.

        Raises:
            InputError: there is no 2-D map.
        """
        return region.peak(*self._strongest)

    def box(self, share: float = 0.5) -> tuple[int, int, int, int] | None:
        """``(left, top, right, bottom)`` in pixels, around all where the map reaches a share of its largest value.

        Raises:
            InputError: there is no 2-D map, or the share is not above 0 and at most 1.
        """
        return region.box(*self._strongest, share)

    def mask(self, share: float = 0.5) -> NDArray[np.bool_]:
        """``(height, width)`` bool, where the map reaches a share of its largest value.

        Raises:
            InputError: as `box`.
        """
        return region.mask(*self._strongest, share)

    @property
    def place(self) -> str:
        """Where the map is strongest, in English words, such as "upper left" or "centre"."""
        return region.place_name(self.peak, self.grids[self.image].image_size)

    @property
    def reading(self) -> str:
        """What `reading_in` says in English."""
        return self.reading_in("en")

    def reading_in(self, lang: str | Mapping[str, str]) -> str:
        """Whether the word rests on the image, and where its map is strongest, in the words of the report.

        What is not known is not said: without grounding only the place, and that alone where there is one.

        Args:
            lang: as for `Explanation.to_html`.

        Raises:
            InputError: no such language, or a table that is not complete.
        """
        from ..render.reading import reading

        return reading(self, self.method, lang)

    @property
    def _strongest(self) -> tuple[Any, Grid]:
        if not self.grids:
            raise InputError("word: the model's image tokens have no place on the image, so neither has the word")
        return as_tuple(self.map)[self.image], self.grids[self.image]


def occurrences(words: Sequence[str], asked: str) -> list[int]:
    """Indices of a word among the texts of all; punctuation around a word does not count."""
    core = asked.strip()
    return [index for index, word in enumerate(words) if core in (word, word.strip(string.punctuation))]


def index_of(words: Sequence[str], asked: str, nth: int | None = None) -> int:
    """Index of a word among the texts of all; punctuation around a word does not count.

    Args:
        words: the texts of `Explanation.words`.
        asked: one of them.
        nth: which of its occurrences, from 0, negative from the end.

    Raises:
        InputError: there is no such word, or several and ``nth`` does not say which.
    """
    found = occurrences(words, asked)
    if not found:
        raise InputError(f"word: expected one of the answer's words ({' '.join(words[:20])}); got {asked!r}")
    if nth is None and len(found) > 1:
        places = ", ".join(map(str, found))
        raise InputError(
            f"word: {asked!r} occurs {len(found)} times, as the words {places}. Say which with nth=0 to "
            f"nth={len(found) - 1}, or pass the index of the word"
        )
    if nth is not None and (not isinstance(nth, Integral) or not -len(found) <= nth < len(found)):
        raise InputError(f"nth: {asked!r} occurs {len(found)} times, counted from 0; got {nth!r}")
    return found[nth or 0]
