"""Which rows the C++ kernels take at once, and the keys that those rows see."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from .keys import IMAGE, PackedKeys

KEPT = 8


@dataclass(frozen=True, eq=False)
class Part:
    """Rows of one sample that run at once.

    Attributes:
        sample: its index.
        rows: which, in the whole call.
        keys: from the first to the last that is needed; `kinds` ``(n_keys,)`` says what they are.
        image: the image keys among them, as columns of a map.
        image_keys: ``(n_image,)`` int64, the same as indices into `kinds`.
        visible: ``(n_rows, 2)``.
        described: what `cpp_call` has told the kernels of it; layers share it.
    """

    sample: int
    rows: slice
    keys: slice
    image: slice
    image_keys: Tensor
    kinds: Tensor
    visible: Tensor
    described: dict[Any, Any] = field(default_factory=dict)

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


def parts_of(keys: PackedKeys, most_rows: int, *, image_alone: bool = False) -> list[Part]:
    """Every sample's rows, at most so many at once, and with `image_alone` no keys outside the image."""
    tensors = keys.kinds, keys.visible
    if any(tensor.is_inference() for tensor in tensors):  # it is not known whether those were written to
        return _make_parts(keys, most_rows, image_alone)
    found = *(of for tensor in tensors for of in (id(tensor), tensor._version)), *keys.rows, most_rows, image_alone
    kept = _kept.get(found)
    if kept is not None:
        return kept[1]
    parts = _make_parts(keys, most_rows, image_alone)
    while len(_kept) >= KEPT:
        _kept.pop(next(iter(_kept)), None)
    _kept[found] = keys, parts
    return parts


def _make_parts(keys: PackedKeys, most_rows: int, image_alone: bool) -> list[Part]:
    parts = []
    for b, (of_sample, sample) in enumerate(keys.samples()):
        kinds = sample.kinds.contiguous()
        is_image = kinds == IMAGE
        for start in range(of_sample.start, of_sample.stop, most_rows):
            rows = slice(start, min(start + most_rows, of_sample.stop))
            visible = keys.visible[rows].clamp(0, len(kinds)).contiguous()
            first = int(visible[:, 0].amin())
            last = max(first, int(visible[:, 1].amax()))
            image_keys = is_image[first:last].nonzero()[:, 0] + first
            if image_alone:
                first, last = (int(image_keys[0]), int(image_keys[-1]) + 1) if len(image_keys) else (first, first)
            column = int(is_image[:first].sum())
            image = slice(column, column + len(image_keys))
            parts.append(Part(b, rows, slice(first, last), image, image_keys - first, kinds[first:last], visible))
    return parts
