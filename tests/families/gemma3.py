"""Gemma 3: sandwich norms, q/k norms, sliding layers, images that attend to themselves both ways."""

from typing import Any

from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    Gemma3TextConfig,
    SiglipVisionConfig,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

from .case import Case, asking, randomised, text_shape, tokenizer, vision_shape


def build(attention: str):
    config = Gemma3Config(
        vision_config=SiglipVisionConfig(**vision_shape(vision_use_head=False)),
        text_config=Gemma3TextConfig(
            **text_shape(),
            sliding_window=16,
            query_pre_attn_scalar=16,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        ),
        image_token_index=3,
        boi_token_index=4,
        eoi_token_index=5,
        mm_tokens_per_image=9,
    )
    return randomised(Gemma3ForConditionalGeneration, config, attention)


# transformers' processor asks for crops only when it is told to in the call; all settings are null in checkpoints.
CROPS = {
    "do_pan_and_scan": True,
    "pan_and_scan_min_crop_size": 16,
    "pan_and_scan_max_num_crops": 4,
    "pan_and_scan_min_ratio_to_activate": 1.2,
}


def processor(processor_class=Gemma3Processor) -> Gemma3Processor:
    specials: dict[str, Any] = {"image_token": "<image>", "boi_token": "<boi>", "eoi_token": "<eoi>"}
    return processor_class(
        Gemma3ImageProcessorPil(size={"height": 48, "width": 48}, **dict.fromkeys(CROPS)),
        tokenizer(tuple(specials.values()), **specials),
        image_seq_length=9,
    )


def pan_and_scan() -> Gemma3Processor:
    return processor(asking(Gemma3Processor, **CROPS))


CASES = (
    Case("gemma3", build, processor, image="<boi>"),
    Case("gemma3 crops", build, pan_and_scan, image="<boi>"),
)
