"""What a comparison method is given, and what all of them share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from ..engine.request import Request
from ..engine.teacher_forcing import in_one_sequence
from ..errors import UnsupportedModelError
from ..inputs.prompts import Prompt
from ..layout.grid import Grid

if TYPE_CHECKING:
    from ..engine.engine import Engine


@dataclass(frozen=True)
class Subject:
    """One answer to be explained by a comparison method.

    Attributes:
        explainer: the model.
        request: model inputs, answer ids ``(T,)``, image keys ``(N,)`` and their layout on the grids.
        layers: decoder layers that layer-wise methods sum.
        images, prompt: as the user gave them, or None when only tensors were given.
        image_kwargs: settings of the image processor for this prompt.
    """

    explainer: Engine
    request: Request
    layers: tuple[int, ...]
    images: Sequence[Image.Image] | None
    prompt: Prompt | None
    image_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def grids(self) -> tuple[Grid, ...]:
        """Where cells lie on each image.

        Raises:
            UnsupportedModelError: the model's image tokens have no place.
        """
        if not self.request.layout.grids:
            raise UnsupportedModelError(
                f"method: image tokens of family {self.explainer.family.name!r} have no place on the image, and this "
                "method needs one. Use a dexar method or attention."
            )
        return self.request.layout.grids

    def need_sequence(self, method: str) -> None:
        """Raise UnsupportedModelError unless image, prompt and answer may run as one sequence."""
        family = self.explainer.family
        if not in_one_sequence(family):
            raise UnsupportedModelError(
                f"method: {method!r} runs image, prompt and answer as one causal sequence; family {family.name!r} does "
                "not run so. Use a dexar method, attention or occlusion."
            )


Method = Callable[[Subject], Tensor]
"""Relevance of every cell (grid after grid, row-major) for every answer token, ``(T, C)``, not negative, any unit."""


def blocks(n_rows: int, per_row: int) -> list[slice]:
    """Rows in blocks of about four million values, so that nothing of size T x H x N exists at once."""
    step = max(1, (1 << 22) // max(1, per_row))
    return [slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]
