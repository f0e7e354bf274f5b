"""Random models of realistic shape: timings do not depend on what the weights know."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

IMAGE_TOKEN_ID = 32000


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


def prompt(model: LlavaForConditionalGeneration, before: int = 8, after: int = 24) -> dict[str, Tensor]:
    """Text, one image, text."""
    generator = torch.Generator().manual_seed(1)
    text = torch.randint(10, 30000, (before + after,), generator=generator)
    ids = torch.cat((text[:before], torch.full((576,), IMAGE_TOKEN_ID), text[before:]))[None]
    pixels = torch.randn(1, 3, 336, 336, generator=generator)
    return {"input_ids": ids.to(model.device), "pixel_values": pixels.to(model.device, model.dtype)}


def answer(model: LlavaForConditionalGeneration, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(10, 30000, (length,), generator=generator).to(model.device)
