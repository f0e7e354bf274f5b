"""BLIP-2 and InstructBLIP, over a decoder or T5: queries read the image. They have no place: there is no map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...layout.image_layout import LayoutBuilder
from ..decoder import Decoder
from ..family import Family, Prompt, begins_as_configured


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """Image tokens without a place, `num_query_tokens` in front of the text."""
    for image in prompt["pixel_values"]:
        tokens.image((image.shape[-1], image.shape[-2]))
        tokens.placeless(prompt.config.num_query_tokens)


def start_ids(decoder: Decoder, inputs: Mapping[str, Tensor]) -> Tensor:
    """As the text model begins, which writes the answer by itself."""
    return begins_as_configured(decoder, inputs, decoder.model.get_submodule("language_model"))


def _family(name: str, decoder: str, layers: str = "layers", **declared: Any) -> Family:
    return Family(
        name=name,
        model_types=(name,),
        layout=layout,
        base="",
        decoder=decoder,
        layers=f"{decoder}.{layers}",
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
QFORMER_INPUTS = ("input_ids", "attention_mask", "pixel_values", "qformer_input_ids", "qformer_attention_mask")
INSTRUCTBLIP_LLAMA = _family(
    "instructblip/llama",
    "language_model.model",
    final_norm="language_model.model.norm",
    inputs=QFORMER_INPUTS,
)
_T5: dict[str, Any] = {
    "decoder": "language_model.decoder",
    "layers": "block",
    "final_norm": "language_model.decoder.final_layer_norm",
    "attention": "layer.1.EncDecAttention",
    "projection": "o",
    "keys": "encoder",
    "rows": "decoder",
    "carried": {"encoder_hidden_states": None},
    "constant": ("layer.0.SelfAttention",),
    "start_ids": start_ids,
}
BLIP_2_T5 = _family("blip-2/t5", **_T5)
INSTRUCTBLIP_T5 = _family("instructblip/t5", inputs=QFORMER_INPUTS, **_T5)
