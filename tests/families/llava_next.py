"""LLaVA-NeXT: a base image and an unpadded grid of tiles, each row ended by a newline token."""

import torch
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
)
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from .case import Case, randomised, text_shape, tokenizer, vision_shape

PINPOINTS = [[24, 48], [48, 24], [48, 48], [24, 72], [72, 24]]


def build(attention: str):
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**vision_shape(projection_dim=32)),
        text_config=LlamaConfig(**text_shape()),
        image_token_index=3,
        image_grid_pinpoints=PINPOINTS,
    )
    return randomised(LlavaNextForConditionalGeneration, config, attention)


def processor() -> LlavaNextProcessor:
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}, image_grid_pinpoints=PINPOINTS
    )
    return LlavaNextProcessor(
        images,
        tokenizer(image_token="<image>"),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def newlines(inputs: dict[str, Tensor]) -> Tensor:
    """The model's own packing, asked with numbered features and a newline that is no number."""
    model = build("sdpa").model
    numbered = [torch.ones(len(p), 9, 1) for p in _patches(inputs)]
    packed, _ = model.pack_image_features(
        numbered, inputs["image_sizes"], "default", image_newline=torch.tensor([torch.nan])
    )
    return torch.cat(packed)[:, 0].isnan()


def _patches(inputs: dict[str, Tensor]) -> list[range]:
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    return [range(image_size_to_num_patches(size, PINPOINTS, 24)) for size in inputs["image_sizes"]]


CASES = (Case("llava_next", build, processor, separators=newlines),)
