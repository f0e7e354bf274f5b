"""Gemma 3: a pooled square per image, and one per crop where the processor pans and scans."""

from __future__ import annotations

from math import isqrt

import numpy as np

from ...layout.grid import Box
from ...layout.image_layout import LayoutBuilder
from ..family import Family, Prompt


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """The image as a whole, then its crops, each `mm_tokens_per_image` tokens in a square.

    Where the images are known, more views than images are their crops; else every view is shown for itself.
    """
    side = isqrt(prompt.config.mm_tokens_per_image)
    n_views, _, height, width = prompt["pixel_values"].shape
    sizes = tokens.image_sizes or [(width, height)] * n_views
    for size in sizes:
        tokens.image((width, height))
        crops = _crops(prompt, size) if n_views > len(sizes) else []
        tokens.grid(side, side, thumbnail=bool(crops))
        for crop in crops:
            tokens.grid(side, side, crop)


def _crops(prompt: Prompt, size: tuple[int, int]) -> list[Box]:
    """Where the processor pans to: it is asked to crop an image that holds the coordinates of its pixels."""
    processor = prompt.image_processor
    width, height = size
    coordinates = np.stack(np.broadcast_arrays(np.arange(width)[None], np.arange(height)[:, None]))
    crops = processor.pan_and_scan(
        coordinates,
        processor.pan_and_scan_min_crop_size,
        processor.pan_and_scan_max_num_crops,
        processor.pan_and_scan_min_ratio_to_activate,
    )
    return [(float(x[0, 0]), float(y[0, 0]), float(x[-1, -1] + 1), float(y[-1, -1] + 1)) for x, y in crops]


FAMILY = Family(
    name="gemma3",
    model_types=("gemma3",),
    layout=layout,
    inputs=("input_ids", "attention_mask", "token_type_ids", "pixel_values"),
    prompt_image="boi_token",
)
