"""PaddleOCR-VL: Qwen2-VL's grids over images alone."""

from __future__ import annotations

from ..family import Family
from .grid_thw import grid_thw

FAMILY = Family(
    name="paddleocr_vl",
    model_types=("paddleocr_vl",),
    layout=grid_thw,
    inputs=("input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw"),
    run_state=("rope_deltas",),
)
