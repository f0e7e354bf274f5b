"""LLaVA 1.5 and its kin (BakLLaVA, VipLLaVA): a fixed grid of patches, row by row, in place of one `<image>` each.

Pixtral 12B is a LLaVA by its type, with a vision tower that takes images of any shape.
"""

from __future__ import annotations

from ...errors import InputError
from ...layout.grid import Box, padded_to_square, resized, resized_and_cropped
from ...layout.image_layout import LayoutBuilder
from ..family import Family, Prompt
from . import pixtral


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """``H // patch x W // patch`` cells of each image, a class token first if the strategy is "full"."""
    if prompt.config.vision_config.model_type == "pixtral":
        pixtral.layout(prompt, tokens)
        return
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
        tokens.grid(rows, cols, cropped_box(prompt, size, (width, height)))


def cropped_box(
    prompt: Prompt, size: tuple[int, int], model_size: tuple[int, int] | None = None, *, video: bool = False
) -> Box | None:
    """What a CLIP-like processor (resize, then crop to the centre) leaves of an image of ``(width, height)`` pixels.

    The processor is that of images, or that of video frames. LLaVA's own can pad to a square before.

    None, for all of what the model saw, where the user's image is not known.

    Raises:
        InputError: the processor would make another size of the image than the ``(width, height)`` that the model saw.
    """
    if not prompt.images_known:
        return None
    processor = prompt.video_processor if video else prompt.image_processor
    resize = processor.size if processor.do_resize else None
    crop = processor.crop_size if getattr(processor, "do_center_crop", False) else None
    pads_first = hasattr(processor, "pad_to_square") and processor.do_pad
    x, y, right, bottom = padded_to_square(size) if pads_first else (0.0, 0.0, *size)
    given = int(right - x), int(bottom - y)
    processed = (crop["width"], crop["height"]) if crop else resized(given, resize)
    if model_size is not None and processed != model_size:
        raise InputError(
            f"image: the processor's settings make {processed[0]} x {processed[1]} pixels of a picture of {size[0]} x "
            f"{size[1]}, but the model inputs hold {model_size[0]} x {model_size[1]}. Pass the picture that was "
            "processed, and what the processor's call was given besides as processor_kwargs=."
        )
    left, top, right, bottom = resized_and_cropped(1, 1, given, resize, crop).box
    return x + left, y + top, x + right, y + bottom


LLAVA = Family(name="llava", model_types=("llava",), layout=layout, inputs=pixtral.INPUTS)
VIPLLAVA = Family(name="vipllava", model_types=("vipllava",), layout=layout)
