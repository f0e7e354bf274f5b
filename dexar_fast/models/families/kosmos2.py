"""Kosmos-2: latent queries read the image for the text model. A query has no place: there is no map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...layout.image_layout import LayoutBuilder
from ..decoder import Decoder
from ..family import Family, Prompt, next_positions, projected


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """Image tokens without a place, `latent_query_num` per image."""
    for image in prompt["pixel_values"]:
        tokens.image((image.shape[-1], image.shape[-2]))
        tokens.placeless(prompt.config.latent_query_num)


def normed(attention: nn.Module, family: Family, out: Tensor, hidden_states: Tensor) -> Tensor:
    """A norm between the heads and the output projection."""
    return projected(attention, family, attention.get_submodule("inner_attn_ln")(out), hidden_states)


def continue_arguments(decoder: Decoder, arguments: Mapping[str, Any], answer_ids: Tensor) -> dict[str, Any]:
    """Positions, which the text model counts from behind its padding id."""
    if arguments.get("position_ids") is None:
        text_model: Any = decoder.text_model
        positions = torch.arange(arguments["inputs_embeds"].shape[1], device=answer_ids.device)[None]
        arguments = {**arguments, "position_ids": positions + text_model.embed_positions.padding_idx + 1}
    return next_positions(decoder, arguments, answer_ids)


FAMILY = Family(
    name="kosmos-2",
    model_types=("kosmos-2",),
    layout=layout,
    inputs=("input_ids", "attention_mask", "pixel_values", "image_embeds_position_mask"),
    base="",
    decoder="text_model.model",
    layers="text_model.model.layers",
    final_norm="text_model.model.layer_norm",
    head="text_model.lm_head",
    projection="out_proj",
    project=normed,
    continue_arguments=continue_arguments,
    placeholder_mask="image_embeds_position_mask",
    prompt_image=None,
    several_images=False,
)
