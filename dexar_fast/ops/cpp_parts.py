"""Which rows the C++ kernels take at once, and the keys that those rows see."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .keys import IMAGE, PackedKeys

KEPT = 8


@dataclass(frozen=True)
class Part:
    """Rows of one sample that run at once.

    Attributes:
        sample: its index.
        rows: which, in the whole call.
        keys: from the first to the last that any of the rows sees; `kinds` ``(n_keys,)`` says what they are.
        image: the image keys among them, as columns of a map.
        image_keys: ``(n_image,)`` int64, the same as indices into `kinds`.
        visible: ``(n_rows, 2)``.
    """

    sample: int
    rows: slice
    keys: slice
    image: slice
    image_keys: Tensor
    kinds: Tensor
    visible: Tensor

    @cached_property
    def n_rows(self) -> int:
        return self.visible.shape[0]

    @cached_property
    def n_keys(self) -> int:
        return self.kinds.shape[0]

    @cached_property
    def n_image(self) -> int:
        return self.image_keys.shape[0]


# Layers share their keys: what the last calls found out about theirs. The keys are kept too, so that no others have
# their ids.
_kept: dict[tuple[Any, ...], tuple[PackedKeys, list[Part]]] = {}


def parts_of(keys: PackedKeys, most_rows: int) -> list[Part]:
    """Every sample's rows, at most so many at once."""
    tensors = keys.kinds, keys.visible
    if any(tensor.is_inference() for tensor in tensors):  # it is not known whether those were written to
        return _make_parts(keys, most_rows)
    found = *(of for tensor in tensors for of in (id(tensor), tensor._version)), *keys.rows, most_rows
    if found not in _kept:
        parts = _make_parts(keys, most_rows)
        while len(_kept) >= KEPT:
            _kept.pop(next(iter(_kept)), None)
        _kept[found] = keys, parts
        return parts
    return _kept[found][1]


def _make_parts(keys: PackedKeys, most_rows: int) -> list[Part]:
    parts = []
    for b, (of_sample, sample) in enumerate(keys.samples()):
        kinds = sample.kinds.contiguous()
        for start in range(of_sample.start, of_sample.stop, most_rows):
            rows = slice(start, min(start + most_rows, of_sample.stop))
            visible = keys.visible[rows].clamp(0, len(kinds)).contiguous()
            bounds = visible[:, 0].amin(), torch.maximum(visible[:, 0].amin(), visible[:, 1].amax())
            seen = slice(*(int(bound) for bound in bounds))
            first = int((kinds[: seen.start] == IMAGE).sum())
            image_keys = (kinds[seen] == IMAGE).nonzero()[:, 0]
            image = slice(first, first + len(image_keys))
            parts.append(Part(b, rows, seen, image, image_keys, kinds[seen], visible))
    return parts
