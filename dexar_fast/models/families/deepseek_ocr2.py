"""DeepSeek-OCR 2: learned queries read each tile and the page as a whole. A query has no place: there is no map."""

from __future__ import annotations

from ...layout.image_layout import LayoutBuilder
from ..family import Family, Prompt


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """Image tokens without a place, those of tiles, then those of the whole; a learned separator behind each image."""
    height, width = prompt["pixel_values"].shape[-2:]
    for length in prompt.runs(prompt.config.image_token_id):
        tokens.image((width, height))
        tokens.placeless(length - 1)
        tokens.separators(1)


FAMILY = Family(
    name="deepseek_ocr2",
    model_types=("deepseek_ocr2",),
    layout=layout,
    inputs=("input_ids", "attention_mask", "pixel_values", "pixel_values_local", "num_local_patches"),
)
