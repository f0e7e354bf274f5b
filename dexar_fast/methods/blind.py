"""Maps that do not look at the answer, as methods: the chance lines."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .chance import centre_maps, random_maps, uniform_maps
from .subject import Subject


def uniform(subject: Subject) -> Tensor:
    """One everywhere."""
    return _all_grids(subject, uniform_maps)


def centre(subject: Subject) -> Tensor:
    """A Gaussian around the middle of each grid."""
    return _all_grids(subject, centre_maps)


def random(subject: Subject) -> Tensor:
    """Smooth noise, another for every token and image, the same in every run."""
    request = subject.request
    seed = 0
    for tensor in (request.answer_ids, *(value for value in request.inputs.values() if value.is_floating_point())):
        seed = zlib.crc32(tensor.double().cpu().numpy().tobytes(), seed)
    maps = _all_grids(subject, partial(random_maps, seed=seed))
    return maps - maps.amin(dim=1, keepdim=True)


def _all_grids(subject: Subject, draw: Callable[[int, int, int], Tensor]) -> Tensor:
    n = len(subject.request.answer_ids)
    maps = [draw(n, grid.rows, grid.cols).flatten(1) for grid in subject.grids]
    return torch.cat(maps, dim=1).to(subject.request.answer_ids.device)
