"""Gemma 3: a pooled square per image, and one per crop where the processor pans and scans."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, isqrt

import numpy as np
import torch

from ...errors import InputError
from ...layout.grid import Box
from ...layout.image_layout import LayoutBuilder
from ..family import Family, Prompt

Size = tuple[int, int]  # width, height


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """The image as a whole, then its crops, each `mm_tokens_per_image` tokens in a square.

    Where the images are known, more views than images are their crops; else every view is shown for itself.
    """
    side = isqrt(prompt.config.mm_tokens_per_image)
    n_views, _, height, width = prompt["pixel_values"].shape
    sizes = tokens.image_sizes or [(width, height)] * n_views
    for size, n_crops in zip(sizes, _numbers_of_crops(prompt, sizes, n_views)):
        tokens.image((width, height))
        tokens.grid(side, side, thumbnail=n_crops > 0)
        for box in crops(size, n_crops):
            tokens.grid(side, side, box)


def crops(size: Size, n: int) -> list[Box]:
    """The rectangles of so many crops of an image: side by side along its longer edge, the last one perhaps smaller."""
    width, height = size
    across, down = (n, 1) if width >= height else (1, n)
    if n == 0:
        return []
    crop_width, crop_height = ceil(width / across), ceil(height / down)
    return [
        (x, y, min(x + crop_width, width), min(y + crop_height, height))
        for y in range(0, down * crop_height, crop_height)
        for x in range(0, across * crop_width, crop_width)
    ]


def _numbers_of_crops(prompt: Prompt, sizes: Sequence[Size], n_views: int) -> list[int]:
    """Of each image. One image has all that there are; of several the processor's settings tell."""
    n_crops = n_views - len(sizes)
    if n_crops <= 0 or len(sizes) == 1:
        return [max(0, n_crops)] * len(sizes)
    counts = [_number_of_crops(prompt, size) for size in sizes]
    if sum(counts) != n_crops:
        raise InputError(
            f"image: the model inputs hold {n_crops} crops, but the processor's settings give {sum(counts)} for "
            f"pictures of {', '.join(f'{w} x {h}' for w, h in sizes)} pixels. Pass those that were processed, and what "
            "the processor's call was given besides as processor_kwargs=."
        )
    return counts


def _number_of_crops(prompt: Prompt, size: Size) -> int:
    """How many the processor pans to: it is asked to crop an image that takes no memory."""
    processor = prompt.image_processor
    names = ("min_crop_size", "max_num_crops", "min_ratio_to_activate")
    settings = {f"pan_and_scan_{name}": getattr(processor, f"pan_and_scan_{name}", None) for name in names}
    if None in settings.values():
        raise InputError(
            f"image: the processor has no {', '.join(name for name, value in settings.items() if value is None)}, and "
            "the model inputs hold crops. Pass what the processor's call was given as processor_kwargs=."
        )
    width, height = size
    image = np.broadcast_to(np.uint8(0), (3, height, width))
    if hasattr(processor, "pan_and_scan"):
        return len(processor.pan_and_scan(image, **settings))
    # The image processor for torchvision has it under another name, for tensors.
    return len(processor.pan_and_scan_batched(torch.zeros(1, 1, 1, 1).expand(1, 3, height, width), **settings))


FAMILY = Family(
    name="gemma3",
    model_types=("gemma3",),
    layout=layout,
    inputs=("input_ids", "attention_mask", "token_type_ids", "pixel_values"),
    prompt_image="boi_token",
)
