"""Phi-4-multimodal: tiles as one grid without padding, then the image as a whole; each row ends in a newline token."""

from __future__ import annotations

from ...layout.image_layout import LayoutBuilder
from ..family import Family, Prompt


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """The image lies at the top left of a canvas of tiles, whose ``(height, width)`` `image_sizes` holds."""
    vision = prompt.config.vision_config
    masks = prompt["image_attention_mask"]
    side = (vision.image_size // vision.patch_size + 1) // 2  # patches are pooled 2 x 2
    for (canvas_height, canvas_width), mask in zip(prompt["image_sizes"].tolist(), masks):
        width, height = tokens.image((canvas_width, canvas_height))
        down, across = canvas_height // vision.crop_size, canvas_width // vision.crop_size
        # As the model does: the first row and column of the canvas say how many cells are not padding.
        of_canvas = mask[1 : 1 + down * across, ::2, ::2].reshape(down, across, side, side)
        rows, cols = int(of_canvas[:, 0, :, 0].sum()), int(of_canvas[0, :, 0].sum())
        cell = 2 * vision.patch_size
        tokens.expect_shape((cols * cell, rows * cell), rounded_to=cell)
        x, y = _pixels((width, height), (canvas_width, canvas_height))
        tokens.grid(rows, cols, (0.0, 0.0, cols * cell * x, rows * cell * y), row_ends=True)
        tokens.separators(1)
        tokens.grid(side, side, (0.0, 0.0, canvas_width * x, canvas_height * y), thumbnail=True, row_ends=True)


def _pixels(size: tuple[int, int], canvas: tuple[int, int]) -> tuple[float, float]:
    """How many pixels of an image, in x and y, are one of its canvas: it is resized to fit, in whole pixels."""
    (width, height), (canvas_width, canvas_height) = size, canvas
    if canvas_width / width < canvas_height / height:
        return width / canvas_width, height / int(height * (canvas_width / width))
    return width / int(width * (canvas_height / height)), height / canvas_height


FAMILY = Family(
    name="phi4_multimodal",
    model_types=("phi4_multimodal",),
    layout=layout,
    inputs=("input_ids", "attention_mask", "image_pixel_values", "image_sizes", "image_attention_mask"),
    decoder="model",
    layers="model.layers",
    final_norm="model.norm",
    placeholders=("vision_config.image_token_id",),
)
