"""MiniCPM-V 4.6, 4.7 and MiniCPM-OCR: the image as a whole, then its slices, each of any shape, on Qwen3.5."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from ...layout.image_layout import LayoutBuilder, tile_boxes
from ..family import Family, Prompt
from .qwen_vl import gated


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """`target_sizes` holds rows and columns of patches of each view, which are merged 4 x 4 (2 x 2 in mode "4x")."""
    config = prompt.config
    patch = config.vision_config.patch_size
    merge = 2 if config.downsample_mode == "4x" else 4
    views = iter((prompt["target_sizes"] // merge).tolist())
    for rows, cols in _slicings(prompt):
        down, across = next(views)
        width, height = tokens.image((across * merge * patch, down * merge * patch))
        tokens.grid(down, across, thumbnail=rows > 0)
        for box in tile_boxes((0.0, 0.0, float(width), float(height)), rows, cols):
            down, across = next(views)
            tokens.grid(down, across, box)


def _slicings(prompt: Prompt) -> Iterator[tuple[int, int]]:
    """Rows and columns of the slices of each image; none of each for an image of one view.

    Slices of a row stand side by side, with their marks alone between them.
    """
    ids = prompt["input_ids"][0].tolist()
    slice_start = prompt.tokenizer.slice_start_token_id
    rows, n_slices = 0, 0
    begun, position, end = False, 0, 0
    for is_image, run in groupby(ids, prompt.config.image_token_id.__eq__):
        start, position = position, position + len(list(run))
        if not is_image:
            continue
        if ids[start - 1] == slice_start:
            rows, n_slices = rows + (n_slices == 0 or start - end > 2), n_slices + 1
        else:
            if begun:
                yield rows, n_slices // max(1, rows)
            begun, rows, n_slices = True, 0, 0
        end = position
    if begun:
        yield rows, n_slices // max(1, rows)


def _family(name: str, *more_inputs: str, **declared: Any) -> Family:
    return Family(
        name=name,
        model_types=(f"{name}/qwen3_5_text",),
        layout=layout,
        inputs=("input_ids", "attention_mask", "pixel_values", "target_sizes", *more_inputs),
        rows="whole",
        gradient_path="replay",
        project=gated,
        **declared,
    )


MINICPM_V4_6 = _family("minicpmv4_6")
MINICPM_V4_7 = _family("minicpmv4_7", "mm_token_type_ids", run_state=("rope_deltas",))
MINICPM_OCR = _family("minicpm_ocr")
