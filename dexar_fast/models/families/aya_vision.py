"""Aya Vision: numbered tiles of an image, then the image as a whole; attention and MLP side by side in a layer."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from ...errors import InputError
from ...layout.image_layout import LayoutBuilder, tile_boxes
from ..family import Family, Prompt


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """A square per view, patches merged by `downsample_factor`.

    How tiles lie, the size of the user's image alone says: where it is not known, each view is shown for itself.
    """
    config = prompt.config
    side = config.vision_config.image_size // config.vision_config.patch_size // config.downsample_factor
    tile = prompt["pixel_values"].shape[-2:]
    for n_views in _views(prompt):
        if not prompt.images_known:
            for _ in range(n_views):
                tokens.image((tile[1], tile[0]))
                tokens.grid(side, side)
            continue
        width, height = tokens.image((tile[1], tile[0]))
        if n_views > 1:
            processor = prompt.image_processor
            fewest, most = processor.min_patches, processor.max_patches
            cols, rows = get_optimal_tiled_canvas((height, width), tuple(tile), fewest, most)
            for box in tile_boxes((0.0, 0.0, float(width), float(height)), rows, cols):
                tokens.grid(side, side, box)
        tokens.grid(side, side, thumbnail=n_views > 1)


def _views(prompt: Prompt) -> list[int]:
    """Number of views of each image: runs of image tokens up to its end token."""
    processor: Any = prompt.processor
    if processor is None:
        raise InputError(
            "processor: its tokenizer says where an image ends, and this Explainer has none. "
            "Pass Explainer(model, processor)."
        )
    image = prompt.config.image_token_id
    end = processor.tokenizer.convert_tokens_to_ids(processor.end_of_img_token)
    views = [0]
    for token, _ in groupby(prompt["input_ids"][0].tolist()):
        if token == image:
            views[-1] += 1
        elif token == end:
            views.append(0)
    return views[:-1]


FAMILY = Family(name="aya_vision", model_types=("aya_vision",), layout=layout)
