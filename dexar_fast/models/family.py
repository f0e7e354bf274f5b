"""What the engine must know of a model family: where things are, and how image tokens lie on the image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..geometry import Grid

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin


@dataclass(frozen=True)
class ImageLayout:
    """How the N image tokens of a prompt form a map.

    Attributes:
        grid: the map's cells on the user's image.
        cells: ``(N,)`` int64, cell (row-major) of each image token; -1 for a token without a place, such as a class
            token, which counts in S_img but has no cell.
    """

    grid: Grid
    cells: Tensor


@dataclass(frozen=True)
class Family:
    """A family of models, declared by the places of its parts in the module tree.

    Attributes:
        name: short name, shown in results and messages.
        model_types: values of `config.model_type`.
        base: path of the model without its head, which takes the processor's inputs or `inputs_embeds`.
        decoder: path of the text model, called with `inputs_embeds`.
        layers, final_norm, head: paths of the decoder layers, the norm before the head, and the output embedding.
        attention: path of self-attention within a layer; `projection` that of the output projection within attention.
        inputs: names of the model inputs that a prompt may have; the answer pass knows how each goes on.
        layout: ``(model, processor, inputs, image_size) -> ImageLayout``; processor and image size may be None.
    """

    name: str
    model_types: tuple[str, ...]
    layout: Callable[
        [PreTrainedModel, ProcessorMixin | None, Mapping[str, Tensor], tuple[int, int] | None], ImageLayout
    ]
    inputs: tuple[str, ...] = ("input_ids", "attention_mask", "pixel_values")
    base: str = "model"
    decoder: str = "model.language_model"
    layers: str = "model.language_model.layers"
    final_norm: str = "model.language_model.norm"
    head: str = "lm_head"
    attention: str = "self_attn"
    projection: str = "o_proj"


class Decoder:
    """The parts of one loaded model that the answer pass works on, found by the paths of its family."""

    def __init__(self, model: PreTrainedModel, family: Family) -> None:
        self.model, self.family = model, family

    @cached_property
    def base(self) -> nn.Module:
        return self.model.get_submodule(self.family.base)

    @cached_property
    def text_model(self) -> nn.Module:
        return self.model.get_submodule(self.family.decoder)

    @cached_property
    def layers(self) -> list[nn.Module]:
        return list(self.model.get_submodule(self.family.layers).children())

    @cached_property
    def attentions(self) -> list[nn.Module]:
        return [layer.get_submodule(self.family.attention) for layer in self.layers]

    @property
    def attention_implementation(self) -> str:
        config: Any = self.text_model.config
        return str(config._attn_implementation)

    @property
    def vocabulary_size(self) -> int:
        """Number of rows of the output embedding."""
        weight: Any = self.model.get_submodule(self.family.head).weight
        return int(weight.shape[0])

    @property
    def image_token_id(self) -> int:
        return int(self.model.config.image_token_id)

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings ``(1, T, d)`` of ids ``(T,)``."""
        embedding: Tensor = self.model.get_input_embeddings()(ids[None])
        return embedding

    def final_norm(self, residual: Tensor) -> Tensor:
        """The norm between the residual stream and the head (Eq. 2)."""
        normed: Tensor = self.model.get_submodule(self.family.final_norm)(residual)
        return normed

    def output_rows(self, ids: Tensor) -> Tensor:
        """Rows ``W_lm[y]`` ``(T, d)`` of the output embedding."""
        weight: Any = self.model.get_submodule(self.family.head).weight
        return torch.nn.functional.embedding(ids, weight)

    def project(self, layer: int, attention_output: Tensor) -> Tensor:
        """Output projection of one layer's attention, ``(1, T, H * D) -> (1, T, d)``."""
        projected: Tensor = self.attentions[layer].get_submodule(self.family.projection)(attention_output)
        return projected
