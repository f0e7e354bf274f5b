"""Random models of realistic shape: timings do not depend on what the weights know."""

from __future__ import annotations

from math import isqrt
from typing import Any

import torch
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from dexar_fast.engine.generation import end_ids
from dexar_fast.models.decoder import Decoder

IMAGE_TOKEN_ID = 32000
QWEN_IDS = {"image_token_id": 151655, "video_token_id": 151656, "vision_start_token_id": 151652}


def llava(
    *,
    layers: int = 8,
    width: int = 512,
    heads: int = 8,
    intermediate: int = 1408,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    attention: str = "sdpa",
    vision_layers: int = 2,
    vision_width: int = 128,
) -> LlavaForConditionalGeneration:
    """A LLaVA with 576 image tokens (336 pixels, patches of 14); the defaults are the mid-size model of the README."""
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=vision_width,
            intermediate_size=4 * vision_width,
            num_hidden_layers=vision_layers,
            num_attention_heads=vision_width // 64,
            image_size=336,
            patch_size=14,
        ),
        text_config=LlamaConfig(
            hidden_size=width,
            intermediate_size=intermediate,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            vocab_size=32064,
            max_position_embeddings=16384,
        ),
        image_token_index=IMAGE_TOKEN_ID,
    )
    with torch.device(device):
        return LlavaForConditionalGeneration._from_config(
            config, dtype=dtype, attn_implementation={"": "sdpa", "vision_config": "sdpa", "text_config": attention}
        ).eval()


def qwen2_5_vl(
    *,
    layers: int,
    width: int,
    heads: int,
    kv_heads: int,
    intermediate: int,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    attention: str = "sdpa",
) -> Qwen2_5_VLForConditionalGeneration:
    """A Qwen2.5-VL with grouped heads and biases on query, key and value, and images of any size.

    Its vision tower is small (2 layers of width 128 in windows): these figures are about the language model.
    """
    torch.manual_seed(0)
    head_width = width // heads
    text = {
        "hidden_size": width,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": 152064,
        "max_position_embeddings": 128000,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [head_width // 8, 3 * head_width // 16, 3 * head_width // 16],
        },
    }
    vision = {
        "depth": 2,
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_heads": 2,
        "out_hidden_size": width,
        "fullatt_block_indexes": [],
    }
    config = Qwen2_5_VLConfig(vision_config=vision, text_config=text, **QWEN_IDS)
    with torch.device(device):
        return Qwen2_5_VLForConditionalGeneration._from_config(
            config, dtype=dtype, attn_implementation={"": "sdpa", "vision_config": "sdpa", "text_config": attention}
        ).eval()


def never_ending(model: Any, decoder: Decoder) -> None:
    """Let the model write answers of any length: it prefers every token to the end's and to those of images."""
    with torch.no_grad():
        model.get_output_embeddings().weight[[*end_ids(decoder), *decoder.placeholder_ids]] = 0


def prompt(model: Any, before: int = 8, after: int = 24, image_tokens: int = 576) -> dict[str, Tensor]:
    """Text, one image, text; a LLaVA's image has 576 tokens, a Qwen's any square number of them."""
    generator = torch.Generator().manual_seed(1)
    text = torch.randint(10, 30000, (before + after,), generator=generator)
    is_qwen = isinstance(model, Qwen2_5_VLForConditionalGeneration)
    image_id = QWEN_IDS["image_token_id"] if is_qwen else IMAGE_TOKEN_ID
    ids = torch.cat((text[:before], torch.full((image_tokens,), image_id), text[before:]))[None]
    inputs = {"input_ids": ids.to(model.device)}
    if is_qwen:
        side = 2 * isqrt(image_tokens)  # patches, merged 2 x 2
        pixels = torch.randn(side * side, 3 * 2 * 14 * 14, generator=generator)
        inputs["image_grid_thw"] = torch.tensor([[1, side, side]], device=model.device)
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == image_id).int()
    else:
        pixels = torch.randn(1, 3, 336, 336, generator=generator)
    return {**inputs, "pixel_values": pixels.to(model.device, model.dtype)}


def answer(model: Any, length: int) -> Tensor:
    """Ids ``(T,)`` that are no image's."""
    generator = torch.Generator().manual_seed(2)
    return torch.randint(10, 30000, (length,), generator=generator).to(model.device)
