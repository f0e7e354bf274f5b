"""Florence-2: an encoder over image and prompt, a decoder that attends across to it."""

from __future__ import annotations

from math import prod

from ...layout.image_layout import LayoutBuilder
from ..family import Family, Prompt
from .llava import cropped_box


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """A global mean, then the last stage's grid row by row."""
    height, width = prompt["pixel_values"].shape[-2:]
    stride = prod(prompt.config.vision_config.patch_stride)
    for _ in prompt["pixel_values"]:
        size = tokens.image((width, height))
        tokens.placeless(1)
        tokens.grid(height // stride, width // stride, cropped_box(prompt, size, (width, height)))


FAMILY = Family(
    name="florence2",
    model_types=("florence2",),
    layout=layout,
    decoder="model.language_model.decoder",
    layers="model.language_model.decoder.layers",
    final_norm=None,
    attention="encoder_attn",
    projection="out_proj",
    keys="encoder",
    rows="decoder",
    carried={"encoder_hidden_states": None},
    constant=("self_attn",),
    prompt_image=None,
    several_images=False,
)
