"""PaliGemma 1 and 2: a square of patches in front of the text; the prompt attends to all of itself."""

from __future__ import annotations

from .family import Family
from .llava import layout

FAMILY = Family(
    name="paligemma",
    model_types=("paligemma",),
    layout=layout,
    inputs=("input_ids", "attention_mask", "token_type_ids", "pixel_values"),
    prompt_image=None,
)
