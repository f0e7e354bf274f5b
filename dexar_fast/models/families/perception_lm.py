"""Perception LM: the image as a whole, then its tiles, patches pooled; of a video, its frames."""

from __future__ import annotations

from math import isqrt

from ...layout.image_layout import LayoutBuilder, tile_boxes
from ..family import Family, Prompt
from .videos import images_and_videos


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """A square per view. Where the images are not known, nor is how tiles lie: then each view is shown for itself."""
    for is_video in images_and_videos(prompt, tokens):
        kind = "video" if is_video else "image"
        n_all, n_views, _, height, width = prompt["pixel_values_videos" if is_video else "pixel_values"].shape
        n_tokens = sum(prompt.runs(getattr(prompt.config, f"{kind}_token_id")))
        side = isqrt(n_tokens // (n_all * n_views))
        if is_video or not prompt.images_known:
            for _ in range(n_views):
                tokens.image((width, height))
                tokens.grid(side, side)
            continue
        size = tokens.image((width, height))
        tokens.grid(side, side, thumbnail=n_views > 1)
        if n_views > 1:
            rows, cols = _tiling(prompt, size)
            for box in tile_boxes((0, 0, *size), rows, cols):
                tokens.grid(side, side, box)


def _tiling(prompt: Prompt, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of tiles, by the processor's own search."""
    processor = prompt.image_processor
    tiling = processor._fit_image_to_canvas(*size, processor.tile_size)
    cols, rows = tiling or processor._find_closest_aspect_ratio(*size, processor.tile_size)
    return rows, cols


FAMILY = Family(
    name="perception_lm",
    model_types=("perception_lm",),
    layout=layout,
    inputs=("input_ids", "attention_mask", "pixel_values", "pixel_values_videos"),
    placeholders=("image_token_id", "video_token_id"),
)
