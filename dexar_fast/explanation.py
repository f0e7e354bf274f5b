"""The result: which part of the image made the model write each token."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .errors import InputError
from .geometry import Grid
from .per_image import as_tuple, one_or_tuple
from .render.colormap import DEFAULT_COLORMAP
from .render.overlay import DEFAULT_OPACITY
from .tokens import word_spans

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.floating[Any]]
# One for each image: the thing itself for one image, a tuple of them for several; or None where the field may be.
Maps = Any
PerImage = Any


@dataclass(frozen=True)
class Word:
    """A run of tokens without white space between them.

    Attributes:
        text: the word without surrounding white space.
        start, stop: its tokens are ``tokens[start:stop]``.
        map: ``(h, w)`` in [0, 1]: ``minmax`` of the sum of its tokens' maps before their normalisation; of several
            images a tuple, one per image.
        weight: the largest ``delta`` of its tokens.
        grounding: how much the image supports the word, in [0, 1], or None if that was not asked for.
    """

    text: str
    start: int
    stop: int
    map: Maps
    weight: float
    grounding: float | None = None


@dataclass(frozen=True, eq=False)
class Explanation:
    """Maps and scores of one answer (T tokens, L layers, H heads, a grid of h x w cells).

    Where the model reads the image through N queries that have no place (BLIP-2), there is no 2-D map: `grid` is None,
    ``token_maps`` is ``(T, N)`` and ``answer_map`` ``(N,)``, the scores per query.

    Of a prompt with several images (or video frames), maps, `grid` and `image` are tuples, one entry per image in the
    prompt's order; [0, 1] then spans all of them, so that images can be compared. `of_image` gives one of them alone.

    Attributes:
        tokens: T pieces of the answer as text; joined they are the answer.
        token_ids: ``(T,)`` int64.
        token_maps: ``(T, h, w)`` in [0, 1], Eq. 5 after ``minmax``; a constant map is zero.
        answer_map: ``(h, w)`` in [0, 1], Eq. 6.
        token_weights: ``(T,)``, ``delta`` of Eq. 6, not negative, in logits per unit of attention.
        image_scores, text_scores: ``(T, L, H)``, ``S_img`` and ``S_text`` of Eq. 4.
        token_map_ranges: ``(T, 2)``, minimum and maximum of each token's map before ``minmax``.
        layers: L decoder layers that were summed, from 0.
        grid: where the cells lie on the image.
        settings: what is needed to reproduce the result: model, versions, prompt, ids, options. JSON values only.
        image: the user's image (RGB), or None.
        unfiltered_token_maps, unfiltered_answer_map: the same with every head weight 1 (and equal token weights),
            or None when they were not asked for.
        log_probabilities: ``(T, 2)`` float64, the model's log-probability of each token with the image and with a blank
            one, or None when `grounding` was not asked for.
    """

    tokens: list[str]
    token_ids: NDArray[np.int64]
    token_maps: Maps
    answer_map: Maps
    token_weights: Floats
    image_scores: Floats
    text_scores: Floats
    token_map_ranges: Floats
    layers: tuple[int, ...]
    grid: PerImage
    settings: dict[str, Any] = field(default_factory=dict)
    image: PerImage = None
    unfiltered_token_maps: Maps = None
    unfiltered_answer_map: Maps = None
    log_probabilities: Floats | None = None

    @property
    def answer(self) -> str:
        """The answer as text."""
        return "".join(self.tokens)

    @property
    def prompt(self) -> str:
        """The prompt as the user gave it; empty when only ids were given."""
        return str(self.settings.get("prompt") or "")

    @property
    def grounding(self) -> Floats | None:
        """How much the image supports each token, ``(T,)`` in [0, 1], or None if it was not asked for.

        ``p / (p + p_blank)``, with p the model's probability of the token and p_blank that after a blank image: 0.5
        where the image changes nothing, near 0 where it speaks against the token. A word has the product of its tokens'
        probabilities for p.
        """
        return None if self.log_probabilities is None else share(self.log_probabilities)

    @property
    def grids(self) -> tuple[Grid, ...]:
        """Where the cells lie on each image; empty if there is no 2-D map."""
        return () if self.grid is None else as_tuple(self.grid)

    def require_map(self) -> None:
        """Raise InputError if there is no 2-D map to draw."""
        if self.grid is None:
            raise InputError(
                f"explanation: a {self.settings.get('family', '')} model reads the image through "
                f"{self.answer_map.shape[0]} queries, which have no place on it: there is no map to draw. "
                "token_maps (T, N) and answer_map (N,) are the scores of the queries."
            )

    def of_image(self, index: int) -> Explanation:
        """The same with the maps of one image alone; scores, weights and the range of [0, 1] stay those of all.

        Raises:
            InputError: there is no such image.
        """
        _item(self.grids, index, "image")

        def one(values: Any) -> Any:
            return None if values is None else as_tuple(values)[index]

        return replace(
            self,
            token_maps=one(self.token_maps),
            answer_map=one(self.answer_map),
            grid=one(self.grid),
            image=one(self.image),
            unfiltered_token_maps=one(self.unfiltered_token_maps),
            unfiltered_answer_map=one(self.unfiltered_answer_map),
        )

    def words(self) -> list[Word]:
        """Tokens grouped into words, with their maps and weights.

        A word's map is ``minmax`` of the sum of its tokens' maps before their normalisation (Eq. 5), so a word of one
        token has that token's map; its weight is the largest of its tokens' weights.
        """
        return [self._word(start, stop) for start, stop in word_spans(self.tokens)]

    def overlay(
        self,
        token: int | None = None,
        *,
        word: int | None = None,
        image: int = 0,
        heatmap_opacity: float = DEFAULT_OPACITY,
        colormap: str = DEFAULT_COLORMAP,
    ) -> Image.Image:
        """A map drawn over the image, in the image's own resolution.

        Args:
            token: index of a token, negative from the end; None for the answer map.
            word: index into `words()`, instead of a token.
            image: index of the image, where the prompt has several.
            heatmap_opacity: of the map, in [0, 1].
            colormap: a name of `dexar_fast.render.colormap`.

        Raises:
            InputError: both a token and a word, an index out of range, or an opacity or colour map that does not exist.
        """
        from .render.overlay import overlay

        self.require_map()
        cell_map = _item(as_tuple(self._map(token, word)), image, "image")
        picture = None if self.image is None else as_tuple(self.image)[image]
        return overlay(picture, cell_map, self.grids[image], heatmap_opacity=heatmap_opacity, colormap=colormap)

    def plot(self, **options: Any) -> Figure:
        """A matplotlib figure of the answer map and the token maps: see `dexar_fast.render.plot.plot`."""
        from .render.plot import plot

        return plot(self, **options)

    def to_html(self, path: str | PathLike[str]) -> Path:
        """Write the interactive report, one self-contained HTML file; returns its path."""
        from .render.html import to_html

        return to_html(self, path)

    def save(self, path: str | PathLike[str], *, exact: bool = False) -> Path:
        """Write everything into one safetensors file; a failed write leaves an existing file as it was.

        Args:
            path: of the file.
            exact: keep maps and scores in their own dtype, bit for bit; by default maps are stored as float16.
        """
        from .storage import save

        return save(self, path, exact=exact)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Explanation:
        """Read what `save` wrote.

        Raises:
            InputError: no such file, or not an explanation, or of a newer format.
        """
        from .storage import load

        return load(path)

    def _word(self, start: int, stop: int) -> Word:
        maps = as_tuple(self.token_maps)
        low, high = self.token_map_ranges[start:stop].T.reshape(2, -1, *[1] * (maps[0].ndim - 1))
        totals = [(low + of_image[start:stop] * (high - low)).sum(axis=0) for of_image in maps]
        text = "".join(self.tokens[start:stop]).strip()
        # [0, 1] spans all images, as it does for tokens.
        flat = minmax(np.concatenate([total.ravel() for total in totals]))
        parts = np.split(flat, np.cumsum([total.size for total in totals])[:-1])
        word_map = one_or_tuple([part.reshape(total.shape) for part, total in zip(parts, totals)])
        supported = None
        if self.log_probabilities is not None:
            supported = float(share(self.log_probabilities[start:stop].sum(axis=0)))
        return Word(text, start, stop, word_map, float(self.token_weights[start:stop].max()), supported)

    def _map(self, token: int | None, word: int | None) -> Maps:
        if token is not None and word is not None:
            raise InputError(f"token, word: expected one of them; got token={token} and word={word}")
        if word is not None:
            return self._word(*_item(word_spans(self.tokens), word, "word")).map
        if token is None:
            return self.answer_map
        _item(self.tokens, token, "token")
        return one_or_tuple([of_image[token] for of_image in as_tuple(self.token_maps)])


def minmax(values: Floats) -> Floats:
    """Rescale to [0, 1]; a constant array becomes zero."""
    low, high = values.min(), values.max()
    scaled: Floats = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return scaled


def share(log_probabilities: Floats) -> Floats:
    """``p / (p + p_blank)`` of log-probabilities ``(..., 2)``."""
    with_image, without = np.moveaxis(log_probabilities.astype(np.float64), -1, 0)
    share: Floats = np.exp(with_image - np.logaddexp(with_image, without))
    return share


def _item(items: Any, index: int, name: str) -> Any:
    if not -len(items) <= index < len(items):
        raise InputError(f"{name}: expected an index from {-len(items)} to {len(items) - 1}; got {index}")
    return items[index]
