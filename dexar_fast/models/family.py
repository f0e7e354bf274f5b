"""What the engine must know of a model family: where its parts are, how it runs on, how its image tokens lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..layout.image_layout import LayoutBuilder
from .processors import called_with

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import ProcessorMixin

    from .decoder import Decoder


@dataclass(frozen=True)
class Prompt:
    """What a family's layout may read.

    Attributes:
        config: of the model.
        processor: of the model, or None.
        inputs: the model inputs of the prompt.
        images_known: whether the user's images are known; else maps lie on what the model saw.
        placeholder_ids: of the image (and video) placeholders that the family declares.
        settings: arguments that the processor was called with besides images and text.
    """

    config: Any
    processor: ProcessorMixin | None
    inputs: Mapping[str, Tensor]
    images_known: bool
    placeholder_ids: Sequence[int] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        """A model input that the layout cannot do without."""
        if name not in self.inputs:
            raise InputError(
                f"model_inputs: expected {name} of the image; got {', '.join(sorted(self.inputs))}. "
                "Pass everything that the processor returns."
            )
        return self.inputs[name]

    def runs(self, token_id: int, joined_over: int = 0) -> list[int]:
        """How often a token stands in each of its runs in the prompt, in their order.

        Args:
            token_id: of the token.
            joined_over: runs with at most so many other tokens between them are one.
        """
        lengths: list[int] = []
        gap = 0
        for found, group in groupby(self["input_ids"][0].tolist(), token_id.__eq__):
            n = len(list(group))
            if not found:
                gap = n
            elif lengths and gap <= joined_over:
                lengths[-1] += n
            else:
                lengths.append(n)
        return lengths

    @property
    def tokenizer(self) -> Any:
        """The processor's, which knows the marks between image tokens."""
        if self.processor is None:
            raise InputError(
                "processor: its tokenizer says which tokens lie between the parts of an image, and this Explainer has "
                "none. Pass Explainer(model, processor)."
            )
        return self.processor.tokenizer

    @property
    def image_processor(self) -> Any:
        """The processor's settings for images, as it was called, which say what part of an image the model saw."""
        return called_with(self._known_processor, self.settings)

    @property
    def video_processor(self) -> Any:
        """The same for the frames of a video."""
        return self._known_processor.video_processor

    @property
    def _known_processor(self) -> Any:
        if self.processor is None:
            raise InputError(
                "image: the processor says which part of it the model saw, and this Explainer has none. "
                "Pass Explainer(model, processor), or leave the image out."
            )
        return self.processor


Continuation = Callable[["Decoder", Mapping[str, Any], Tensor], dict[str, Any]]


def next_positions(decoder: Decoder, arguments: Mapping[str, Any], answer_ids: Tensor) -> dict[str, Any]:
    """Positions of the answer rows: the last one of the prompt again, then one further each step, on every axis.

    Args:
        decoder: the model.
        arguments: what the text model was called with for the prompt; `position_ids` ``(..., P)`` or None.
        answer_ids: ``(T,)``.
    """
    positions = arguments.get("position_ids")
    if positions is None:
        return {}  # the text model counts the cache itself
    if positions.ndim == 3 and len(positions) == 4:
        positions = positions[1:]  # `generate` puts the text model's own count in front of time, row and column
    return {"position_ids": positions_ahead(decoder, positions, answer_ids)}


def positions_ahead(decoder: Decoder, positions: Tensor, answer_ids: Tensor) -> Tensor:
    """Positions ``(..., T)`` of the answer rows, or of prompt and rows, from those of the prompt ``(..., P)``."""
    steps = torch.arange(len(answer_ids) - 1, device=positions.device)
    last = positions[..., -1:]
    before = positions if decoder.family.rows == "whole" else last
    return torch.cat((before, last + 1 + steps), dim=-1)


def begins_as_configured(decoder: Decoder, inputs: Mapping[str, Tensor], writer: nn.Module | None = None) -> Tensor:
    """Ids ``(n,)`` that every sequence of an encoder-decoder begins with, by the generation config of what writes it.

    Args:
        decoder, inputs: the model, and the model inputs of the prompt.
        writer: the part that has the `generate` which writes; None for the model.
    """
    config: Any = (decoder.model if writer is None else writer).generation_config
    ids = [config.decoder_start_token_id, config.forced_bos_token_id]
    return torch.tensor([i for i in ids if i is not None], device=decoder.model.device)


def encoded(processor: Any, images: list[Image], prompt: str, **settings: Any) -> dict[str, Tensor]:
    """Model inputs of one prompt with its images; ``settings`` are further arguments of the processor's call."""
    # A list of lists: they belong to one prompt, which some processors treat unlike a prompt each.
    return dict(processor(images=[images], text=[prompt], return_tensors="pt", **settings))


def projected(attention: nn.Module, family: Family, out: Tensor, hidden_states: Tensor) -> Tensor:
    """The output projection: what attention does behind ``sum_j P_j V_j``.

    Args:
        attention: the attention module; `family` says where its projection is.
        out: ``(1, T, H * D)``.
        hidden_states: ``(1, T, d)``, what attention was called with, for attention that gates its output.
    """
    output: Tensor = attention.get_submodule(family.projection)(out)
    return output


Keys = Literal["sequence", "encoder", "vision"]
Rows = Literal["cached", "whole", "decoder", "own"]
GradientPath = Literal["leaf", "replay"]
Tap = Literal["registry", "projections", "arguments"]


@dataclass(frozen=True)
class Family:
    """A family of models, declared by the places of its parts in the module tree and by how it runs on.

    The defaults are those of most composite models of transformers (docs/models.md explains every field).

    Attributes:
        name: short name, shown in results and messages.
        model_types: values of `config.model_type`; "type/text model's type", where it takes several.
        layout: ``(prompt, builder)``: describes the image tokens of the prompt, in their order.
        inputs: names of the model inputs that a prompt may have; others are refused.
        base: path of the model without its head, which takes the processor's inputs.
        decoder: path of the text model, called with `inputs_embeds`.
        layers, head: paths of the decoder layers and the output embedding.
        final_norm: path of the norm before the head; None for a model without one.
        attention: path, within a layer, of the attention that reads the image. Layers without it are left out.
        projection: path of the output projection within attention.
        keys: what this attention reads. "sequence": prompt and answer so far (self-attention); "encoder": an encoder's
            states of placeholders and text; "vision": vision states alone (both cross-attention).
        rows: how the answer runs. "cached": over the prompt's key/value cache; "whole": prompt and answer together,
            without a cache, for models whose cache cannot be taken up by several tokens at once; "decoder": as the
            decoder's own sequence, behind an encoder; "own": as ``run`` runs it, for `models.modules`.
        gradient_path: "leaf": the attention output becomes a leaf while the model runs; "replay": the layer runs once
            more on the explained rows alone, its attention replaced by a leaf. "whole" needs "replay".
        tap: how query, key, value and attention output are seen. "registry": transformers' attention functions;
            "projections": hooks on `q_proj`, `k_proj`, `v_proj` and the output projection, for attention that calls no
            registered function; "arguments": ``read`` makes them of what attention is called with. Both need "replay".
        carried: arguments of a layer that its replay needs: name to the axis that runs along the rows, None for an
            argument that is handed on whole. All other arguments are None in a replay.
        constant: paths, within a layer, of further attention modules, whose outputs a replay takes as they were.
        project: what the attention module does behind attention proper, in a replay.
        continue_arguments: ``(decoder, arguments, answer_ids)``: further arguments of the text model for the answer
            rows, from those that it was called with for the prompt.
        prompt_sees_itself: the prompt attends to all of itself, even beyond a sliding window (a prefix-LM).
        takes_padding: whether the text model gives the same where its keys are filled up in front, as a mask says; if
            not, requests are explained one by one.
        run_state: attributes that the base model sets on itself while it runs; they are put back.
        chunk_size: attribute of the config (with dots) that holds the number of keys of a chunk, for a text model of
            whose layers some attend within chunks, as its `layer_types` says; None for none.
        placeholders: attributes of the config (with dots: of a part of it) that hold the ids of image (and video)
            placeholders.
        placeholder_mask: the model input ``(1, P)`` that marks image tokens, where their ids do not.
        run: ``(model, inputs, answer_ids)``: runs the prompt and the answer ids behind it (rows "own").
        read: ``(attention, args, kwargs)``: query, key and value, ``(1, positions, heads, D)`` each (tap "arguments").
        sequence: ``inputs -> (1, P)`` ids of the prompt, negative for image tokens (rows "own").
        start_ids: ``(decoder, inputs)``: what the decoder's sequence begins with, before the answer (rows "decoder").
        encode: ``(processor, images, prompt, **settings)``: the model inputs, for processors that are not called in the
            usual way; ``settings`` are further arguments of the call.
        prompt_image: attribute of the processor that holds the text which stands for an image in a prompt; None if the
            processor puts the image itself in front of the text.
        end_ids: ids that end an answer, where the generation config names none.
        prompt_needed: whether a prompt must have text.
        several_images: whether a prompt may have more than one image.

    Raises:
        ValueError: a field has a value that it cannot have.
    """

    name: str
    model_types: tuple[str, ...]
    layout: Callable[[Prompt, LayoutBuilder], None]
    inputs: tuple[str, ...] = ("input_ids", "attention_mask", "pixel_values")
    base: str = "model"
    decoder: str = "model.language_model"
    layers: str = "model.language_model.layers"
    final_norm: str | None = "model.language_model.norm"
    head: str = "lm_head"
    attention: str = "self_attn"
    projection: str = "o_proj"
    keys: Keys = "sequence"
    rows: Rows = "cached"
    gradient_path: GradientPath = "leaf"
    tap: Tap = "registry"
    carried: Mapping[str, int | None] = field(default_factory=dict)
    constant: tuple[str, ...] = ()
    project: Callable[[nn.Module, Family, Tensor, Tensor], Tensor] = projected
    continue_arguments: Continuation = next_positions
    prompt_sees_itself: bool = False
    takes_padding: bool = True
    run_state: tuple[str, ...] = ()
    chunk_size: str | None = None
    placeholders: tuple[str, ...] = ("image_token_id",)
    placeholder_mask: str | None = None
    run: Callable[[Any, Mapping[str, Tensor], Tensor], object] | None = None
    read: Callable[[nn.Module, Sequence[Any], Mapping[str, Any]], tuple[Tensor, Tensor, Tensor]] | None = None
    sequence: Callable[[Mapping[str, Tensor]], Tensor] | None = None
    start_ids: Callable[[Decoder, Mapping[str, Tensor]], Tensor] = begins_as_configured
    encode: Callable[..., dict[str, Tensor]] = encoded
    prompt_image: str | None = "image_token"
    end_ids: tuple[int, ...] = ()
    prompt_needed: bool = True
    several_images: bool = True

    def __post_init__(self) -> None:
        for name in ("model_types", "inputs", "constant", "run_state", "placeholders"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise ValueError(f"family {self.name!r}: {name}: expected a tuple, ({value!r},); got the str {value!r}")
        for name, choices in (("keys", Keys), ("rows", Rows), ("gradient_path", GradientPath), ("tap", Tap)):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(
                    f"family {self.name!r}: {name}: expected one of {', '.join(map(repr, get_args(choices)))}; "
                    f"got {getattr(self, name)!r}"
                )
        if self.gradient_path == "leaf" and (self.rows == "whole" or self.tap != "registry"):
            raise ValueError(
                f"family {self.name!r}: rows='whole' and tap={self.tap!r} need gradient_path='replay'; got 'leaf'"
            )
        for name, value, field_of in (("rows", self.rows == "own", "run"), ("tap", self.tap == "arguments", "read")):
            if value and getattr(self, field_of) is None:
                raise ValueError(f"family {self.name!r}: {name}={getattr(self, name)!r} needs {field_of}; got None")
