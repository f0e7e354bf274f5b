"""Qwen2.5-Omni and Qwen3-Omni: the thinker; hearing is there and has nothing to hear."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen3OmniMoeProcessor,
    Qwen3OmniMoeThinkerConfig,
    Qwen3OmniMoeThinkerForConditionalGeneration,
    WhisperFeatureExtractor,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from .case import Case, answer, randomised, text_shape, tokenizer, without_video
from .qwen_vl import EXPERTS, IMAGE, ROPE, VISION, VISION_3, frame_patches

SPECIALS: dict[str, Any] = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
    "audio_token": "<|audio|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
AUDIO = {
    "num_mel_bins": 16,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "d_model": 32,
    "max_source_positions": 50,
    "n_window": 10,
    "output_dim": 32,
}
TOKEN_IDS = {
    "image_token_id": 3,
    "video_token_id": 4,
    "vision_start_token_id": 5,
    "vision_end_token_id": 6,
    "audio_token_id": 7,
    "audio_start_token_id": 8,
    "audio_end_token_id": 9,
}


def build(model_class, config_class, vision: dict[str, Any], **text: Any):
    def of_attention(attention: str):
        shape = text_shape(rope_parameters=ROPE, **text)
        if not text:
            del shape["head_dim"]  # width / heads
        config = config_class(vision_config=vision, text_config=shape, audio_config=AUDIO, **TOKEN_IDS)
        return randomised(model_class, config, attention)

    return of_attention


def processor(processor_class):
    def of_name():
        return without_video(processor_class)(
            Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, min_pixels=256, max_pixels=4096),
            SimpleNamespace(merge_size=2, model_input_names=[]),
            WhisperFeatureExtractor(feature_size=16, chunk_length=1),
            tokenizer(tuple(SPECIALS.values()), **SPECIALS),
        )

    return of_name


def video(frames: Tensor) -> dict[str, Tensor]:
    """Two merged pairs of frames, 6 x 6 tokens each, between marks, by which positions are counted."""
    ids = torch.cat((answer(4), torch.tensor([5, *[4] * 72, 6]), answer(3, seed=3)))[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **frame_patches(frames)}
    return {**inputs, "video_second_per_grid": torch.tensor([1.0])}


CASES = (
    Case(
        "qwen2_5_omni",
        build(
            Qwen2_5OmniThinkerForConditionalGeneration,
            Qwen2_5OmniThinkerConfig,
            {**VISION, "window_size": 16, "fullatt_block_indexes": [1]},
        ),
        processor(Qwen2_5OmniProcessor),
        image=IMAGE,
        video=video,
    ),
    Case(
        "qwen3_omni_moe",
        build(
            Qwen3OmniMoeThinkerForConditionalGeneration,
            Qwen3OmniMoeThinkerConfig,
            {**VISION_3, "deepstack_visual_indexes": [0]},
            mlp_only_layers=[1],
            **EXPERTS,
        ),
        processor(Qwen3OmniMoeProcessor),
        image=IMAGE,
        video=video,
    ),
)
