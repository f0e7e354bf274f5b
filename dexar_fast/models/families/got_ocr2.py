"""GOT-OCR 2: a page as one view, or in tiles and then as a whole where the processor is told to."""

from __future__ import annotations

from typing import Any

from PIL.Image import Image
from torch import Tensor

from ...layout.image_layout import LayoutBuilder
from ..family import Family, Prompt
from .internvl import closest_tiling, lay_out_tiles


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """A square per view; two convolutions halve the patches each."""
    config = prompt.config
    side = prompt["pixel_values"].shape[-1] // config.vision_config.patch_size // 4
    lay_out_tiles(prompt, tokens, prompt.runs(config.image_token_id), side, closest_tiling)


def encode(processor: Any, images: list[Image], prompt: str, **settings: Any) -> dict[str, Tensor]:
    """A list of lists would be pages of one document."""
    return dict(processor(images=images, text=[prompt], return_tensors="pt", **settings))


FAMILY = Family(name="got_ocr2", model_types=("got_ocr2",), layout=layout, encode=encode)
