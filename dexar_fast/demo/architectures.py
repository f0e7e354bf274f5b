"""What training needs to know of a model that describes scenes, and the models that there are."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin

from .language import Language
from .packing import Encoder, Packed
from .scenes import Scene


@dataclass(frozen=True)
class Architecture:
    """One kind of model.

    Attributes:
        name: of the command line.
        cell: width in pixels of what an image token shows.
        sizes: (width, height) of the pictures that it is trained on; that of a seed is at the seed modulo their number.
        draw: the scene of a seed.
        language: what is said of it.
        aspects: which of `labels.ALL_ASPECTS` its vision tower learns.
        tokenizer, model, processor: build them, the latter two for a tokenizer; the model's weights are random float32,
            its sizes can be given (width, text_layers) for tests.
        encoder: of a tokenizer and (rows, columns) of image tokens.
        image_embeds: uint8 (B, 3, height, width) to what the decoder sees of them, (B, tokens, width).
        hidden: embeddings (B, L, width) and their packing to the decoder's last hidden states (B, L, width).
        vision: beginnings of the names of the weights that make image embeddings.
        loudness: names of the weights that the image embeddings are proportional to; none where they stay as they are.
        start: gives the weights that are not to start at random.
        code: what each class adds to the embedding of a patch that shows it, (classes, width), where image embeddings
            are taught as such sums (`patch_code.patch_code`).
        one_prompt: its image tokens see the prompt, so that an image cannot be shared by several.
    """

    name: str
    cell: int
    sizes: tuple[tuple[int, int], ...]
    draw: Callable[[int], Scene]
    language: Language
    aspects: tuple[str, ...]
    tokenizer: Callable[[], PreTrainedTokenizerFast]
    model: Callable[..., PreTrainedModel]
    processor: Callable[[PreTrainedTokenizerFast], ProcessorMixin]
    encoder: Callable[[PreTrainedTokenizerFast, tuple[int, int]], Encoder]
    image_embeds: Callable[[Any, torch.Tensor], torch.Tensor]
    hidden: Callable[[Any, torch.Tensor, Packed], torch.Tensor]
    vision: tuple[str, ...]
    loudness: tuple[str, ...] = ()
    start: Callable[[Any, PreTrainedTokenizerFast], None] | None = None
    code: Callable[[tuple[str, ...]], torch.Tensor] | None = None
    one_prompt: bool = False

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of image tokens of a picture of that (width, height)."""
        return size[1] // self.cell, size[0] // self.cell
