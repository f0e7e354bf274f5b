"""The result: which part of the image made the model write each token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import InputError
from ..inputs.targets import Foil, Target
from ..inputs.tokens import printable, token_labels, word_spans
from ..layout.grid import Grid
from ..layout.per_image import as_tuple, one_or_tuple
from .appearance import DEFAULT_COLORMAP, DEFAULT_DRAWING, Drawing
from .heads import Head, HeadMeans, head_means, head_weights, top_heads
from .method_maps import MAPS, MethodMaps
from .rows import table, to_dict
from .tables import to_arrow, to_csv, to_json, to_pandas
from .values import Floats, minmax, share
from .word import Word, index_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..render.notebook import Shown

# One for each image: the thing itself for one image, a tuple of them for several; or None where the field may be.
Maps = Any
PerImage = Any


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """Maps and scores of one answer (T tokens, L layers, H heads, a grid of h x w cells).

    With `targets`, the maps, weights and scores have a row for each of these instead of each token; `tokens`,
    `token_ids`, `foils` and `log_probabilities` are always those of the whole answer.

    Where the model reads the image through N queries that have no place (BLIP-2), there is no 2-D map: `grid` is None,
    ``token_maps`` is ``(T, N)`` and ``answer_map`` ``(N,)``, the scores per query.

    Of a prompt with several images (or video frames), maps, `grid` and `image` are tuples, one entry per image in the
    prompt's order; [0, 1] then spans all of them, so that images can be compared. `of_image` gives one of them alone.

    Attributes:
        tokens: T pieces of the answer as text; joined they are the answer.
        token_ids: ``(T,)`` int64.
        token_maps: ``(T, h, w)`` in [0, 1], Eq. 5 after ``minmax``; a constant map is zero.
        answer_map: ``(h, w)`` in [0, 1], Eq. 6.
        token_weights: ``(T,)``, the weight of each token in the answer map: ``delta`` of Eq. 6, not negative, in logits
            per unit of attention; of "dexar-focus" ``h``, in [0, 1]; of methods that score no heads 1.
        image_scores, text_scores: ``(T, L, H)``, ``S_img`` and ``S_text`` of Eq. 4; of "dexar-focus" the largest
            ``relu(x)`` and zeros.
        token_map_ranges: ``(T, 2)``, minimum and maximum of each token's map before ``minmax``.
        layers: L decoder layers that were summed, from 0.
        grid: where the cells lie on the image.
        settings: what is needed to reproduce the result: model, versions, prompt, ids, options. JSON values only.
        image: the user's image (RGB), or None.
        unfiltered_token_maps, unfiltered_answer_map: the same with every head weight 1 (and equal token weights),
            or None when they were not asked for.
        log_probabilities: ``(T, 2)`` float64, the model's log-probability of each token with the image and with a blank
            one, or None when `grounding` was not asked for.
        targets: what the rows are, if they are not the tokens: words, phrases, spans, or alternatives to one token.
        foils: T foils, what each token was contrasted with, None where nothing; or None without a contrast.
        beside: what other methods made of the same answer; see `of_method`.
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
    targets: tuple[Target, ...] | None = None
    foils: tuple[Foil | None, ...] | None = None
    beside: Mapping[str, MethodMaps] = field(default_factory=dict)

    @property
    def method(self) -> str:
        """The method of the maps, weights and scores."""
        return str(self.settings.get("method", "dexar"))

    @property
    def methods(self) -> tuple[str, ...]:
        """All methods whose maps are here, the one that is shown first in front."""
        return self.method, *self.beside

    def maps(self, method: str | None = None) -> Maps:
        """``(T, h, w)`` in [0, 1], the token maps of a method; None for those of the first, `token_maps`.

        Raises:
            InputError: the explanation has no maps of this method.
        """
        return self.of_method(method or self.method).token_maps

    def of_method(self, method: str) -> Explanation:
        """The same with another of `methods` in front: its maps, weights and scores, its words and pictures.

        Raises:
            InputError: the explanation has no maps of this method.
        """
        if method == self.method:
            return self
        if method not in self.beside:
            raise InputError(
                f"method: expected one of {', '.join(self.methods)}, whose maps are here; got {method!r}. "
                f"Explain with method=[{self.method!r}, {method!r}]."
            )
        others = {name: maps for name, maps in self.beside.items() if name != method}
        settings = {**self.settings, "method": method, "beside": [self.method, *others]}
        beside = {self.method: MethodMaps.of(self), **others}
        return replace(self, **self.beside[method].as_fields, settings=settings, beside=beside)

    def with_beside(self, method: str, other: Explanation) -> Explanation:
        """The same with the maps of another method's explanation of this answer beside its own."""
        return replace(self, beside={**self.beside, method: MethodMaps.of(other)})

    def with_maps(self, change: Callable[[Maps], Maps], **changes: Any) -> Explanation:
        """The same with other maps, of every method: ``change`` is given each, or None where there is none."""
        own = {name: change(getattr(self, name)) for name in MAPS}
        beside = {name: maps.mapped(change) for name, maps in self.beside.items()}
        return replace(self, **own, beside=beside, **changes)

    @property
    def row_texts(self) -> list[str]:
        """What each row explains, a token or a target, as text."""
        return self.tokens if self.targets is None else [target.text for target in self.targets]

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
    def head_weights(self) -> Floats:
        """``w = relu(S_img - S_text)``, the weight of each head in a token's map (Eq. 5), ``(T, L, H)``."""
        return head_weights(self)

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

        return self.with_maps(one, grid=one(self.grid), image=one(self.image))

    def words(self) -> list[Word]:
        """Tokens grouped into words, with their maps and weights; or the targets, where there are any.

        A word's map is ``minmax`` of the sum of its tokens' maps before their normalisation (Eq. 5), so a word of one
        token has that token's map; its weight is the largest of its tokens' weights. A target is one score, and has its
        own map and weight.
        """
        return list(self._words)

    def word(self, word: int | str, nth: int | None = None) -> Word:
        """One of `words()`.

        Args:
            word: its index, negative from the end; or the word itself, with or without punctuation around it.
            nth: which occurrence of the word is meant, from 0, negative from the end; needed where it occurs several
                times.

        Raises:
            InputError: no such word, several of them, or an index with ``nth``.
        """
        return self.words()[self._word_index(word, nth)]

    to_table = table
    to_dict = to_dict
    to_json = to_json
    to_csv = to_csv
    to_pandas = to_pandas
    to_arrow = to_arrow

    def rather_than(self, start: int, stop: int) -> str:
        """The foils of ``tokens[start:stop]`` as text, each once; empty where there are none."""
        foils = [foil for foil in (self.foils or ())[start:stop] if foil is not None]
        return " / ".join(dict.fromkeys(foil.text.strip() or foil.text or f"id {foil.token_id}" for foil in foils))

    def heads(self, token: int | None = None, *, word: int | str | None = None, nth: int | None = None) -> Floats:
        """Where the visual heads are: layers by heads, ``(L, H)`` float32, in logits per unit of attention.

        ``w = relu(S_img - S_text)`` of a token or target, its mean over the tokens of a word, or over all rows:
        the weight with which a head's map enters Eq. 5. What the model would do without the head is another question.
        Row l is layer ``layers[l]``.

        Args:
            token: index of a token, negative from the end; None for the whole answer.
            word, nth: instead of a token: see `word`.

        Raises:
            InputError: both a token and a word, none such, or the method scores no heads.
        """
        return self._head_means(token, word, nth).weight

    def top_heads(
        self,
        count: int = 10,
        *,
        token: int | None = None,
        word: int | str | None = None,
        nth: int | None = None,
    ) -> list[Head]:
        """The heads of largest weight in `heads`, strongest first, fewer where fewer have any.

        Raises:
            InputError: as `heads`, or a count that is no number from 1 on.
        """
        return top_heads(self._head_means(token, word, nth), self.layers, count)

    def plot_heads(
        self,
        token: int | None = None,
        *,
        word: int | str | None = None,
        nth: int | None = None,
        colormap: str = DEFAULT_COLORMAP,
    ) -> Figure:
        """A matplotlib figure of `heads`, layers across and heads down.

        Raises:
            ImportError: matplotlib is not installed.
            InputError: as `heads`, or there is no such colour map.
        """
        from ..render.plot_heads import plot_heads

        start, stop = self._rows(token, word, nth)
        if word is not None:
            title = printable("".join(self.row_texts[start:stop]).strip())
        elif token is not None:
            title = token_labels(self.tokens)[start].strip()
        else:
            title = f"mean over all {stop} {'tokens' if self.targets is None else 'targets'}"
        return plot_heads(self.heads(token, word=word, nth=nth), self.layers, title, colormap=colormap)

    def overlay(
        self,
        token: int | None = None,
        *,
        word: int | str | None = None,
        nth: int | None = None,
        image: int = 0,
        drawing: Drawing = DEFAULT_DRAWING,
        heatmap_opacity: float | None = None,
        colormap: str | None = None,
    ) -> Image.Image:
        """A map drawn over the image, in the image's own resolution.

        Args:
            token: index of a token, negative from the end; None for the answer map. With targets there is none.
            word, nth: instead of a token: see `word`.
            image: index of the image, where the prompt has several.
            drawing: ``"highlight"`` colours what is hot, with a line where the map is at half, and leaves the rest of
                the picture as it is; ``"heat"`` colours everything.
            heatmap_opacity: of all that is drawn, in [0, 1]; None for the drawing's own.
            colormap: a name of `dexar_fast.render.colormap`; None for the drawing's own.

        Raises:
            InputError: both a token and a word, none such, a token where the rows are targets, or a drawing, opacity or
                colour map that does not exist.
        """
        from ..render.overlay import overlay

        self.require_map()
        cell_map = _item(as_tuple(self._map(token, word, nth)), image, "image")
        picture = None if self.image is None else as_tuple(self.image)[image]
        grid = self.grids[image]
        return overlay(picture, cell_map, grid, drawing=drawing, heatmap_opacity=heatmap_opacity, colormap=colormap)

    def plot(self, **options: Any) -> Figure:
        """A matplotlib figure of the answer map and the token maps: see `dexar_fast.render.plot.plot`."""
        from ..render.plot import plot

        return plot(self, **options)

    def __repr__(self) -> str:
        from .summary import summary

        return summary(self)

    def _repr_html_(self) -> str | None:
        """The interactive report, in notebooks; `to_notebook` for one in another language."""
        from ..render.notebook import frame

        return frame(self)

    def _repr_png_(self) -> bytes | None:
        """The answer map, where a notebook shows pictures alone."""
        from ..render.notebook import picture

        return picture(self)

    def to_notebook(self, *, lang: str | Mapping[str, str] = "en") -> Shown:
        """What a notebook shows of the explanation, as the value of a cell or by ``display``, in another language.

        Args:
            lang: as for `to_html`.

        Raises:
            InputError: no such language, or a table that is not complete.
        """
        from ..render.notebook import Shown

        return Shown(self, lang)

    def to_html(self, path: str | PathLike[str], *, lang: str | Mapping[str, str] = "en") -> Path:
        """Write the interactive report, one self-contained HTML file; returns its path.

        Of very long answers of large models, the panel of heads shows the whole answer alone, and says so.

        Args:
            path: of the file; its folder must exist.
            lang: the language of the page: one of `dexar_fast.render.languages.languages()`, or a table of labels of
                one's own, made from ``dexar_fast.render.languages.labels("en")``.

        Raises:
            InputError: no such language, or a table that is not complete; or the explanation holds NaN or infinity.
        """
        from ..render.html import to_html

        return to_html(self, path, lang=lang)

    def save(self, path: str | PathLike[str], *, exact: bool = False) -> Path:
        """Write everything into one file; a failed write leaves an existing file as it was.

        Args:
            path: of the file: an npz where its name ends so, else safetensors. Neither is a pickle.
            exact: keep maps and scores in their own dtype, bit for bit; by default maps are stored as float16.

        Raises:
            InputError: the name ends like that of another kind of file, or its folder does not exist.
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

    @cached_property
    def _words(self) -> tuple[Word, ...]:
        return tuple(self._word(index, *span) for index, span in enumerate(self._spans))

    @property
    def _spans(self) -> list[tuple[int, int]]:
        """Tokens of each of `words()`."""
        return word_spans(self.tokens) if self.targets is None else [(t.start, t.stop) for t in self.targets]

    def _word(self, index: int, start: int, stop: int) -> Word:
        supported = None
        if self.log_probabilities is not None:
            supported = float(share(self.log_probabilities[start:stop].sum(axis=0)))
        if self.targets is not None:
            return Word(
                self.targets[index].text,
                start,
                stop,
                self._row(index),
                float(self.token_weights[index]),
                supported,
                self.grids,
                self.method,
            )
        maps = as_tuple(self.token_maps)
        low, high = self.token_map_ranges[start:stop].T.reshape(2, -1, *[1] * (maps[0].ndim - 1))
        totals = [(low + of_image[start:stop] * (high - low)).sum(axis=0) for of_image in maps]
        text = "".join(self.tokens[start:stop]).strip()
        # [0, 1] spans all images, as it does for tokens.
        flat = minmax(np.concatenate([total.ravel() for total in totals]))
        parts = np.split(flat, np.cumsum([total.size for total in totals])[:-1])
        word_map = one_or_tuple([part.reshape(total.shape) for part, total in zip(parts, totals)])
        weight = float(self.token_weights[start:stop].max())
        return Word(text, start, stop, word_map, weight, supported, self.grids, self.method)

    def _word_index(self, word: int | str, nth: int | None) -> int:
        if isinstance(word, str):
            return index_of([one.text for one in self.words()], word, nth)
        if nth is not None:
            raise InputError(f"nth: goes with the word itself, as in word='red', nth=1; got word={word!r}, nth={nth!r}")
        index: int = _item(range(len(self._spans)), word, "word")
        return index

    def _map(self, token: int | None, word: int | str | None, nth: int | None) -> Maps:
        start, _ = self._rows(token, word, nth)
        if word is not None:
            return self.word(word, nth).map
        return self.answer_map if token is None else self._row(start)

    def _head_means(self, token: int | None, word: int | str | None, nth: int | None) -> HeadMeans:
        return head_means(self, *self._rows(token, word, nth))

    def _rows(self, token: int | None, word: int | str | None, nth: int | None) -> tuple[int, int]:
        """The rows from start to stop: that of a token or target, those of a word, or all."""
        if token is not None and word is not None:
            raise InputError(f"token, word: expected one of them; got token={token} and word={word!r}")
        if word is not None:
            index = self._word_index(word, nth)
            return self._spans[index] if self.targets is None else (index, index + 1)
        if nth is not None:
            raise InputError(f"nth: goes with a word, as in word='red', nth=1; got nth={nth!r} alone")
        if token is None:
            return 0, len(self.row_texts)
        if self.targets is not None:
            raise InputError(
                f"token: this explanation has no maps of tokens, but of {len(self.targets)} targets. Use word="
            )
        start: int = _item(range(len(self.tokens)), token, "token")
        return start, start + 1

    def _row(self, index: int) -> Maps:
        return one_or_tuple([of_image[index] for of_image in as_tuple(self.token_maps)])


def _item(items: Any, index: int, name: str) -> Any:
    if not isinstance(index, Integral) or not -len(items) <= index < len(items):
        raise InputError(f"{name}: expected an index from {-len(items)} to {len(items) - 1}; got {index!r}")
    return items[index]
