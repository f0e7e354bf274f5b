"""Aya Vision: Cohere 2's parallel attention and MLP, sliding layers; tiles and the whole image."""

from transformers import (
    AyaVisionConfig,
    AyaVisionForConditionalGeneration,
    AyaVisionProcessor,
    Cohere2Config,
    SiglipVisionConfig,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from .case import Case, randomised, text_shape, tokenizer, vision_shape

SPECIALS = ("<|IMG_PATCH|>", "<image>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "TILE", "TILE_GLOBAL")


def build(attention: str):
    config = AyaVisionConfig(
        vision_config=SiglipVisionConfig(**vision_shape(vision_use_head=False)),
        text_config=Cohere2Config(
            **text_shape(), sliding_window=16, layer_types=["sliding_attention", "full_attention", "sliding_attention"]
        ),
        image_token_index=3,
        downsample_factor=2,
        alignment_intermediate_size=64,
    )
    return randomised(AyaVisionForConditionalGeneration, config, attention)


def processor() -> AyaVisionProcessor:
    return AyaVisionProcessor(
        GotOcr2ImageProcessorPil(size={"height": 48, "width": 48}, crop_to_patches=True, min_patches=1, max_patches=6),
        tokenizer(SPECIALS),
        patch_size=8,
        img_size=48,
        downsample_factor=2,
    )


CASES = (Case("aya_vision", build, processor),)
