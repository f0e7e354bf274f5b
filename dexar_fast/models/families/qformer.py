"""BLIP-2 and InstructBLIP: learned queries read the image for the text model. A query has no place: there is no map."""

from __future__ import annotations

from typing import Any

from ...layout.image_layout import LayoutBuilder
from ..family import Family, Prompt


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """Image tokens without a place, `num_query_tokens` in front of the text."""
    for image in prompt["pixel_values"]:
        tokens.image((image.shape[-1], image.shape[-2]))
        tokens.placeless(prompt.config.num_query_tokens)


def _family(name: str, decoder: str, **declared: Any) -> Family:
    return Family(
        name=name,
        model_types=(name,),
        layout=layout,
        base="",
        decoder=decoder,
        layers=f"{decoder}.layers",
        head="language_model.lm_head",
        prompt_image=None,
        several_images=False,
        **declared,
    )


BLIP_2_OPT = _family(
    "blip-2/opt",
    "language_model.model.decoder",
    final_norm="language_model.model.decoder.final_layer_norm",
    projection="out_proj",
)
INSTRUCTBLIP_LLAMA = _family(
    "instructblip/llama",
    "language_model.model",
    final_norm="language_model.model.norm",
    inputs=("input_ids", "attention_mask", "pixel_values", "qformer_input_ids", "qformer_attention_mask"),
)
