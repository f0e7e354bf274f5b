"""DeepSeek-VL (one tower or two) and Janus: the image letterboxed into a square, a grid row by row."""

from __future__ import annotations

from dataclasses import replace

from ...layout.grid import Box
from ...layout.image_layout import LayoutBuilder
from ..family import Family, Prompt


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """``H // patch x W // patch`` cells of the square, padding included."""
    height, width = prompt["pixel_values"].shape[-2:]
    patch = prompt.config.vision_config.patch_size
    for _ in prompt["pixel_values"]:
        size = tokens.image((width, height))
        tokens.grid(height // patch, width // patch, _square(prompt, size))


def _square(prompt: Prompt, size: tuple[int, int]) -> Box | None:
    """The square in pixels of an image of ``(width, height)``; None, for all of it, where that is not known."""
    if not prompt.images_known:
        return None
    processor = prompt.image_processor
    # With two towers, the second sees a smaller version of what the first sees.
    side = getattr(processor, "high_res_size", processor.size)["height"]
    width, height = size
    new_width, new_height = (max(round(edge * (side / max(size))), processor.min_size) for edge in size)
    square = max(new_width, new_height)
    left, top = (square - new_width) // 2, (square - new_height) // 2
    across, down = width / new_width, height / new_height
    return -left * across, -top * down, (square - left) * across, (square - top) * down


DEEPSEEK_VL = Family(name="deepseek_vl", model_types=("deepseek_vl",), layout=layout)
DEEPSEEK_VL_HYBRID = replace(
    DEEPSEEK_VL,
    name="deepseek_vl_hybrid",
    model_types=("deepseek_vl_hybrid",),
    inputs=(*DEEPSEEK_VL.inputs, "high_res_pixel_values"),
)
JANUS = replace(DEEPSEEK_VL, name="janus", model_types=("janus",))
