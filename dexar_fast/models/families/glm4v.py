"""GLM-4V and its kin (4.5V, 4.6V, GLM-OCR): Qwen-VL's grids; a video's frames are image tokens to the tokenizer."""

from __future__ import annotations

from ..family import Family
from .grid_thw import grid_thw
from .qwen_vl import INPUTS

FAMILY = Family(
    name="glm4v",
    model_types=("glm4v", "glm4v_moe", "glm46v", "glm_ocr"),
    layout=grid_thw,
    inputs=INPUTS,
    run_state=("rope_deltas",),
    placeholders=("image_token_id", "video_token_id"),
)
