"""ERNIE 4.5 VL: M-RoPE, experts for text and others for vision."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import Ernie4_5_VLMoeConfig, Ernie4_5_VLMoeForConditionalGeneration, Ernie4_5_VLMoeProcessor
from transformers.models.ernie4_5_vl_moe.image_processing_pil_ernie4_5_vl_moe import Ernie4_5_VLMoeImageProcessorPil

from .case import Case, randomised, text_shape, tokenizer, video_prompt, without_video

SPECIALS: dict[str, Any] = {
    "image_token": "<image>",
    "video_token": "<video>",
    "image_start_token": "<image_start>",
    "image_end_token": "<image_end>",
    "video_start_token": "<video_start>",
    "video_end_token": "<video_end>",
}


def build(attention: str):
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [3, 3, 2]}
    config = Ernie4_5_VLMoeConfig(
        vision_config={"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 4},
        text_config=text_shape(
            rope_parameters=rope,
            moe_num_experts=4,
            moe_k=2,
            moe_num_shared_experts=1,
            moe_intermediate_size=[16, 8],
            mlp_layer_types=["dense", "sparse", "sparse"],
        ),
        tie_word_embeddings=False,
        image_token_id=3,
        video_token_id=4,
        image_start_token_id=5,
        image_end_token_id=6,
        video_start_token_id=7,
        video_end_token_id=8,
    )
    return randomised(Ernie4_5_VLMoeForConditionalGeneration, config, attention)


def processor() -> Any:
    return without_video(Ernie4_5_VLMoeProcessor)(
        Ernie4_5_VLMoeImageProcessorPil(patch_size=4, merge_size=2, size={"shortest_edge": 256, "longest_edge": 4096}),
        tokenizer(tuple(SPECIALS.values()), **SPECIALS),
        SimpleNamespace(merge_size=2, temporal_patch_size=2, model_input_names=[]),
    )


def video(frames: Tensor) -> dict[str, Tensor]:
    """Four frames of 12 x 12 patches; pairs of them are merged, 6 x 6 tokens each."""
    split = frames.reshape(4, 3, 6, 2, 4, 6, 2, 4)  # frame, channel, (row, of merge, pixel), (column, ...)
    patches = split.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(4 * 144, 48)
    inputs = video_prompt(72, 4, pixel_values_videos=patches, video_grid_thw=torch.tensor([[4, 12, 12]]))
    types = 2 * (inputs["input_ids"] == 4)
    return {**inputs, "mm_token_type_ids": types, "moe_mm_token_type_ids": types}


CASES = (
    Case(
        "ernie4_5_vl_moe",
        build,
        processor,
        image="<image_start><image><image_end>",  # the end of an image runs through the experts of vision
        video=video,
    ),
)
