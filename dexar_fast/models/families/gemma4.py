"""Gemma 4: grids of any shape, pooled; inputs of their own for every layer; late layers that share keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...layout.image_layout import LayoutBuilder
from ..decoder import Decoder
from ..family import Family, Prompt, next_positions
from .videos import images_and_videos


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """One grid per image or frame; `image_position_ids` and `video_position_ids` hold its patches' ``(x, y)``."""
    vision = prompt.config.vision_config
    images, frames = (
        iter(prompt.inputs.get("image_position_ids", ())),
        iter(prompt.inputs.get("video_position_ids", ())),
    )
    for is_video in images_and_videos(prompt, tokens):
        positions = next(frames if is_video else images, None)
        if positions is None:
            return
        cols, rows = (positions.amax(dim=0) + 1).tolist()  # padding is at -1
        size = cols * vision.patch_size, rows * vision.patch_size
        tokens.image(size)
        tokens.expect_shape(size, rounded_to=vision.patch_size * vision.pooling_kernel_size)
        tokens.grid(rows // vision.pooling_kernel_size, cols // vision.pooling_kernel_size)


def continue_arguments(decoder: Decoder, arguments: Mapping[str, Any], answer_ids: Tensor) -> dict[str, Any]:
    """Positions, and each layer's own embedding of the rows' tokens, in the models that have one."""
    further = next_positions(decoder, arguments, answer_ids)
    of_prompt = arguments.get("per_layer_inputs")
    if of_prompt is None:
        return further
    text_model: Any = decoder.text_model
    of_answer = text_model.get_per_layer_inputs(answer_ids[None, :-1], None)
    return {**further, "per_layer_inputs": torch.cat((of_prompt[:, -1:], of_answer), dim=1)}


FAMILY = Family(
    name="gemma4",
    model_types=("gemma4",),
    layout=layout,
    inputs=(
        "input_ids",
        "attention_mask",
        "mm_token_type_ids",
        "pixel_values",
        "image_position_ids",
        "num_soft_tokens_per_image",
        "pixel_values_videos",
        "video_position_ids",
        "num_frames_per_video",
    ),
    carried={"per_layer_input": 1},
    continue_arguments=continue_arguments,
    placeholders=("image_token_id", "video_token_id"),
)
