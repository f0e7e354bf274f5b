"""Qwen2-VL and Qwen2.5-VL: M-RoPE, grids of any shape."""

from types import SimpleNamespace
from typing import Any

from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from .case import Case, randomised, text_shape, tokenizer

SPECIALS: dict[str, Any] = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
}
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}


def text_config():
    text = text_shape(rope_parameters=ROPE)
    del text["head_dim"]  # the attention takes width / heads, the rotary embedding would take head_dim
    return text


def qwen2_vl(attention: str):
    config = Qwen2VLConfig(
        vision_config={"depth": 2, "embed_dim": 32, "num_heads": 2, "hidden_size": 32, "patch_size": 4},
        text_config=text_config(),
        **token_ids(),
    )
    return randomised(Qwen2VLForConditionalGeneration, config, attention)


def qwen2_5_vl(attention: str):
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 32,
            "patch_size": 4,
            "window_size": 16,
            "fullatt_block_indexes": [1],
        },
        text_config=text_config(),
        **token_ids(),
    )
    return randomised(Qwen2_5_VLForConditionalGeneration, config, attention)


def token_ids() -> dict[str, int]:
    return {"image_token_id": 3, "video_token_id": 4, "vision_start_token_id": 5, "vision_end_token_id": 6}


def without_video(processor_class):
    """transformers' video processors need torchvision; a prompt with images alone asks nothing of them."""
    unchecked = {"check_argument_for_proper_class": lambda self, name, argument: type(argument)}
    return type(processor_class.__name__, (processor_class,), unchecked)


def qwen_processor(processor_class):
    def build():
        return without_video(processor_class)(
            Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, min_pixels=256, max_pixels=4096),
            tokenizer(tuple(SPECIALS.values()), **SPECIALS),
            SimpleNamespace(merge_size=2, model_input_names=[]),
        )

    return build


CASES = (
    Case("qwen2_vl", qwen2_vl, qwen_processor(Qwen2VLProcessor), image=IMAGE),
    Case("qwen2_5_vl", qwen2_5_vl, qwen_processor(Qwen2_5_VLProcessor), image=IMAGE),
)
