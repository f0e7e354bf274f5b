"""LLaVA 1.5 and its kin (BakLLaVA, VipLLaVA): a fixed grid of patches, row by row, in place of one `<image>` each."""

from __future__ import annotations

from ..errors import InputError
from ..geometry import Box, resized_and_cropped
from ..layout import LayoutBuilder
from .family import Family, Prompt


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """``H // patch x W // patch`` cells of each image, a class token first if the strategy is "full"."""
    pixel_values = prompt["pixel_values"]
    if pixel_values.ndim != 4:
        raise InputError(f"image: expected pixel_values (images, 3, H, W); got {tuple(pixel_values.shape)}")
    height, width = pixel_values.shape[-2:]
    vision = prompt.config.vision_config
    rows, cols = height // vision.patch_size, width // vision.patch_size
    # Only CLIP's tower has a class token; "default" drops it.
    strategy = getattr(prompt.config, "vision_feature_select_strategy", "default")
    has_class_token = strategy == "full" and vision.model_type == "clip_vision_model"
    for _ in pixel_values:
        size = tokens.image((width, height))
        tokens.placeless(int(has_class_token))
        tokens.grid(rows, cols, cropped_box(prompt, size))


def cropped_box(prompt: Prompt, size: tuple[int, int], *, video: bool = False) -> Box | None:
    """What a CLIP-like processor (resize, then crop to the centre) leaves of an image of ``(width, height)`` pixels.

    The processor is that of images, or that of video frames.

    None, for all of what the model saw, where the user's image is not known.
    """
    if not prompt.images_known:
        return None
    processor = prompt.video_processor if video else prompt.image_processor
    resize = processor.size if processor.do_resize else None
    crop = processor.crop_size if getattr(processor, "do_center_crop", False) else None
    return resized_and_cropped(1, 1, size, resize, crop).box


LLAVA = Family(name="llava", model_types=("llava",), layout=layout)
VIPLLAVA = Family(name="vipllava", model_types=("vipllava",), layout=layout)
