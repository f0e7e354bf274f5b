"""Maps that do not look at the answer, as methods: the chance lines."""

from __future__ import annotations

import zlib

from torch import Tensor

from ..chance import centre_maps, random_maps, uniform_maps
from .subject import Subject


def uniform(subject: Subject) -> Tensor:
    """One everywhere."""
    return subject.from_cells(uniform_maps(*_shape(subject)))


def centre(subject: Subject) -> Tensor:
    """A Gaussian around the middle of the grid."""
    return subject.from_cells(centre_maps(*_shape(subject)))


def random(subject: Subject) -> Tensor:
    """Smooth noise, another for every token and image, the same in every run."""
    request = subject.request
    numbers = [request.answer_ids, *(v for v in request.inputs.values() if v.is_floating_point())]
    seed = 0
    for tensor in numbers:
        seed = zlib.crc32(tensor.double().cpu().numpy().tobytes(), seed)
    maps = random_maps(*_shape(subject), seed)
    return subject.from_cells(maps - maps.amin(dim=(1, 2), keepdim=True))


def _shape(subject: Subject) -> tuple[int, int, int]:
    grid = subject.request.layout.grid
    return len(subject.request.answer_ids), grid.rows, grid.cols
