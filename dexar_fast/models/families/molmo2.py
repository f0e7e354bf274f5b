"""Molmo 2: the image as a whole, then its overlapping crops as one grid; or a video's frames. Patches are pooled."""

from __future__ import annotations

from math import isqrt

from torch import Tensor

from ...layout.grid import Box
from ...layout.image_layout import LayoutBuilder
from ..family import Family, Prompt


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """`image_grids` holds rows and columns of the coarse and of the fine grid, `video_grids` frames, rows and columns.

    The marks at row ends are other tokens: text. A prompt has images or a video.
    """
    patch = prompt.config.vision_config.patch_size
    if "video_grids" in prompt.inputs:
        _frames(prompt, tokens, patch)
        return
    pooling = prompt["image_token_pooling"]
    for coarse_rows, coarse_cols, rows, cols in prompt["image_grids"].tolist():
        n_coarse, n = coarse_rows * coarse_cols, rows * cols
        coarse, fine, pooling = pooling[:n_coarse], pooling[n_coarse : n_coarse + n], pooling[n_coarse + n :]
        across, down = _patches(fine, rows, cols)
        size = tokens.image((patch * int(across.sum()), patch * int(down.sum())))
        tokens.grid(coarse_rows, coarse_cols, _box(size, *_patches(coarse, coarse_rows, coarse_cols)), thumbnail=True)
        tokens.grid(rows, cols, _box(size, across, down))


def _frames(prompt: Prompt, tokens: LayoutBuilder, patch: int) -> None:
    pooling = prompt["video_token_pooling"]
    for n_frames, rows, cols in prompt["video_grids"].tolist():
        for of_frame in pooling[: n_frames * rows * cols].split(rows * cols):
            across, down = _patches(of_frame, rows, cols)
            size = tokens.image((patch * int(across.sum()), patch * int(down.sum())))
            tokens.grid(rows, cols, _box(size, across, down))
        pooling = pooling[n_frames * rows * cols :]


def _patches(pooling: Tensor, rows: int, cols: int) -> tuple[Tensor, Tensor]:
    """Bool over columns, and over rows, of all windows: which hold patches. Windows at the border are padded.

    Args:
        pooling: ``(rows * cols, window * window)``, the patches that each token pools, -1 for none.
    """
    window = isqrt(pooling.shape[1])
    seen = (pooling >= 0).reshape(rows, cols, window, window)
    return seen.any(dim=2).any(dim=0).flatten(), seen.any(dim=3).any(dim=1).flatten()


def _box(size: tuple[int, int], across: Tensor, down: Tensor) -> Box:
    """The rectangle of all windows, on an image of ``(width, height)`` pixels that the patches cover exactly."""
    left, right = _reach(size[0], across)
    top, bottom = _reach(size[1], down)
    return left, top, right, bottom


def _reach(edge: int, seen: Tensor) -> tuple[float, float]:
    patch = edge / int(seen.sum())
    before = int(seen.int().argmax())
    return -before * patch, (len(seen) - before) * patch


FAMILY = Family(
    name="molmo2",
    model_types=("molmo2",),
    layout=layout,
    inputs=(
        "input_ids",
        "attention_mask",
        "mm_token_type_ids",
        "pixel_values",
        "image_token_pooling",
        "image_grids",
        "image_num_crops",
        "pixel_values_videos",
        "video_token_pooling",
        "video_grids",
    ),
)
