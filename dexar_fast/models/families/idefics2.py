"""Idefics 2: latent queries read the image, or its quarters and then it, for the text model. A query has no place."""

from __future__ import annotations

from ...layout.image_layout import LayoutBuilder
from ..family import Family, Prompt


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """Image tokens without a place, `resampler_n_latents` for each view; five views where the processor splits."""
    views, (height, width) = prompt["pixel_values"].shape[1], prompt["pixel_values"].shape[-2:]
    latents = prompt.config.perceiver_config.resampler_n_latents
    n_images = views if tokens.image_sizes is None else len(tokens.image_sizes)
    for _ in range(n_images):
        tokens.image((width, height))
        tokens.placeless(latents * (views // n_images))


FAMILY = Family(
    name="idefics2",
    model_types=("idefics2",),
    layout=layout,
    inputs=("input_ids", "attention_mask", "pixel_values", "pixel_attention_mask"),
    decoder="model.text_model",
    layers="model.text_model.layers",
    final_norm="model.text_model.norm",
)
