"""A layout for declarations: grids of any shape, as Qwen2-VL's processor and its many kin note them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...layout.image_layout import LayoutBuilder
from ..family import Prompt
from .videos import images_and_videos


def grid_thw(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """`image_grid_thw` and `video_grid_thw` name frames, rows and columns of patches, in the order of the prompt.

    Patches have `vision_config.patch_size` pixels and are merged by `vision_config.spatial_merge_size` in each
    direction (or as `image_merge_sizes` of the inputs says); frames of a video are
    merged by `vision_config.temporal_merge_size` where there is one. Images are resized as a whole.
    """
    vision = prompt.config.vision_config
    images, videos = _grids(prompt, "image"), _grids(prompt, "video")
    for is_video in images_and_videos(prompt, tokens):
        grid = next(videos if is_video else images, None)
        if grid is None:
            return
        (frames, rows, cols), merge = grid
        for _ in range(frames // getattr(vision, "temporal_merge_size", 1) if is_video else frames):
            size = cols * vision.patch_size, rows * vision.patch_size
            tokens.image(size)
            tokens.expect_shape(size, rounded_to=merge * vision.patch_size)
            tokens.grid(rows // merge, cols // merge)


def _grids(prompt: Prompt, kind: str) -> Iterator[tuple[Any, int]]:
    """Each grid in patches, and how many of them are merged in each direction."""
    vision = prompt.config.vision_config
    grids = prompt.inputs.get(f"{kind}_grid_thw")
    if grids is None:
        return
    if f"{kind}_merge_sizes" in prompt.inputs:
        merges = prompt[f"{kind}_merge_sizes"].tolist()
    else:
        merges = [vision.spatial_merge_size] * len(grids)
    yield from zip(grids.tolist(), merges)
