"""Cohere Command A Vision: tiles with break tokens; attention and MLP side by side."""

from typing import Any

from transformers import (
    Cohere2Config,
    Cohere2VisionConfig,
    Cohere2VisionForConditionalGeneration,
    Cohere2VisionProcessor,
    SiglipVisionConfig,
)

from .case import Case, randomised, text_shape, tokenizer, vision_shape
from .torchvision_free import torchvision_free

Cohere2VisionImageProcessor = torchvision_free(
    "transformers.models.cohere2_vision.image_processing_cohere2_vision", "Cohere2VisionImageProcessor"
)
SPECIALS: dict[str, Any] = {
    "image_token": "<image>",
    "boi_token": "<boi>",
    "eoi_token": "<eoi>",
    "img_line_break_token": "<break>",
}


def build(attention: str):
    config = Cohere2VisionConfig(
        vision_config=SiglipVisionConfig(**vision_shape(image_size=48, vision_use_head=False)),
        text_config=Cohere2Config(**text_shape(sliding_window=16, sliding_window_pattern=3)),
        image_token_id=3,
        alignment_intermediate_size=48,
    )
    return randomised(Cohere2VisionForConditionalGeneration, config, attention)


def processor() -> Cohere2VisionProcessor:
    images = Cohere2VisionImageProcessor(size={"height": 48, "width": 48}, max_patches=6, patch_size=3)
    return Cohere2VisionProcessor(images, tokenizer(tuple(SPECIALS.values()), **SPECIALS))


CASES = (Case("cohere2_vision", build, processor),)
