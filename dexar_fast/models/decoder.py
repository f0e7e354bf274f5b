"""The parts of one loaded model, found by the paths of its family."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cached_property, reduce
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedModelError
from .family import Family
from .state import offloaded_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NOTHING: Any = object()


class Decoder:
    """What the answer pass works on.

    Raises:
        UnsupportedModelError: a path of the family does not exist in the model, or its head is not the model's.
    """

    def __init__(self, model: PreTrainedModel, family: Family) -> None:
        self.model, self.family = model, family
        for path in (family.base, family.decoder, family.layers, family.final_norm, family.head):
            if path is not None:
                self._part(path)
        if not self.attentions:
            raise UnsupportedModelError(
                f"model: no layer of {family.layers} has an attention {family.attention!r}, as family {family.name!r} "
                f"declares; {type(model).__name__} is built otherwise."
            )

        for index, attention in self.attentions.items():
            for whole, name, path in (
                (attention, "projection", family.projection),
                *((self.layers[index], "constant", path) for path in family.constant),
            ):
                if not _has(whole, path):
                    raise UnsupportedModelError(
                        f"model: family {family.name!r} declares {name} {path!r}; {type(whole).__name__} of layer "
                        f"{index} has {', '.join(child for child, _ in whole.named_children())}"
                    )
        for attribute in family.run_state:
            if not hasattr(self.base, attribute):
                raise UnsupportedModelError(
                    f"model: family {family.name!r} declares run_state {attribute!r}; {type(self.base).__name__} has "
                    "no such attribute"
                )
        if family.keys != "vision" and family.placeholder_mask is None:
            for path in family.placeholders:
                if self._configured(path) is _NOTHING:
                    raise UnsupportedModelError(
                        f"model: family {family.name!r} declares placeholders {path!r}; {type(model.config).__name__} "
                        "has no such attribute"
                    )
        if family.chunk_size is not None and self._configured(family.chunk_size) is _NOTHING:
            raise UnsupportedModelError(
                f"model: family {family.name!r} declares chunk_size {family.chunk_size!r}; "
                f"{type(model.config).__name__} has no such attribute"
            )
        head = model.get_output_embeddings()
        if head is not None and self._part(family.head) is not head:
            name = next((name for name, module in model.named_modules() if module is head), "another module")
            raise UnsupportedModelError(
                f"model: family {family.name!r} declares the head {family.head!r}; get_output_embeddings() of "
                f"{type(model).__name__} gives {name!r}. Declare that."
            )

    @cached_property
    def base(self) -> nn.Module:
        return self._part(self.family.base)

    @cached_property
    def text_model(self) -> nn.Module:
        return self._part(self.family.decoder)

    @cached_property
    def layers(self) -> list[nn.Module]:
        return list(self._part(self.family.layers).children())

    @cached_property
    def attentions(self) -> dict[int, nn.Module]:
        """Index of a layer to the attention in it that reads the image; layers without one are absent."""
        return {
            index: layer.get_submodule(self.family.attention)
            for index, layer in enumerate(self.layers)
            if _has(layer, self.family.attention)
        }

    def chunk(self, layer: int) -> int | None:
        """Number of keys of the chunks that a layer attends within, or None."""
        config: Any = self.text_model.config
        if self.family.chunk_size is None or config.layer_types[layer] != "chunked_attention":
            return None
        return int(self._configured(self.family.chunk_size))

    @cached_property
    def cache_argument(self) -> str:
        """What the text model calls its cache; transformers 5.24 has another name for it than earlier releases."""
        parameters = inspect.signature(type(self.text_model).forward).parameters
        return "cache" if "cache" in parameters else "past_key_values"

    @property
    def attention_implementation(self) -> str:
        config: Any = self.text_model.config
        return str(getattr(config, "_attn_implementation", "its own"))

    @property
    def vocabulary_size(self) -> int:
        """Number of rows of the output embedding."""
        head: Any = self._part(self.family.head)
        return int(head.weight.shape[0])

    @cached_property
    def placeholder_ids(self) -> list[int]:
        """Token ids that stand for images in a prompt."""
        ids = [self._configured(path) for path in self.family.placeholders]
        return [int(i) for i in ids if i is not None and i is not _NOTHING]

    def is_placeholder(self, ids: Tensor) -> Tensor:
        """Bool of the shape of ``ids``: which stand for a piece of an image."""
        return torch.isin(ids, torch.tensor(self.placeholder_ids, device=ids.device, dtype=ids.dtype))

    def image_tokens(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """``(P,)`` bool: which tokens of the prompt stand for a piece of an image."""
        mask = self.family.placeholder_mask
        if self.family.sequence is not None:
            return self.family.sequence(inputs)[0] < 0
        return self.is_placeholder(inputs["input_ids"][0]) if mask is None else inputs[mask][0].bool()

    def start_ids(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Ids ``(n,)`` that the decoder sequence of an encoder-decoder begins with, before the answer."""
        return self.family.start_ids(self, inputs)

    def prompt_ids(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Ids ``(1, P)`` of the prompt: what is read with the images, or else what the answer begins with."""
        if self.family.sequence is not None:
            return self.family.sequence(inputs)
        if self.family.rows == "own":  # text is not among what attention reads
            return torch.empty(1, 0, dtype=torch.int64)
        return inputs["input_ids"] if "input_ids" in inputs else self.start_ids(inputs)[None]

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings ``(1, T, d)`` of ids ``(T,)``."""
        embedding: Tensor = self.model.get_input_embeddings()(ids[None])
        return embedding

    def final_norm(self, residual: Tensor) -> Tensor:
        """The norm between the residual stream and the head (Eq. 2)."""
        if self.family.final_norm is None:
            return residual
        normed: Tensor = self._part(self.family.final_norm)(residual)
        return normed

    def output_rows(self, ids: Tensor) -> Tensor:
        """Rows ``W_lm[y]`` ``(T, d)`` of the output embedding."""
        head: Any = self._part(self.family.head)
        weight: Tensor = head.weight
        if weight.is_meta:
            weight = offloaded_weights(head)["weight"]
        return torch.nn.functional.embedding(ids.to(weight.device), weight).to(ids.device)

    def project(self, layer: int, attention_output: Tensor, hidden_states: Tensor) -> Tensor:
        """What one layer's attention does behind attention proper, ``(1, T, H * D) -> (1, T, d)``."""
        return self.family.project(self.attentions[layer], self.family, attention_output, hidden_states)

    def _configured(self, path: str) -> Any:
        """What the model's config holds under a path with dots, or `_NOTHING`."""
        return reduce(lambda part, name: getattr(part, name, _NOTHING), path.split("."), self.model.config)

    def _part(self, path: str) -> nn.Module:
        try:
            return self.model.get_submodule(path)
        except AttributeError as error:
            raise UnsupportedModelError(
                f"model: family {self.family.name!r} expects a module {path!r}; {type(self.model).__name__} has none"
            ) from error


def _has(module: nn.Module, path: str) -> bool:
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True
