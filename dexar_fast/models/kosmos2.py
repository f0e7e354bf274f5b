"""Kosmos-2: latent queries read the image for the text model. A query has no place: there is no map."""

from __future__ import annotations

from torch import Tensor, nn

from ..layout import LayoutBuilder
from .family import Family, Prompt, projected


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """Image tokens without a place, `latent_query_num` per image."""
    for image in prompt["pixel_values"]:
        tokens.image((image.shape[-1], image.shape[-2]))
        tokens.placeless(prompt.config.latent_query_num)


def normed(attention: nn.Module, family: Family, out: Tensor, hidden_states: Tensor) -> Tensor:
    """A norm between the heads and the output projection."""
    return projected(attention, family, attention.get_submodule("inner_attn_ln")(out), hidden_states)


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
    placeholder_mask="image_embeds_position_mask",
    prompt_image=None,
    several_images=False,
)
