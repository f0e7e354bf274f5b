"""What the C++ kernels are asked of one layer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from .cpp_library import WIDTH
from .cpp_parts import Part
from .keys import PackedKeys
from .signals import Attention, MapSums

# Whatever the caller's default dtype and device are.
empty = partial(torch.empty, dtype=torch.float32, device="cpu")
zeros = partial(torch.zeros, dtype=torch.float32, device="cpu")

WORD = torch.float32.itemsize


class Layer(NamedTuple):
    """Every op: what is None or empty is not needed, or not wanted.

    Attributes:
        keys, d_out, value, attention: as for the ops.
        lse: ``(T, H)`` float32; is written unless `lse_is_known`.
        weights: ``(T, H)`` float32, contiguous; None takes those that follow from the scores.
        score_signals, scores: the signals, and of each ``(3, T, H)``, which are written; contiguous.
        sums: are added to.
        columns: ``(T, H, N)``, contiguous; is written.
    """

    keys: PackedKeys
    d_out: Tensor | None
    value: Tensor | None
    attention: Attention | None
    lse: Tensor | None
    lse_is_known: bool = False
    weights: Tensor | None = None
    score_signals: tuple[str, ...] = ()
    scores: Tensor | None = None
    sums: Sequence[MapSums] = ()
    columns: Tensor | None = None

    @property
    def signals(self) -> set[str]:
        """All that are read off."""
        return {*self.score_signals, *(each.map_signal for each in self.sums)}

    @property
    def image_alone(self) -> bool:
        """Whether no other keys are needed: for no maxima over text, and no sum of a softmax."""
        return self.scores is None and (self.attention is None or self.lse_is_known)

    @property
    def softcap(self) -> float | None:
        return None if self.attention is None else self.attention.softcap

    @property
    def per_row(self) -> Tensor:
        """``(T, H, _)``; attention or gradient is always there."""
        tensor = self.d_out if self.attention is None else self.attention.query
        assert tensor is not None
        return tensor

    @property
    def H(self) -> int:
        return self.per_row.size(1)


def padded(lanes: int) -> int:
    """A multiple of the kernels' width."""
    return -(-lanes // WIDTH) * WIDTH


def d_dot_out(layer: Layer, part: Part) -> Tensor | None:
    """``D = <dO, o>`` of the part's rows ``(n_rows, H)``, where a signal needs it."""
    if layer.attention is None or layer.d_out is None or "score_gradient" not in layer.signals:
        return None
    d_out, out = (x[part.rows].to(torch.float32) for x in (layer.d_out, layer.attention.out))
    return torch.linalg.vecdot(d_out, out)
