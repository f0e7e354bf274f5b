"""What a comparison method is given, and what all of them share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from ...request import Request

if TYPE_CHECKING:
    from ...explainer import Explainer


@dataclass(frozen=True)
class Subject:
    """One answer to be explained by a comparison method.

    Attributes:
        explainer: the model.
        request: model inputs, answer ids ``(T,)``, image keys ``(N,)`` and their layout on the grid.
        layers: decoder layers that layer-wise methods sum.
        image, prompt: as the user gave them, or None when only tensors were given.
    """

    explainer: Explainer
    request: Request
    layers: tuple[int, ...]
    image: Image.Image | None
    prompt: str | None

    def from_cells(self, maps: Tensor) -> Tensor:
        """``(T, rows, cols)`` to image tokens ``(T, N)``: each takes the value of its cell; zero without a place."""
        cells = self.request.layout.cells.to(maps.device)
        return maps.flatten(1)[:, cells.clamp(min=0)].where(cells >= 0, 0)


Method = Callable[[Subject], Tensor]
"""Relevance of every image token for every answer token, ``(T, N)``, not negative, in any unit."""


def blocks(n_rows: int, per_row: int) -> list[slice]:
    """Rows in blocks of about four million values, so that nothing of size T x H x N exists at once."""
    step = max(1, (1 << 22) // max(1, per_row))
    return [slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]


def zeros(subject: Subject) -> Tensor:
    """``(T, N)`` float32 zeros on the model's device."""
    request = subject.request
    return torch.zeros(len(request.answer_ids), len(request.image_keys), device=request.answer_ids.device)
