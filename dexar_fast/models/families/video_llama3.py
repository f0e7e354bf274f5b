"""VideoLLaMA 3: Qwen2-VL's grids, merged as the inputs say; of a video, cells that hardly change are left out."""

from __future__ import annotations

from ...layout.image_layout import LayoutBuilder
from ..family import Family, Prompt
from .grid_thw import grid_thw
from .videos import images_and_videos

KEPT = "video_compression_mask"


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """As `grid_thw`; `video_compression_mask` says which cells of all frames of all videos have a token."""
    if KEPT not in prompt.inputs:
        grid_thw(prompt, tokens)
        return
    kept = prompt[KEPT]
    patch = prompt.config.vision_config.patch_size
    images = iter(zip(prompt.inputs.get("image_grid_thw", ()), prompt.inputs.get("image_merge_sizes", ())))
    frames = iter(
        (rows, cols, int(merge))
        for (n, rows, cols), merge in zip(prompt["video_grid_thw"].tolist(), prompt["video_merge_sizes"])
        for _ in range(n)
    )
    for is_video in images_and_videos(prompt, tokens):
        if is_video:
            rows, cols, merge = next(frames)
        else:
            (_, rows, cols), merge = (value.tolist() for value in next(images))
        tokens.image((cols * patch, rows * patch))
        rows, cols = rows // merge, cols // merge
        if is_video:
            tokens.grid(rows, cols, seen=kept[: rows * cols].reshape(rows, cols))
            kept = kept[rows * cols :]
        else:
            tokens.grid(rows, cols)


FAMILY = Family(
    name="video_llama_3",
    model_types=("video_llama_3",),
    layout=layout,
    inputs=(
        "input_ids",
        "attention_mask",
        "pixel_values",
        "image_grid_thw",
        "image_merge_sizes",
        "pixel_values_videos",
        "video_grid_thw",
        "video_merge_sizes",
        KEPT,
    ),
    placeholders=("image_token_id", "video_token_id"),
)
