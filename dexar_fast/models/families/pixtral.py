"""Models with Pixtral's vision tower (Mistral 3, LightOnOCR): images of any shape, a grid row by row.

A LLaVA with this tower (Pixtral 12B) is a `llava`, which calls `layout` of this file.
"""

from __future__ import annotations

from ...layout.image_layout import LayoutBuilder
from ..family import Family, Prompt


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """`image_sizes` holds ``(height, width)`` as the model sees them. Row breaks are other tokens: text."""
    cell = prompt.config.vision_config.patch_size * getattr(prompt.config, "spatial_merge_size", 1)
    for height, width in prompt["image_sizes"].tolist():
        tokens.image((width, height))
        tokens.expect_shape((width, height), rounded_to=cell)
        tokens.grid(height // cell, width // cell)


INPUTS = ("input_ids", "attention_mask", "pixel_values", "image_sizes")

LIGHTON_OCR = Family(name="lighton_ocr", model_types=("lighton_ocr",), layout=layout, inputs=INPUTS)
MISTRAL3 = Family(name="mistral3", model_types=("mistral3",), layout=layout, inputs=INPUTS)
