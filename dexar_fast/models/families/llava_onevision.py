"""LLaVA-OneVision: one image as LLaVA-NeXT's, of bounded size; several images, or a video's frames, one grid each."""

from __future__ import annotations

from math import ceil

from ...layout.grid import padded_to_square
from ...layout.image_layout import LayoutBuilder
from ..family import Family, Prompt
from .llava_next import tiled_image
from .videos import images_and_videos


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """An image alone is tiled; of several, each is padded to a square, with a newline behind it; so is a video."""
    config = prompt.config
    tile = config.vision_config.image_size
    side = tile // config.vision_config.patch_size
    sizes = prompt.inputs.get("image_sizes", ())
    of_messages = prompt.inputs.get("batch_num_images", [1] * len(sizes))
    images = iter([(size, n == 1) for size, n in zip(sizes, [n for n in of_messages for _ in range(n)])])
    videos = iter(prompt.inputs.get("pixel_values_videos", ()))
    most_tiles = int(config.vision_aspect_ratio.removeprefix("anyres_max_"))
    for is_video in images_and_videos(prompt, tokens):
        if is_video and (video := next(videos, None)) is not None:
            for _ in video:
                tokens.image((tile, tile))
                tokens.grid(ceil(side / 2), ceil(side / 2))
            tokens.separators(1)
        elif not is_video and (image := next(images, None)) is not None:
            (height, width), alone = image[0].tolist(), image[1]
            if alone:
                tiled_image(prompt, tokens, (width, height), most_tiles)
            else:
                tokens.image_as_processed((width, height))
                tokens.grid(side, side, padded_to_square((width, height)))
                tokens.separators(1)


FAMILY = Family(
    name="llava_onevision",
    model_types=("llava_onevision",),
    layout=layout,
    inputs=(
        "input_ids",
        "attention_mask",
        "pixel_values",
        "image_sizes",
        "batch_num_images",
        "pixel_values_videos",
    ),
    placeholders=("image_token_id", "video_token_id"),
)
