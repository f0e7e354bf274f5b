"""FastVLM: a LLaVA with a convolutional tower, whose configuration does not name its stride."""

from __future__ import annotations

from math import sqrt

from ...layout.image_layout import LayoutBuilder
from ..family import Family, Prompt
from .llava import cropped_box


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """Square cells: as many in a row as their number and the shape of the image give."""
    config = prompt.config
    n_images, _, height, width = prompt["pixel_values"].shape
    cells = sum(prompt.runs(config.image_token_id)) // n_images
    rows = max(1, round(sqrt(cells * height / width)))
    for _ in range(n_images):
        size = tokens.image((width, height))
        tokens.grid(rows, cells // rows, cropped_box(prompt, size, (width, height)))


FAMILY = Family(name="fast_vlm", model_types=("fast_vlm",), layout=layout)
