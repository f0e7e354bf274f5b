"""Cohere Command A Vision: tiles, then the image as a whole, a break token behind each."""

from __future__ import annotations

from ...layout.image_layout import LayoutBuilder
from ..family import Family, Prompt
from .internvl import Size, lay_out_tiles, tilings


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """A square per view, its patches merged. Of an image, one other token lies between two views: text."""
    config = prompt.config
    side = prompt["pixel_values"].shape[-1] // config.vision_config.patch_size // config.downsample_factor
    lengths = prompt.runs(config.image_token_id, joined_over=1)
    lay_out_tiles(prompt, tokens, lengths, side, least_enlarging_tiling)


def least_enlarging_tiling(size: Size, tile: Size, fewest: int, most: int) -> tuple[int, int]:
    """Rows and columns of the tiles that an image is enlarged least to fit; of the largest, if none is large enough.

    transformers ignores ``fewest``.
    """
    scales = {(rows, cols): min(cols * tile[0] / size[0], rows * tile[1] / size[1]) for rows, cols in tilings(1, most)}
    enlarging = {tiling: scale for tiling, scale in scales.items() if scale >= 1}
    return min(enlarging, key=enlarging.__getitem__) if enlarging else max(scales, key=scales.__getitem__)


FAMILY = Family(name="cohere2_vision", model_types=("cohere2_vision",), layout=layout)
