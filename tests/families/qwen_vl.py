"""Qwen-VL 2 to 3.5: M-RoPE, grids of any shape; DeepStack (3), recurrent layers and gated attention (3.5), experts."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
    Qwen3VLProcessor,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from .case import Case, randomised, text_shape, tokenizer, video_prompt, without_video

SPECIALS: dict[str, Any] = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
}
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
TOKEN_IDS = {"image_token_id": 3, "video_token_id": 4, "vision_start_token_id": 5, "vision_end_token_id": 6}
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
VISION = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "out_hidden_size": 32,
    "patch_size": 4,
}
VISION_3 = {**VISION, "num_position_embeddings": 36}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
RECURRENT = {
    "layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"],
    "num_hidden_layers": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}


def build(model_class, config_class, vision: dict[str, Any], **text: Any):
    def of_attention(attention: str):
        config = config_class(vision_config=vision, text_config=text_shape(rope_parameters=ROPE, **text), **TOKEN_IDS)
        return randomised(model_class, config, attention)

    return of_attention


def build_2(model_class, config_class, vision: dict[str, Any]):
    def of_attention(attention: str):
        text = text_shape(rope_parameters=ROPE)
        del text["head_dim"]  # the attention takes width / heads, the rotary embedding would take head_dim
        return randomised(model_class, config_class(vision_config=vision, text_config=text, **TOKEN_IDS), attention)

    return of_attention


def processor(processor_class):
    def of_name():
        return without_video(processor_class)(
            Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, min_pixels=256, max_pixels=4096),
            tokenizer(tuple(SPECIALS.values()), **SPECIALS),
            SimpleNamespace(merge_size=2, model_input_names=[]),
        )

    return of_name


def video(frames: Tensor) -> dict[str, Tensor]:
    """Two merged pairs of frames, 6 x 6 tokens each, in one run."""
    return _with_types(video_prompt(72, 4, **frame_patches(frames)))


def video_in_parts(frames: Tensor) -> dict[str, Tensor]:
    """The same with text (a time) in front of each pair."""
    return _with_types(video_prompt(36, 4, parts=2, **frame_patches(frames)))


def frame_patches(frames: Tensor) -> dict[str, Any]:
    """Patches of 2 frames, 3 channels, 4 x 4 pixels, in the order in which 2 x 2 of them are merged."""
    split = frames.reshape(2, 2, 3, 6, 2, 4, 6, 2, 4)  # pair, frame, channel, (row, of merge, pixel), (column, ...)
    patches = split.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(2 * 144, 96)
    return {"pixel_values_videos": patches, "video_grid_thw": torch.tensor([[2, 12, 12]])}


def _with_types(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**inputs, "mm_token_type_ids": 2 * (inputs["input_ids"] == 4)}


CASES = (
    Case(
        "qwen2_vl",
        build_2(Qwen2VLForConditionalGeneration, Qwen2VLConfig, {"embed_dim": 32, **VISION}),
        processor(Qwen2VLProcessor),
        image=IMAGE,
        video=video,
    ),
    Case(
        "qwen2_5_vl",
        build_2(
            Qwen2_5_VLForConditionalGeneration,
            Qwen2_5_VLConfig,
            {**VISION, "window_size": 16, "fullatt_block_indexes": [1]},
        ),
        processor(Qwen2_5_VLProcessor),
        image=IMAGE,
        video=video,
    ),
    Case(
        "qwen3_vl",
        build(Qwen3VLForConditionalGeneration, Qwen3VLConfig, {**VISION_3, "deepstack_visual_indexes": [0, 1]}),
        processor(Qwen3VLProcessor),
        image="<|vision_start|><|image_pad|>",  # a prompt that ends in it must not lose its DeepStack features
        video=video_in_parts,
    ),
    Case(
        "qwen3_vl_moe",
        build(
            Qwen3VLMoeForConditionalGeneration,
            Qwen3VLMoeConfig,
            {**VISION_3, "deepstack_visual_indexes": [0]},
            mlp_only_layers=[1],
            **EXPERTS,
        ),
        processor(Qwen3VLProcessor),
        image=IMAGE,
        video=video_in_parts,
    ),
    Case(
        "qwen3_5",
        build(Qwen3_5ForConditionalGeneration, Qwen3_5Config, VISION_3, **RECURRENT),
        processor(Qwen3VLProcessor),
        image=IMAGE,
        video=video_in_parts,
        paths=("replay",),
    ),
    Case(
        "qwen3_5_moe",
        build(
            Qwen3_5MoeForConditionalGeneration,
            Qwen3_5MoeConfig,
            VISION_3,
            shared_expert_intermediate_size=16,
            **RECURRENT,
            **EXPERTS,
        ),
        processor(Qwen3VLProcessor),
        image=IMAGE,
        video=video_in_parts,
        paths=("replay",),
    ),
)
