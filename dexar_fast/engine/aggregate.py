"""From layer gradients to head scores, token maps and the answer map (Eq. 4-6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ..inputs.methods import Method
from ..layout.image_layout import ImageLayout
from ..ops import Attention, HeadScores, KeySets, accumulator, score_and_accumulate
from ..stages import stage
from .answer_pass import LayerGradient


@dataclass(frozen=True)
class Aggregate:
    """Maps over the C cells of all grids, each row by row.

    Attributes:
        token_maps: ``(T, C)`` in [0, 1]; `answer_map` ``(C,)`` in [0, 1].
        token_map_ranges: ``(T, 2)``, minimum and maximum of each token map before ``minmax``.
        token_weights: ``(T,)``, delta of Eq. 6.
        unfiltered_token_maps, unfiltered_answer_map: the same with ``w = 1`` and equal token weights, or None.
    """

    token_maps: Tensor
    answer_map: Tensor
    token_map_ranges: Tensor
    token_weights: Tensor
    unfiltered_token_maps: Tensor | None
    unfiltered_answer_map: Tensor | None


class Accumulator:
    """Takes one layer after the other, of T rows or some of them; holds ``(T, N)`` sums and ``(T, L, H)`` scores.

    Args:
        rows: the T answer rows, counted in the whole answer; or the T targets that take their place, from 0.
        n_image_keys: N.
        layers: those that will be added, in this order.
        method, unfiltered, backend: as for `Explainer.explain`.

    Attributes:
        beside: accumulators of other methods, which are given the same layers.
        states: normed states ``(1, rows, d)`` of the rows that ran, chunk by chunk; empty unless they are wanted.
    """

    def __init__(
        self,
        rows: slice,
        n_image_keys: int,
        *,
        layers: Sequence[int],
        method: Method,
        unfiltered: bool,
        backend: str,
    ) -> None:
        self.rows = rows
        self.n_image_keys = n_image_keys
        self.layers = tuple(layers)
        self.method = method
        self.wants_unfiltered = unfiltered
        self.backend = backend
        self.beside: Mapping[str, Accumulator] = {}
        self.states: list[Tensor] = []
        self._maps: Tensor | None = None
        self.unfiltered: Tensor | None = None
        self._scores: dict[int, tuple[Tensor, Tensor, Tensor]] = {}  # of each layer S_img, S_text, minimum: (T, H)

    def begin(self, rows: slice) -> None:
        """All layers of these rows come next; what was added to them before is forgotten."""
        for sums in (self._maps, self.unfiltered):
            if sums is not None:
                sums[self._own(rows)] = 0
        for other in self.beside.values():
            other.begin(rows)

    @stage("ops")
    def add(self, gradient: LayerGradient, keys: KeySets) -> None:
        """Score one layer's heads (Eq. 4) and add its share to the maps (Eq. 5), by every method."""
        for each in (self, *self.beside.values()):
            if each._maps is None:
                n_rows, dtype = each.rows.stop - each.rows.start, accumulator(gradient.d_out)
                each._maps = gradient.d_out.new_zeros((n_rows, each.n_image_keys), dtype=dtype)
            each._add(gradient, keys)

    def follow(self, earlier: Accumulator) -> None:
        """The rows continue an answer whose rows before them are these."""
        for name, other in self.beside.items():
            other.follow(earlier.beside[name])

    def _add(self, gradient: LayerGradient, keys: KeySets) -> None:
        d_out, call, rows = gradient.d_out, gradient.attention, self._own(gradient.rows)
        assert self._maps is not None
        if self.wants_unfiltered and self.unfiltered is None:
            self.unfiltered = torch.zeros_like(self._maps)
        scores = score_and_accumulate(
            d_out,
            call.value,
            keys,
            self._maps[rows],
            unfiltered=None if self.unfiltered is None else self.unfiltered[rows],
            score_signal=self.method.score_signal,
            map_signal=self.method.map_signal,
            attention=attention_of(gradient),
            backend=self.backend,
        )
        self._keep_scores(call.layer, rows, scores)

    def _keep_scores(self, layer: int, rows: slice, scores: HeadScores) -> None:
        if layer not in self._scores:
            shape = self.rows.stop - self.rows.start, scores.image.shape[1]
            image, text, low = (scores.image.new_zeros(shape) for _ in range(3))
            self._scores[layer] = image, text, low
        for whole, of_rows in zip(self._scores[layer], (scores.image, scores.text, scores.image_min)):
            whole[rows] = of_rows

    @property
    def maps(self) -> Tensor:
        """``(T, N)``, the sum of Eq. 5 over the layers added so far.

        Raises:
            RuntimeError: no layer was added.
        """
        return self._sums

    @property
    def token_weights(self) -> Tensor:
        """``delta = relu(max S_img - max S_text)`` over layers and heads (Eq. 6), ``(T,)``."""
        return (self.image_scores.amax(dim=(1, 2)) - self.text_scores.amax(dim=(1, 2))).clamp(min=0)

    @property
    def _sums(self) -> Tensor:
        if self._maps is None:
            raise RuntimeError("no layer was added")
        return self._maps

    @property
    def image_scores(self) -> Tensor:
        """S_img ``(T, L, H)``."""
        return self._stacked(0)

    @property
    def text_scores(self) -> Tensor:
        """S_text ``(T, L, H)``."""
        return self._stacked(1)

    @property
    def image_minima(self) -> Tensor:
        """Smallest signal on the image keys ``(T, L, H)``, negative where one speaks against the token."""
        return self._stacked(2)

    def _own(self, rows: slice) -> slice:
        return slice(rows.start - self.rows.start, rows.stop - self.rows.start)

    def _stacked(self, score: int) -> Tensor:
        return torch.stack([scores[score] for scores in self._scores.values()], dim=1)

    def _like(self, rows: slice, n_image_keys: int) -> Self:
        """An empty one of other rows."""
        return type(self)(
            rows,
            n_image_keys,
            layers=self.layers,
            method=self.method,
            unfiltered=self.wants_unfiltered,
            backend=self.backend,
        )

    def _join(self, parts: Sequence[Self]) -> None:
        """Take what was added to the parts, whose rows follow each other."""
        self._maps = torch.cat([part._sums for part in parts])
        if self.wants_unfiltered:
            self.unfiltered = torch.cat([part.unfiltered for part in parts if part.unfiltered is not None])
        for layer in parts[0]._scores:
            image, text, low = (torch.cat(of_parts) for of_parts in zip(*(part._scores[layer] for part in parts)))
            self._scores[layer] = image, text, low

    def _take(self, whole: Self, sample: int, rows: slice) -> None:
        """Take what was added to some rows of a whole, those of the sample of this index."""
        self._maps = whole._sums[rows, : self.n_image_keys]
        self.unfiltered = None if whole.unfiltered is None else whole.unfiltered[rows, : self.n_image_keys]
        self._scores = {
            layer: (image[rows], text[rows], low[rows]) for layer, (image, text, low) in whole._scores.items()
        }


def attention_of(gradient: LayerGradient) -> Attention:
    """The layer's attention as the ops take it."""
    call = gradient.attention
    return Attention(call.query, call.key, call.out[0].detach(), call.scale, call.softcap)


def joined(parts: Sequence[Accumulator]) -> Accumulator:
    """One accumulator of rows that follow each other, of the same layers."""
    first = parts[0]
    whole = first._like(slice(first.rows.start, parts[-1].rows.stop), first.n_image_keys)
    whole._join(parts)
    whole.beside = {name: joined([part.beside[name] for part in parts]) for name in first.beside}
    return whole


def parted(whole: Accumulator, counts: Sequence[int], n_image_keys: Sequence[int]) -> list[Accumulator]:
    """One accumulator for each of several samples whose rows follow each other; the other way round than `joined`.

    Args:
        whole: of all rows, with as many columns as the sample with most image keys.
        counts, n_image_keys: of each sample, its rows and its image keys.
    """
    parts, first = [], 0
    of_others = {name: parted(other, counts, n_image_keys) for name, other in whole.beside.items()}
    for sample, (count, n_keys) in enumerate(zip(counts, n_image_keys, strict=True)):
        part = whole._like(slice(0, count), n_keys)
        part._take(whole, sample, slice(first, first + count))
        part.beside = {name: of_other[sample] for name, of_other in of_others.items()}
        parts.append(part)
        first += count
    return parts


def head_weights(image_scores: Tensor, text_scores: Tensor) -> Tensor:
    """``w = relu(S_img - S_text)`` (Eq. 5)."""
    return (image_scores - text_scores).clamp(min=0)


def minmax(x: Tensor) -> Tensor:
    """Rescale the last axis to [0, 1]; a constant row becomes zero."""
    low, high = x.amin(dim=-1, keepdim=True), x.amax(dim=-1, keepdim=True)
    span = high - low
    return ((x - low) / span.where(span > 0, 1)).where(span > 0, 0)


@stage("aggregation")
def aggregate(acc: Accumulator, layout: ImageLayout, normalization: str) -> Aggregate:
    """Normalise and combine what was accumulated.

    Args:
        acc: all layers added, at least one.
        layout: the cells that each image token belongs to; ``minmax`` runs over the cells of all images together.
        normalization: "paper" (Eq. 4-6) or "reference" (the released code).
    """
    if not acc.method.filters_heads:
        return aggregate_densities(layout.to_cells(acc.maps), acc.token_weights)
    image, text = acc.image_scores, acc.text_scores
    maps, unfiltered = acc.maps, acc.unfiltered
    if normalization == "reference":
        # minmax of all gradients is affine, so it is applied to their weighted sums.
        low, high = acc.image_minima.min().clamp(min=0), image.max()
        span = high - low
        scale = torch.where(span > 0, 1 / span, 0)
        weight_sums = head_weights(image, text).sum(dim=(1, 2))[:, None]  # [T, 1]
        maps = (maps - low * weight_sums) * scale
        if unfiltered is not None:
            unfiltered = (unfiltered - low * (image.shape[1] * image.shape[2])) * scale
    maps = layout.to_cells(maps)
    unfiltered = layout.to_cells(unfiltered) if unfiltered is not None else None
    delta = acc.token_weights
    return Aggregate(
        token_maps=minmax(maps),
        answer_map=_answer_map(maps, delta, normalization),
        token_map_ranges=torch.stack((maps.amin(dim=1), maps.amax(dim=1)), dim=1),
        token_weights=delta,
        unfiltered_token_maps=minmax(unfiltered) if unfiltered is not None else None,
        unfiltered_answer_map=_answer_map(unfiltered, torch.ones_like(delta), normalization)
        if unfiltered is not None
        else None,
    )


def aggregate_densities(maps: Tensor, weights: Tensor) -> Aggregate:
    """Combine maps ``(T, C)`` that say where the evidence of each token lies, as shares of it, by weights ``(T,)``."""
    ranges = torch.stack((maps.amin(dim=1), maps.amax(dim=1)), dim=1)
    return Aggregate(minmax(maps), minmax(weights @ maps), ranges, weights, None, None)


def aggregate_plain(maps: Tensor, normalization: str) -> Aggregate:
    """Combine the maps of a method that scores no heads: every token weighs 1.

    Args:
        maps: ``(T, C)`` over the cells of all grids, not negative, in any unit.
        normalization: as for `aggregate`.
    """
    weights = maps.new_ones(len(maps))
    ranges = torch.stack((maps.amin(dim=1), maps.amax(dim=1)), dim=1)
    return Aggregate(minmax(maps), _answer_map(maps, weights, normalization), ranges, weights, None, None)


def _answer_map(maps: Tensor, delta: Tensor, normalization: str) -> Tensor:
    """Eq. 6 on ``minmax(E^t)``, or on E^t itself as the released code does."""
    per_token = minmax(maps) if normalization == "paper" else maps
    return minmax((delta[:, None] * per_token).sum(dim=0))
