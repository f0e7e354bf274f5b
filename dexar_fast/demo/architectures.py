"""What training needs to know of a model that describes scenes, and the models that there are."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin

from .packing import Encoder, Packed


@dataclass(frozen=True)
class Architecture:
    """One kind of model.

    Attributes:
        name: of the command line.
        cell: width in pixels of what an image token shows.
        sizes: (width, height) of the pictures that it is trained on.
        aspects: which of `labels.ASPECTS` its vision tower can tell.
        tokenizer, model, processor: build them; the model's weights are random float32.
        encoder: of a tokenizer and (rows, columns) of image tokens.
        image_embeds: uint8 (B, 3, height, width) to what the decoder sees of them, (B, tokens, width).
        hidden: embeddings (B, L, width) and their packing to the decoder's last hidden states (B, L, width).
        vision: beginnings of the names of the weights that make image embeddings.
        loudness: names of the weights that the image embeddings are proportional to.
    """

    name: str
    cell: int
    sizes: tuple[tuple[int, int], ...]
    aspects: tuple[str, ...]
    tokenizer: Callable[[], PreTrainedTokenizerFast]
    model: Callable[[PreTrainedTokenizerFast], PreTrainedModel]
    processor: Callable[[PreTrainedTokenizerFast], ProcessorMixin]
    encoder: Callable[[PreTrainedTokenizerFast, tuple[int, int]], Encoder]
    image_embeds: Callable[[Any, torch.Tensor], torch.Tensor]
    hidden: Callable[[Any, torch.Tensor, Packed], torch.Tensor]
    vision: tuple[str, ...]
    loudness: tuple[str, ...]

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of image tokens of a picture of that (width, height)."""
        return size[1] // self.cell, size[0] // self.cell

    def size_of(self, seed: int) -> tuple[int, int]:
        """(width, height) of the scene of a seed."""
        return self.sizes[seed % len(self.sizes)]
