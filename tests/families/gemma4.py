"""Gemma 4: per-layer inputs and shared keys (the small ones); experts, values that are keys (the large ones)."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Gemma4TextConfig,
    Gemma4VisionConfig,
)
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

from .case import Case, randomised, text_shape, tokenizer, video_prompt, without_video

SPECIALS: dict[str, Any] = {
    "image_token": "<|image|>",
    "boi_token": "<|image>",
    "eoi_token": "<image|>",
    "audio_token": "<|audio|>",
    "boa_token": "<|audio>",
    "eoa_token": "<audio|>",
}
TOKEN_IDS = {
    "image_token_id": 3,
    "boi_token_id": 4,
    "eoi_token_id": 5,
    "audio_token_id": 6,
    "boa_token_id": 7,
    "eoa_token_index": 8,
    "video_token_id": 9,
}
LAYERS = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]


def build(**text: Any):
    def of_attention(attention: str):
        config = Gemma4Config(
            vision_config=Gemma4VisionConfig(
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                head_dim=16,
                patch_size=4,
                pooling_kernel_size=2,
                position_embedding_size=128,
            ),
            text_config=Gemma4TextConfig(
                **text_shape(num_hidden_layers=4),
                sliding_window=16,
                layer_types=LAYERS,
                global_head_dim=32,
                vocab_size_per_layer_input=300,
                **text,
            ),
            **TOKEN_IDS,
        )
        model = randomised(Gemma4ForConditionalGeneration, config, attention)
        for layer in model.model.language_model.layers:
            layer.layer_scalar.fill_(0.7)
        return model

    return of_attention


def processor():
    processing = pytest.importorskip(
        "transformers.models.gemma4.processing_gemma4",
        reason="this release's processor needs torchvision",
        exc_type=ImportError,
    )
    return without_video(processing.Gemma4Processor)(
        None,
        Gemma4ImageProcessorPil(patch_size=4, max_soft_tokens=70, pooling_kernel_size=2),
        tokenizer((*SPECIALS.values(), "<|video|>"), **SPECIALS),
        None,
    )


def video(frames: Tensor) -> dict[str, Tensor]:
    """Four frames of 6 x 6 tokens, text between them."""
    patches = (
        frames.unflatten(2, (12, 4)).unflatten(4, (12, 4)).permute(0, 2, 4, 3, 5, 1)
    )  # [frame, y, x, 4, 4, channel]
    xy = torch.stack(torch.meshgrid(torch.arange(12), torch.arange(12), indexing="xy"), dim=-1)
    inputs = video_prompt(
        36,
        9,
        parts=4,
        pixel_values_videos=patches.reshape(4, 144, 48),
        video_position_ids=xy.reshape(144, 2).expand(4, -1, -1),
        num_frames_per_video=torch.tensor([4]),
    )
    return {**inputs, "mm_token_type_ids": 2 * (inputs["input_ids"] == 9)}


MIXING = r"vision_tower.*self_attn\.o_proj\.(linear\.)?weight$"
CASES = (
    Case(
        "gemma4",
        build(hidden_size_per_layer_input=8, num_kv_shared_layers=2),
        processor,
        image="<|image|>",
        video=video,
        global_vision=MIXING,
    ),
    Case(
        "gemma4 experts",
        build(
            hidden_size_per_layer_input=0,
            use_bidirectional_attention="vision",
            attention_k_eq_v=True,
            num_global_key_value_heads=1,
            enable_moe_block=True,
            num_experts=4,
            top_k_experts=2,
            moe_intermediate_size=16,
        ),
        processor,
        image="<|image|>",
        video=video,
        global_vision=MIXING,
    ),
)
