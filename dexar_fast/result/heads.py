"""Which heads look at the image: the head weights of Eq. 5, of a token, a word or the whole answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError, check_count

if TYPE_CHECKING:
    from .explanation import Explanation, Floats


@dataclass(frozen=True)
class Head:
    """One attention head, over some tokens of the answer. Scores are in logits per unit of attention.

    Attributes:
        layer: of the decoder, counted as the model does, from 0.
        head: query head of the layer, from 0.
        weight: mean of ``w = relu(S_img - S_text)``.
        share: share of the tokens that the head is filtered in for (``w > 0``), in [0, 1].
        image_score, text_score: means of ``S_img`` and ``S_text``.
    """

    layer: int
    head: int
    weight: float
    share: float
    image_score: float
    text_score: float

    def __str__(self) -> str:
        return f"layer {self.layer} head {self.head}: w = {self.weight:.3g}, filtered in for {self.share:.0%} of tokens"


@dataclass(frozen=True)
class HeadMeans:
    """Means over some tokens, each ``(L, H)`` float32: of ``w``, ``w > 0``, ``S_img`` and ``S_text``."""

    weight: Floats
    share: Floats
    image_score: Floats
    text_score: Floats


def head_weights(explanation: Explanation) -> Floats:
    """``w = relu(S_img - S_text)`` of Eq. 5, ``(T, L, H)``."""
    weights: Floats = (explanation.image_scores - explanation.text_scores).clip(min=0)
    return weights


def scores_heads(explanation: Explanation) -> bool:
    """Whether the method scored heads; the methods to compare with leave zeros."""
    return bool(explanation.image_scores.any() or explanation.text_scores.any())


def head_means(explanation: Explanation, start: int, stop: int) -> HeadMeans:
    """Means over the rows from start to stop, which are some.

    Raises:
        InputError: the method scores no heads.
    """
    if not scores_heads(explanation):
        raise InputError(
            f"explanation: method {explanation.settings.get('method')!r} scores no heads (image_scores and text_scores "
            "are all zero), so there is nothing to show; explain with a dexar method"
        )
    span = slice(start, stop)
    weights = head_weights(explanation)[span]
    image, text = explanation.image_scores[span], explanation.text_scores[span]
    return HeadMeans(
        *(values.mean(axis=0, dtype=np.float64).astype(np.float32) for values in (weights, weights > 0, image, text))
    )


def top_heads(means: HeadMeans, layers: tuple[int, ...], count: int) -> list[Head]:
    """The ``count`` heads of largest weight, strongest first; heads of weight zero are none.

    Raises:
        InputError: ``count`` is no number from 1 on.
    """
    check_count("count", count, "heads")
    n_heads = means.weight.shape[1]
    order = np.argsort(-means.weight, axis=None, kind="stable")[:count]
    places = [(int(place) // n_heads, int(place) % n_heads) for place in order]
    return [
        Head(
            layers[row],
            head,
            *(float(of[row, head]) for of in (means.weight, means.share, means.image_score, means.text_score)),
        )
        for row, head in places
        if means.weight[row, head] > 0
    ]
