"""LFM2-VL: convolution and attention layers; tiles with markers, then a thumbnail of any shape."""

from typing import Any

from transformers import Lfm2Config, Lfm2VlConfig, Lfm2VlForConditionalGeneration, Lfm2VlProcessor, Siglip2VisionConfig

from .case import Case, randomised, text_shape, tokenizer, vision_shape
from .torchvision_free import torchvision_free

Lfm2VlImageProcessor = torchvision_free("transformers.models.lfm2_vl.image_processing_lfm2_vl", "Lfm2VlImageProcessor")

SPECIALS: dict[str, Any] = {
    "image_token": "<image>",
    "image_start_token": "<|image_start|>",
    "image_end_token": "<|image_end|>",
    "image_thumbnail_token": "<|img_thumbnail|>",
}
MARKERS = tuple(f"<|img_row_{r}_col_{c}|>" for r in range(1, 5) for c in range(1, 5))


def build(attention: str):
    text = text_shape(num_hidden_layers=4, vocab_size=320, block_auto_adjust_ff_dim=False)
    del text["head_dim"]
    vision = vision_shape(patch_size=8, num_patches=16, vision_use_head=False)
    del vision["image_size"]
    config = Lfm2VlConfig(
        vision_config=Siglip2VisionConfig(**vision),
        text_config=Lfm2Config(**text, layer_types=["conv", "full_attention", "conv", "full_attention"]),
        image_token_id=3,
        projector_hidden_size=32,
    )
    return randomised(Lfm2VlForConditionalGeneration, config, attention)


def processor(use_thumbnail: bool):
    def build() -> Lfm2VlProcessor:
        images = Lfm2VlImageProcessor(
            tile_size=32,
            max_tiles=4,
            min_image_tokens=2,
            max_image_tokens=6,
            encoder_patch_size=8,
            max_pixels_tolerance=1.5,
            use_thumbnail=use_thumbnail,
        )
        return Lfm2VlProcessor(images, tokenizer((*SPECIALS.values(), *MARKERS), vocabulary=320, **SPECIALS))

    return build


CASES = (
    Case("lfm2_vl", build, processor(True), paths=("replay",)),
    Case("lfm2_vl, no thumbnail", build, processor(False), paths=("replay",)),
)
