"""Which key is an image key, which is a text key, and which keys a row may attend to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from ..errors import InputError

NEITHER, IMAGE, TEXT = 0, 1, 2


@dataclass(frozen=True, eq=False)
class KeySets:
    """The three sets of keys that the head scores tell apart ("Which key is what" in `docs/method.md`).

    One sample, or B samples of different lengths whose rows follow each other. Of several samples a key position counts
    in the sample's own ``value[b]``; samples that were packed one behind the other in one sequence share it as
    ``value.expand(B, ...)``, with positions of the whole sequence.

    Attributes:
        image: ``(N,)`` or ``(B, N)`` int64, positions of the image keys, ascending; a sample with fewer than N is
            filled up with -1 at the end.
        text: ``(K,)`` or ``(B, K)`` bool, True where a key counts as text. A key may be neither image nor text; one
            that is both counts as image.
        visible: ``(T, 2)`` int64, row t attends to keys ``visible[t, 0] <= j < visible[t, 1]``. Any other key is
            excluded everywhere: causal limit, sliding window and left padding are all of this form.
        rows: number of rows of each of the B samples; None for one sample that has all of them.

    Raises:
        InputError: dtypes, shapes or positions are not of this form.
    """

    image: Tensor
    text: Tensor
    visible: Tensor
    rows: tuple[int, ...] | None = None
    packed: PackedKeys = field(init=False, repr=False)
    """The same as backends take it."""

    def __post_init__(self) -> None:
        image, text = torch.atleast_2d(self.image), torch.atleast_2d(self.text)
        _check(image, text, self.visible)
        kinds = torch.where(text, TEXT, NEITHER).to(torch.uint8)
        # Of a row without image keys no position is marked; -1 goes to a column that is cut off again.
        marked = torch.nn.functional.pad(kinds, (0, 1))
        kinds = marked.scatter(1, image.where(image >= 0, text.shape[1]), IMAGE)[:, :-1]
        rows = (self.visible.shape[0],) if self.rows is None else self.rows
        packed = PackedKeys(image, kinds, self.visible, list(rows), _start_of_span(image))
        object.__setattr__(self, "packed", packed)

    def to(self, device: torch.device) -> KeySets:
        """The same on another device."""
        if self.image.device == device:
            return self
        return KeySets(self.image.to(device), self.text.to(device), self.visible.to(device), self.rows)


class PackedKeys(NamedTuple):
    """`KeySets` of B samples, as backends take them.

    Attributes:
        image: ``(B, N)`` int64, filled up with -1.
        kinds: ``(B, K)`` uint8: IMAGE, TEXT or NEITHER.
        visible: ``(T, 2)`` int64.
        rows: B counts, their sum is T.
        image_start: the first image key if the image keys of one sample follow each other, else -1.
    """

    image: Tensor
    kinds: Tensor
    visible: Tensor
    rows: list[int]
    image_start: int

    def samples(self) -> Iterator[tuple[slice, Sample]]:
        """The rows of each sample, and its keys."""
        first = 0
        for image, kinds, count in zip(self.image, self.kinds, self.rows, strict=True):
            rows = slice(first, first + count)
            yield rows, Sample(image[image >= 0], kinds, self.visible[rows])
            first += count


class Sample(NamedTuple):
    """The keys of one sample.

    Attributes:
        image: ``(N_b,)`` int64, its own image keys: columns from ``N_b`` on are no key of this sample.
        kinds: ``(K,)`` uint8.
        visible: ``(T_b, 2)`` int64.
    """

    image: Tensor
    kinds: Tensor
    visible: Tensor

    def is_hidden(self, rows: slice, keys: Tensor) -> Tensor:
        """``(rows, len(keys))`` bool: is each of these key positions out of the row's sight?"""
        start, stop = self.visible[rows, :1], self.visible[rows, 1:]
        return (keys < start) | (keys >= stop)


def causal_rows(positions: Tensor, window: int | None = None, chunk: int | None = None) -> Tensor:
    """``(T, 2)`` visible range of causal rows at ``positions`` ``(T,)``.

    Args:
        positions: int64.
        window: only the last ``window`` keys are seen.
        chunk: only keys of the row's own chunk are seen; one begins at every multiple of ``chunk``.
    """
    stop = positions + 1
    start = torch.zeros_like(stop) if window is None else (stop - window).clamp(min=0)
    if chunk is not None:
        start = torch.maximum(start, positions // chunk * chunk)
    return torch.stack((start, stop), dim=-1)


def _check(image: Tensor, text: Tensor, visible: Tensor) -> None:
    for name, tensor, dtype in (
        ("image", image, torch.int64),
        ("text", text, torch.bool),
        ("visible", visible, torch.int64),
    ):
        if tensor.dtype != dtype:
            raise InputError(f"keys.{name}: expected {dtype}; got {tensor.dtype}")
    if image.ndim != 2 or text.ndim != 2 or len(image) != len(text):
        raise InputError(
            f"keys.image: expected a row for each of {tuple(text.shape)} keys.text; got {tuple(image.shape)}"
        )
    if _is_traced(image) or image.shape[1] == 0:
        return
    is_key = image >= 0
    ascending = (image[:, 1:] > image[:, :-1]) | ~is_key[:, 1:]
    at_the_end = is_key[:, :-1] | ~is_key[:, 1:]
    if not bool(ascending.all() & at_the_end.all() & (image < text.shape[1]).all() & (image >= -1).all()):
        raise InputError(
            f"keys.image: expected positions from 0 to {text.shape[1] - 1}, ascending, each once, filled up with -1 at "
            "the end; got others. Sort them."
        )


def _is_traced(tensor: Tensor) -> bool:
    """Whether the values are not known: inside torch.compile, torch.export, and of meta tensors."""
    return tensor.is_meta or isinstance(tensor, FakeTensor) or torch.compiler.is_compiling()


def _start_of_span(image: Tensor) -> int:
    """Where one sample's image keys begin if none is missing between first and last; -1 otherwise.

    Values of traced tensors are not known: they are taken as scattered, which is right for any.
    """
    B, N = image.shape
    if B != 1 or N == 0 or _is_traced(image):
        return -1
    first, last = image[0, [0, -1]].tolist()
    return first if last - first == N - 1 else -1
