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

from .case import Case, randomised, text_shape, tokenizer, vision_shape


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


class PanAndScan(Gemma3Processor):
    """transformers' processor asks for crops only when it is told to in the call."""

    def __call__(self, *args, **kwargs):
        crop = {"min_crop_size": 16, "max_num_crops": 4, "min_ratio_to_activate": 1.2}
        settings = {f"pan_and_scan_{name}": value for name, value in crop.items()}
        return super().__call__(*args, **kwargs, do_pan_and_scan=True, **settings)


def processor(processor_class=Gemma3Processor, **images) -> Gemma3Processor:
    specials: dict[str, Any] = {"image_token": "<image>", "boi_token": "<boi>", "eoi_token": "<eoi>"}
    return processor_class(
        Gemma3ImageProcessorPil(size={"height": 48, "width": 48}, **images),
        tokenizer(tuple(specials.values()), **specials),
        image_seq_length=9,
    )


def pan_and_scan() -> Gemma3Processor:
    return processor(
        PanAndScan,
        pan_and_scan_min_crop_size=16,
        pan_and_scan_max_num_crops=4,
        pan_and_scan_min_ratio_to_activate=1.2,
    )


CASES = (
    Case("gemma3", build, processor, image="<boi>"),
    Case("gemma3 crops", build, pan_and_scan, image="<boi>"),
)
