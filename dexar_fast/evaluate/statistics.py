"""Means with bootstrap intervals. What is drawn again is whole samples: the words of one answer are not independent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

RESAMPLES = 2000
SEED = 0


class Interval(NamedTuple):
    """A mean, and the interval that holds 95 % of the bootstrap means; NaN where there is nothing to average."""

    mean: float
    low: float
    high: float


def bootstrap(
    values: Sequence[float] | Floats, samples: Sequence[Any] | NDArray[Any], *, level: float = 0.95
) -> Interval:
    """Mean of all values, and its percentile bootstrap interval over samples.

    Args:
        values: one figure per map.
        samples: for each value, the sample that it belongs to.
        level: share of the bootstrap means inside the interval.
    """
    figures = np.asarray(values, dtype=np.float64)
    if len(figures) == 0:
        return Interval(np.nan, np.nan, np.nan)
    _, sample_of = np.unique(np.asarray(samples), return_inverse=True)
    sums = np.bincount(sample_of, weights=figures)
    counts = np.bincount(sample_of)
    rng = np.random.default_rng(SEED)
    drawn = rng.integers(len(sums), size=(RESAMPLES, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, ((1 - level) / 2, (1 + level) / 2))
    return Interval(float(figures.mean()), float(low), float(high))


def auroc(scores: Sequence[float] | Floats, positive: Sequence[bool] | NDArray[np.bool_]) -> float:
    """Chance that a positive scores above a negative, ties counted half; NaN where one of them is missing."""
    values, labels = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    n_positive, n_negative = int(labels.sum()), int((~labels).sum())
    if not n_positive or not n_negative:
        return float("nan")
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # mean rank of each tie, from 1
    return float((ranks[place][labels].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def bootstrap_auroc(scores: Floats, positive: NDArray[np.bool_], samples: Sequence[Any]) -> Interval:
    """AUROC with its 95 % bootstrap interval over samples."""
    _, sample_of = np.unique(np.asarray(samples), return_inverse=True)
    members = [np.flatnonzero(sample_of == one) for one in range(sample_of.max() + 1)]
    rng = np.random.default_rng(SEED)
    figures = []
    for _ in range(RESAMPLES // 4):
        chosen = np.concatenate([members[one] for one in rng.integers(len(members), size=len(members))])
        figures.append(auroc(scores[chosen], positive[chosen]))
    low, high = np.nanquantile(figures, (0.025, 0.975))
    return Interval(auroc(scores, positive), float(low), float(high))
