"""Qwen2-VL and its successors: grids of any shape, patches merged 2 x 2, video as a grid per merged pair of frames."""

from __future__ import annotations

from ..layout import LayoutBuilder
from .family import Family, Prompt


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """`image_grid_thw` and `video_grid_thw` name frames, rows and columns of patches, in the order of the prompt."""
    config = prompt.config
    merge = config.vision_config.spatial_merge_size
    grids = {
        config.image_token_id: iter(prompt.inputs.get("image_grid_thw", ())),
        config.video_token_id: iter(prompt.inputs.get("video_grid_thw", ())),
    }
    ids = prompt["input_ids"][0].tolist()
    position = 0
    while position < len(ids):
        grid = next(grids[ids[position]], None) if ids[position] in grids else None
        if grid is None:  # text; or a placeholder too many, which the count of tokens will tell
            position += 1
            continue
        frames, rows, cols = grid.tolist()
        for _ in range(frames):
            tokens.image((cols * config.vision_config.patch_size, rows * config.vision_config.patch_size))
            tokens.grid(rows // merge, cols // merge)
        position += frames * (rows // merge) * (cols // merge)


INPUTS = (
    "input_ids",
    "attention_mask",
    "mm_token_type_ids",
    "pixel_values",
    "image_grid_thw",
    "pixel_values_videos",
    "video_grid_thw",
)

QWEN2_VL = Family(
    name="qwen2_vl",
    model_types=("qwen2_vl",),
    layout=layout,
    inputs=INPUTS,
    run_state=("rope_deltas",),
    placeholders=("image_token_id", "video_token_id"),
)
QWEN2_5_VL = Family(
    name="qwen2_5_vl",
    model_types=("qwen2_5_vl",),
    layout=layout,
    inputs=(*INPUTS, "second_per_grid_ts"),
    run_state=("rope_deltas",),
    placeholders=("image_token_id", "video_token_id"),
)
