"""ERNIE 4.5 VL: Qwen2-VL's grids; each token runs through the experts of text or of vision, by its type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..decoder import Decoder
from ..family import Family, next_positions
from .grid_thw import grid_thw
from .qwen_vl import INPUTS

TYPES = "moe_mm_token_type_ids"


def continue_arguments(decoder: Decoder, arguments: Mapping[str, Any], answer_ids: Tensor) -> dict[str, Any]:
    """Positions, and the type of each row's token: that of the prompt's last, then text."""
    last = arguments[TYPES][:, -1:]
    of_rows = torch.cat((last, last.new_zeros(1, len(answer_ids) - 1)), dim=1)
    return {**next_positions(decoder, arguments, answer_ids), TYPES: of_rows}


FAMILY = Family(
    name="ernie4_5_vl_moe",
    model_types=("ernie4_5_vl_moe",),
    layout=grid_thw,
    inputs=(*INPUTS, TYPES),
    carried={TYPES: 1},
    continue_arguments=continue_arguments,
    run_state=("rope_deltas",),
    placeholders=("image_token_id", "video_token_id"),
)
