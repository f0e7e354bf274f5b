"""InternVL and Qianfan-OCR: tiles and a thumbnail, patches merged 2 x 2."""

from types import SimpleNamespace
from typing import Any

from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    QianfanOCRConfig,
    QianfanOCRForConditionalGeneration,
    QianfanOCRProcessor,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from .case import Case, randomised, text_shape, tokenizer, vision_shape
from .qwen_vl import without_video

SPECIALS: dict[str, Any] = {
    "context_image_token": "<IMG_CONTEXT>",
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "video_token": "<video>",
    "image_token": "<image>",
}


def build(model_class, config_class, text):
    def of_attention(attention: str):
        config = config_class(
            vision_config=vision_shape(image_size=[48, 48], patch_size=[8, 8], drop_path_rate=0.0),
            text_config=text,
            image_token_id=3,
            image_seq_length=9,
        )
        return randomised(model_class, config, attention)

    return of_attention


def processor(processor_class, **further):
    def of_name():
        images = GotOcr2ImageProcessorPil(size={"height": 48, "width": 48}, max_patches=6)
        words = tokenizer(tuple(SPECIALS.values()), **SPECIALS)
        return processor_class(images, words, image_seq_length=9, **further)

    return of_name


def without_layer_heads(text: dict[str, Any]) -> dict[str, Any]:
    """Without a head width of its own: Qwen 2 takes width / heads."""
    return {name: value for name, value in text.items() if name != "head_dim"}


CASES = (
    Case(
        "internvl",
        build(InternVLForConditionalGeneration, InternVLConfig, Qwen2Config(**without_layer_heads(text_shape()))),
        processor(without_video(InternVLProcessor), video_processor=SimpleNamespace(model_input_names=[])),
        image="<IMG_CONTEXT>",
        global_vision=r"vision_tower.*attention\.projection_layer\.(weight|bias)$",
    ),
    Case(
        "qianfan_ocr",
        build(QianfanOCRForConditionalGeneration, QianfanOCRConfig, Qwen3Config(**text_shape())),
        processor(QianfanOCRProcessor),
        global_vision=r"vision_tower.*attention\.projection_layer\.(weight|bias)$",
    ),
)
