"""From layer gradients to head scores, token maps and the answer map (Eq. 4-6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..inputs.methods import Method
from ..layout.image_layout import ImageLayout
from ..ops import Attention, KeySets, accumulator, score_and_accumulate
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
        method, unfiltered, backend: as for `Explainer.explain`.
    """

    def __init__(self, rows: slice, n_image_keys: int, *, method: Method, unfiltered: bool, backend: str) -> None:
        self.rows = rows
        self.n_image_keys = n_image_keys
        self.method = method
        self.wants_unfiltered = unfiltered
        self.backend = backend
        self._maps: Tensor | None = None
        self.unfiltered: Tensor | None = None
        self._scores: dict[int, tuple[Tensor, Tensor, Tensor]] = {}  # of each layer S_img, S_text, minimum: (T, H)

    def begin(self, rows: slice) -> None:
        """All layers of these rows come next; what was added to them before is forgotten."""
        for sums in (self._maps, self.unfiltered):
            if sums is not None:
                sums[self._own(rows)] = 0

    @stage("ops")
    def add(self, gradient: LayerGradient, keys: KeySets) -> None:
        """Score one layer's heads (Eq. 4) and add its share to the maps (Eq. 5)."""
        d_out, call, rows = gradient.d_out, gradient.attention, self._own(gradient.rows)
        n_rows = self.rows.stop - self.rows.start
        if self._maps is None:
            self._maps = d_out.new_zeros((n_rows, self.n_image_keys), dtype=accumulator(d_out))
            self.unfiltered = torch.zeros_like(self._maps) if self.wants_unfiltered else None
        scores = score_and_accumulate(
            d_out,
            call.value,
            keys,
            self._maps[rows],
            unfiltered=None if self.unfiltered is None else self.unfiltered[rows],
            score_signal=self.method.score_signal,
            map_signal=self.method.map_signal,
            attention=Attention(call.query, call.key, call.out[0].detach(), call.scale, call.softcap),
            backend=self.backend,
        )
        if call.layer not in self._scores:
            image, text, low = (scores.image.new_zeros(n_rows, d_out.shape[1]) for _ in range(3))
            self._scores[call.layer] = image, text, low
        for whole, of_rows in zip(self._scores[call.layer], (scores.image, scores.text, scores.image_min)):
            whole[rows] = of_rows

    @property
    def maps(self) -> Tensor:
        """``(T, N)``, the sum of Eq. 5 over the layers added so far.

        Raises:
            RuntimeError: no layer was added.
        """
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
        """Smallest relu-gradient on the image keys ``(T, L, H)``."""
        return self._stacked(2)

    def _own(self, rows: slice) -> slice:
        return slice(rows.start - self.rows.start, rows.stop - self.rows.start)

    def _stacked(self, score: int) -> Tensor:
        return torch.stack([scores[score] for scores in self._scores.values()], dim=1)


def joined(parts: Sequence[Accumulator]) -> Accumulator:
    """One accumulator of rows that follow each other, of the same layers."""
    first = parts[0]
    rows = slice(first.rows.start, parts[-1].rows.stop)
    whole = Accumulator(
        rows, first.n_image_keys, method=first.method, unfiltered=first.wants_unfiltered, backend=first.backend
    )
    whole._maps = torch.cat([part.maps for part in parts])
    if first.wants_unfiltered:
        whole.unfiltered = torch.cat([part.unfiltered for part in parts if part.unfiltered is not None])
    for layer in first._scores:
        image, text, low = (torch.cat(of_parts) for of_parts in zip(*(part._scores[layer] for part in parts)))
        whole._scores[layer] = image, text, low
    return whole


def parted(whole: Accumulator, counts: Sequence[int], n_image_keys: Sequence[int]) -> list[Accumulator]:
    """One accumulator for each of several samples whose rows follow each other; the other way round than `joined`.

    Args:
        whole: of all rows, with as many columns as the sample with most image keys.
        counts, n_image_keys: of each sample, its rows and its image keys.
    """
    parts, first = [], 0
    for count, n_keys in zip(counts, n_image_keys, strict=True):
        rows, first = slice(first, first + count), first + count
        part = Accumulator(
            slice(0, count), n_keys, method=whole.method, unfiltered=whole.wants_unfiltered, backend=whole.backend
        )
        part._maps = whole.maps[rows, :n_keys]
        part.unfiltered = None if whole.unfiltered is None else whole.unfiltered[rows, :n_keys]
        part._scores = {
            layer: (image[rows], text[rows], low[rows]) for layer, (image, text, low) in whole._scores.items()
        }
        parts.append(part)
    return parts


def head_weights(image_scores: Tensor, text_scores: Tensor) -> Tensor:
    """``w = relu(S_img - S_text)`` (Eq. 5)."""
    return (image_scores - text_scores).clamp(min=0)


def token_weights(image_scores: Tensor, text_scores: Tensor) -> Tensor:
    """``delta = relu(max S_img - max S_text)`` over layers and heads (Eq. 6), ``(T,)``."""
    return (image_scores.amax(dim=(1, 2)) - text_scores.amax(dim=(1, 2))).clamp(min=0)


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
    image, text = acc.image_scores, acc.text_scores
    maps, unfiltered = acc.maps, acc.unfiltered
    if normalization == "reference":
        # minmax of all gradients is affine, so it is applied to their weighted sums.
        low, high = acc.image_minima.min(), image.max()
        span = high - low
        scale = torch.where(span > 0, 1 / span, 0)
        weight_sums = head_weights(image, text).sum(dim=(1, 2))[:, None]  # [T, 1]
        maps = (maps - low * weight_sums) * scale
        if unfiltered is not None:
            unfiltered = (unfiltered - low * (image.shape[1] * image.shape[2])) * scale
    maps = layout.to_cells(maps)
    unfiltered = layout.to_cells(unfiltered) if unfiltered is not None else None
    delta = token_weights(image, text)
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
