"""What an explanation holds of one method, beside the method that is shown first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .explanation import Explanation

MAPS = ("token_maps", "answer_map", "unfiltered_token_maps", "unfiltered_answer_map")
"""Fields with cells; each may be a tuple, one entry per image."""


@dataclass(frozen=True, eq=False)
class MethodMaps:
    """Fields of `Explanation` that a method fills; of the same shapes."""

    token_maps: Any
    answer_map: Any
    token_weights: NDArray[np.floating[Any]]
    image_scores: NDArray[np.floating[Any]]
    text_scores: NDArray[np.floating[Any]]
    token_map_ranges: NDArray[np.floating[Any]]
    unfiltered_token_maps: Any = None
    unfiltered_answer_map: Any = None

    @classmethod
    def of(cls, explanation: Explanation) -> MethodMaps:
        """Those of the method that is shown first."""
        return cls(**{field.name: getattr(explanation, field.name) for field in fields(cls)})

    @property
    def as_fields(self) -> dict[str, Any]:
        """Keyword arguments of `Explanation`."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def mapped(self, change: Callable[[Any], Any]) -> MethodMaps:
        """The same with other maps: ``change`` is given each field of `MAPS`, which may be None."""
        return replace(self, **{name: change(getattr(self, name)) for name in MAPS})
