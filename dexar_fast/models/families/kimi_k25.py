"""Kimi K2.5: grids of any shape, the image at their top left, on DeepSeek V3: values narrower than queries and keys."""

from __future__ import annotations

from math import sqrt

from ...layout.grid import Box
from ...layout.image_layout import LayoutBuilder
from ..family import Family, Prompt


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """`image_grid_thw` names rows and columns of patches, merged by `merge_kernel_size`; the last ones are padding."""
    vision = prompt.config.vision_config
    merge, patch = vision.merge_kernel_size[0], vision.patch_size
    for _, rows, cols in prompt["image_grid_thw"].tolist():
        size = tokens.image((cols * patch, rows * patch))
        tokens.grid(rows // merge, cols // merge, _padded(prompt, size, (cols * patch, rows * patch)))


def _padded(prompt: Prompt, size: tuple[int, int], canvas: tuple[int, int]) -> Box | None:
    """The canvas of ``(width, height)`` model pixels, in pixels of an image, which is made smaller to fit."""
    if not prompt.images_known:
        return None
    processor = prompt.image_processor
    width, height = size
    scale = 1.0
    if processor.do_resize:
        patch, longest = processor.patch_size, processor.size["max_height"] * processor.patch_size
        n_patches = max(1.0, height // patch) * max(1.0, width // patch)
        scale = min(1.0, sqrt(processor.max_patches / n_patches), longest / height, longest / width)
    resized = max(1, int(width * scale)), max(1, int(height * scale))
    return 0.0, 0.0, canvas[0] * width / resized[0], canvas[1] * height / resized[1]


FAMILY = Family(
    name="kimi_k25",
    model_types=("kimi_k25",),
    layout=layout,
    inputs=("input_ids", "attention_mask", "pixel_values", "image_grid_thw"),
)
