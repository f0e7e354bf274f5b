"""HunYuan-VL and HunyuanOCR: grids of any shape between learned marks, with a learned newline behind each row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...layout.image_layout import LayoutBuilder
from ..decoder import Decoder
from ..family import Family, Prompt, positions_ahead


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """`image_grid_thw` names rows and columns of patches, merged by `spatial_merge_size`."""
    vision = prompt.config.vision_config
    merge = vision.spatial_merge_size
    for _, rows, cols in prompt["image_grid_thw"].tolist():
        tokens.image((cols * vision.patch_size, rows * vision.patch_size))
        tokens.separators(1)
        tokens.grid(rows // merge, cols // merge, row_ends=True)
        tokens.separators(1)


def continue_arguments(decoder: Decoder, arguments: Mapping[str, Any], answer_ids: Tensor) -> dict[str, Any]:
    """Positions on as many axes as the configuration names, none of which is the text model's own count."""
    return {"position_ids": positions_ahead(decoder, arguments["position_ids"], answer_ids)}


FAMILY = Family(
    name="hunyuan_vl",
    model_types=("hunyuan_vl",),
    layout=layout,
    inputs=("input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw"),
    continue_arguments=continue_arguments,
    run_state=("rope_deltas",),
)
