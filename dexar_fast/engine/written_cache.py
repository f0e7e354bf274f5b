"""The cache that generation left, read once more: what the answer rows would write is there already."""

from __future__ import annotations

from copy import copy
from typing import Any

from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer


class WrittenLayer(DynamicLayer):
    """Keys and values of one layer, all of them; `position` of them have been read.

    Cutting it back moves the position, and rows that run on get what generation wrote for them: the same up to
    rounding, and nothing is copied.
    """

    def __init__(self, layer: DynamicLayer) -> None:
        self.__dict__.update(layer.__dict__)
        self.position = layer.get_seq_length()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.position += key_states.shape[-2]
        return self.keys[..., : self.position, :], self.values[..., : self.position, :]

    def get_seq_length(self) -> int:
        return self.position

    def crop(self, tokens_to_remove: int) -> None:
        self.position += tokens_to_remove


def written(cache: Cache) -> Cache:
    """A cache of its own on the same tensors, to run the answer once more that the model itself has just written.

    Its layers all hold keys of prompt and answer, but for the answer's last token.
    """
    mine = copy(cache)
    mine.layers = [WrittenLayer(layer) for layer in cache.layers]
    return mine


def rewritable(cache: Cache) -> Cache:
    """The other way round than `written`: a cache of its own on the same tensors, for any answer to the prompt."""
    mine = copy(cache)
    mine.layers = []
    for layer in cache.layers:
        plain = DynamicLayer()
        plain.__dict__.update({name: value for name, value in vars(layer).items() if name != "position"})
        mine.layers.append(plain)
    return mine


def is_written(cache: Cache | None) -> bool:
    """Whether it came from `written`: it holds the rows of the answer."""
    return cache is not None and any(isinstance(layer, WrittenLayer) for layer in cache.layers)
