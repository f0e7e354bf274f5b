"""A layout for declarations: grids of any shape, as Qwen2-VL's processor and its many kin note them."""

from __future__ import annotations

from ...layout.image_layout import LayoutBuilder
from ..family import Prompt
from .videos import images_and_videos


def grid_thw(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """`image_grid_thw` and `video_grid_thw` name frames, rows and columns of patches, in the order of the prompt.

    Patches of `vision_config.patch_size` pixels are merged by `vision_config.spatial_merge_size` in each direction;
    frames of a video by `vision_config.temporal_merge_size` where there is one. The images are resized as a whole.
    """
    vision = prompt.config.vision_config
    merge, patch = vision.spatial_merge_size, vision.patch_size
    images, videos = iter(prompt.inputs.get("image_grid_thw", ())), iter(prompt.inputs.get("video_grid_thw", ()))
    for is_video in images_and_videos(prompt, tokens):
        grid = next(videos if is_video else images, None)
        if grid is None:
            return
        frames, rows, cols = grid.tolist()
        for _ in range(frames // getattr(vision, "temporal_merge_size", 1) if is_video else frames):
            tokens.image((cols * patch, rows * patch))
            tokens.grid(rows // merge, cols // merge)
