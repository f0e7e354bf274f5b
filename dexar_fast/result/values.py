"""Small conversions of numbers that results are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


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


def exact(value: Any) -> float:
    """The shortest decimal that names the same number at its own precision: 0.1 for float32's 0.1."""
    return float(str(value))
