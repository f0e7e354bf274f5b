"""Granite 4 Vision: LLaVA-NeXT's tiles, merged, whose features are added to image tokens in front of several layers."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from ...layout.image_layout import LayoutBuilder
from ..decoder import Decoder
from ..family import Family, Prompt, next_positions
from .llava_next import best_resolution, unpadded


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """Base grid and unpadded tile grid of each image; `downsample_rate` is of cells to patches, in each direction."""
    config = prompt.config
    tile = config.vision_config.image_size
    side = int(tile // config.vision_config.patch_size * Fraction(config.downsample_rate))
    for height, width in prompt["image_sizes"].tolist():
        tokens.image_as_processed((width, height))
        canvas = best_resolution((width, height), config.image_grid_pinpoints)
        rows, cols, box = unpadded((width, height), canvas, tile, side)
        tokens.grid(side, side, thumbnail=True)
        tokens.grid(rows, cols, box, row_ends=True)


def continue_arguments(decoder: Decoder, arguments: Mapping[str, Any], answer_ids: Tensor) -> dict[str, Any]:
    """Positions; and the features that are added to the prompt's last token, where that is an image's."""
    positions = next_positions(decoder, arguments, answer_ids)
    is_image = arguments["vision_mask"]  # (1, P, 1)
    if is_image is None:
        return positions
    further = torch.zeros_like(is_image[:, :1]).expand(-1, len(answer_ids) - 1, -1)
    n = int(is_image[0, -1, 0])
    return {
        **positions,
        "vision_mask": torch.cat((is_image[:, -1:], further), dim=1),
        "deepstack_features": {
            layer: added[len(added) - n :] for layer, added in arguments["deepstack_features"].items()
        },
    }


FAMILY = Family(
    name="granite4_vision",
    model_types=("granite4_vision",),
    layout=layout,
    inputs=("input_ids", "attention_mask", "pixel_values", "image_sizes"),
    continue_arguments=continue_arguments,
)
