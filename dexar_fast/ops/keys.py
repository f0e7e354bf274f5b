"""Which key is an image key, which is a text key, and which keys a row may attend to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class KeySets:
    """The three sets of keys that the head scores tell apart (``spec``: "which key is what").

    Attributes:
        image: ``(N,)`` int64, positions of the image keys, ascending.
        text: ``(K,)`` bool, True where a key counts as text. A key may be neither image nor text.
        visible: ``(T, 2)`` int64, row t attends to keys ``visible[t, 0] <= j < visible[t, 1]``. Any other key is
            excluded everywhere: causal limit, sliding window and left padding are all of this form.
    """

    image: Tensor
    text: Tensor
    visible: Tensor

    def to(self, device: torch.device) -> KeySets:
        """The same on another device."""
        return KeySets(self.image.to(device), self.text.to(device), self.visible.to(device))

    def is_visible(self, rows: slice, keys: Tensor) -> Tensor:
        """``(rows, len(keys))`` bool: may each of these rows attend to each of these key positions?"""
        start, stop = self.visible[rows, :1], self.visible[rows, 1:]
        return (keys >= start) & (keys < stop)


def causal_rows(positions: Tensor, window: int | None = None) -> Tensor:
    """``(T, 2)`` visible range of causal rows at ``positions`` ``(T,)``, of the last ``window`` keys if given."""
    stop = positions + 1
    start = torch.zeros_like(stop) if window is None else (stop - window).clamp(min=0)
    return torch.stack((start, stop), dim=-1)
