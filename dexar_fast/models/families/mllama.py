"""Mllama (Llama 3.2 Vision): some layers attend across to the tiles of the images; no image token in the sequence."""

from __future__ import annotations

from collections.abc import Mapping
from math import floor
from typing import Any

from torch import Tensor
from transformers.models.mllama.image_processing_pil_mllama import get_optimal_tiled_canvas

from ...errors import InputError
from ...layout.image_layout import LayoutBuilder, tile_boxes
from ..decoder import Decoder
from ..family import Family, Prompt, next_positions


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """A class token and a square of patches per tile; an image's tiles form a canvas, the image at its top left."""
    vision = prompt.config.vision_config
    tile, side = vision.image_size, vision.image_size // vision.patch_size
    # Text attends to the images just before it: an answer does not see an image that other text parts from the last.
    of_answer = prompt["cross_attention_mask"][0, -1].any(dim=-1)
    for ratio, seen in zip(prompt["aspect_ratio_ids"][0].tolist(), of_answer.tolist()):
        if ratio == 0:  # padding: no image
            continue
        rows, cols = vision.supported_aspect_ratios[ratio - 1]
        width, height = tokens.image((cols * tile, rows * tile))
        if prompt.images_known and prompt.processor is not None:
            most = prompt.image_processor.max_image_tiles
            wanted = get_optimal_tiled_canvas(height, width, most, tile)
            if wanted != (rows * tile, cols * tile):
                raise InputError(
                    f"image: the processor puts a picture of {width} x {height} pixels on a canvas of {wanted[1]} x "
                    f"{wanted[0]}, but the model inputs hold {cols * tile} x {rows * tile}. Pass the picture that was "
                    "processed, and what the processor's call was given besides as processor_kwargs=."
                )
        seen_width, seen_height = fit_to_canvas((width, height), (cols * tile, rows * tile), tile)
        box = (0.0, 0.0, cols * tile * width / seen_width, rows * tile * height / seen_height)
        for of_tile in tile_boxes(box, rows, cols):
            if seen:
                tokens.placeless(1)
                tokens.grid(side, side, of_tile)
            else:
                tokens.unseen_grid(side, side, of_tile)


def fit_to_canvas(size: tuple[int, int], canvas: tuple[int, int], tile: int) -> tuple[int, int]:
    """``(width, height)`` of an image in a canvas: as large as it is, at least one tile, at most the canvas."""
    (width, height), (canvas_width, canvas_height) = size, canvas
    target_width = min(max(width, tile), canvas_width)
    target_height = min(max(height, tile), canvas_height)
    if target_width / width < target_height / height:
        return target_width, min(floor(height * target_width / width) or 1, target_height)
    return min(floor(width * target_height / height) or 1, target_width), target_height


def continue_arguments(decoder: Decoder, arguments: Mapping[str, Any], answer_ids: Tensor) -> dict[str, Any]:
    """The answer sees the images that the last prompt token sees. Their keys and values are in the cache."""
    rows = len(answer_ids)
    return {
        **next_positions(decoder, arguments, answer_ids),
        "cross_attention_mask": arguments["cross_attention_mask"][:, :, -1:].expand(-1, -1, rows, -1),
        "full_text_row_masked_out_mask": arguments["full_text_row_masked_out_mask"][:, :, -1:].expand(-1, -1, rows, -1),
    }


FAMILY = Family(
    name="mllama",
    model_types=("mllama",),
    layout=layout,
    inputs=(
        "input_ids",
        "attention_mask",
        "pixel_values",
        "aspect_ratio_ids",
        "aspect_ratio_mask",
        "cross_attention_mask",
    ),
    attention="cross_attn",
    keys="vision",
    carried={"full_text_row_masked_out_mask": 2},
    continue_arguments=continue_arguments,
)
