"""LLaVA 1.5 and its kin (BakLLaVA): a fixed grid of patches, row by row, in place of one `<image>` each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InputError
from ..geometry import Grid, resized_and_cropped, whole_image
from .family import Family, ImageLayout

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin


def layout(
    model: PreTrainedModel,
    processor: ProcessorMixin | None,
    inputs: Mapping[str, Tensor],
    image_size: tuple[int, int] | None,
) -> ImageLayout:
    """The grid of one image: ``H // patch x W // patch`` cells, a class token first if the strategy is "full"."""
    if "pixel_values" not in inputs:
        raise InputError(
            "model_inputs: expected pixel_values of the image; got "
            f"{', '.join(sorted(inputs))}. Pass everything that the processor returns."
        )
    pixel_values = inputs["pixel_values"]
    if pixel_values.ndim != 4 or len(pixel_values) != 1:
        raise InputError(
            f"image: expected one image, pixel_values (1, 3, H, W); got {tuple(pixel_values.shape)}. "
            "Explain one image at a time."
        )
    height, width = pixel_values.shape[-2:]
    config: Any = model.config
    patch = config.vision_config.patch_size
    rows, cols = height // patch, width // patch
    cells = torch.arange(rows * cols)
    # Only CLIP's tower has a class token; "default" drops it.
    if config.vision_feature_select_strategy == "full" and config.vision_config.model_type == "clip_vision_model":
        cells = torch.cat((torch.tensor([-1]), cells))
    n_tokens = int((inputs["input_ids"] == config.image_token_id).sum())
    if n_tokens != len(cells):
        raise InputError(
            f"model_inputs: the prompt has {n_tokens} image tokens, but an image of {height} x {width} pixels gives "
            f"{len(cells)} ({rows} x {cols} patches, vision_feature_select_strategy="
            f"{config.vision_feature_select_strategy!r}). Use the processor that belongs to the model."
        )
    return ImageLayout(_grid(processor, rows, cols, (height, width), image_size), cells)


def _grid(processor: Any, rows: int, cols: int, pixels: tuple[int, int], image_size: tuple[int, int] | None) -> Grid:
    if image_size is None:
        return whole_image(rows, cols, (pixels[1], pixels[0]))
    if processor is None:
        raise InputError(
            "image: the processor says which part of it the model saw, and this Explainer has none. "
            "Pass Explainer(model, processor), or leave the image out."
        )
    image_processor = processor.image_processor
    resize = image_processor.size if image_processor.do_resize else None
    crop = image_processor.crop_size if image_processor.do_center_crop else None
    return resized_and_cropped(rows, cols, image_size, resize, crop)


FAMILY = Family(name="llava", model_types=("llava",), layout=layout)
