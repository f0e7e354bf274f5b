"""Pixtral's vision tower in Mistral 3, LightOnOCR and a LLaVA: images of any shape, rows that end in a break token."""

from typing import Any

from transformers import (
    LightOnOcrConfig,
    LightOnOcrForConditionalGeneration,
    LightOnOcrProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    PixtralVisionConfig,
    Qwen3Config,
)
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

from .case import Case, randomised, text_shape, tokenizer, vision_shape
from .torchvision_free import torchvision_free

SPECIALS: dict[str, Any] = {"image_token": "[IMG]", "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"}


def vision(patch: int) -> PixtralVisionConfig:
    return PixtralVisionConfig(**vision_shape(image_size=60, patch_size=patch, model_type="pixtral"))


def mistral3(attention: str):
    config = Mistral3Config(
        vision_config=vision(3),
        text_config=MistralConfig(**text_shape(sliding_window=None)),
        image_token_index=3,
        spatial_merge_size=2,
    )
    return randomised(Mistral3ForConditionalGeneration, config, attention)


def pixtral(attention: str):
    config = LlavaConfig(
        vision_config=vision(6),
        text_config=MistralConfig(**text_shape(sliding_window=None)),
        image_token_index=3,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return randomised(LlavaForConditionalGeneration, config, attention)


def lighton_ocr(attention: str):
    config = LightOnOcrConfig(
        vision_config=vision(3), text_config=Qwen3Config(**text_shape()), image_token_id=3, spatial_merge_size=2
    )
    return randomised(LightOnOcrForConditionalGeneration, config, attention)


def processor(processor_class, merge: int):
    def build():
        images = PixtralImageProcessorPil(size={"longest_edge": 60}, patch_size={"height": 6, "width": 6})
        words = tokenizer(tuple(SPECIALS.values()), **SPECIALS)
        return processor_class(images, words, patch_size=6 // merge, spatial_merge_size=merge)

    return build


PixtralProcessor = torchvision_free("transformers.models.pixtral.processing_pixtral", "PixtralProcessor")

CASES = (
    Case("mistral3", mistral3, processor(PixtralProcessor, 2), image="[IMG]"),
    Case("pixtral", pixtral, processor(PixtralProcessor, 1), image="[IMG]"),
    Case(
        "lighton_ocr",
        lighton_ocr,
        processor(LightOnOcrProcessor, 2),
        image="[IMG]",
        global_vision=r"vision_encoder.*attention\.o_proj\.weight$",
    ),
)
