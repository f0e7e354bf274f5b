"""LLaVA-NeXT and LLaVA-NeXT-Video: a base image and an unpadded grid of tiles, each row ended by a newline token."""

from types import SimpleNamespace

import torch
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor,
)
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from .case import Case, randomised, text_shape, tokenizer, video_prompt, vision_shape, without_video

PINPOINTS = [[48, 96], [96, 48], [96, 96], [48, 144], [144, 48]]


def build(attention: str):
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**vision_shape(projection_dim=32)),
        text_config=LlamaConfig(**text_shape()),
        image_token_index=3,
        image_grid_pinpoints=PINPOINTS,
    )
    return randomised(LlavaNextForConditionalGeneration, config, attention)


def build_video(attention: str):
    config = LlavaNextVideoConfig(
        vision_config=CLIPVisionConfig(**vision_shape(projection_dim=32)),
        text_config=LlamaConfig(**text_shape()),
        image_token_index=3,
        video_token_index=4,
        image_grid_pinpoints=PINPOINTS,
    )
    return randomised(LlavaNextVideoForConditionalGeneration, config, attention)


def image_processor() -> LlavaNextImageProcessorPil:
    return LlavaNextImageProcessorPil(
        size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}, image_grid_pinpoints=PINPOINTS
    )


ARGUMENTS = {"vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}


def processor() -> LlavaNextProcessor:
    return LlavaNextProcessor(image_processor(), tokenizer(image_token="<image>"), patch_size=8, **ARGUMENTS)


def video_processor() -> LlavaNextVideoProcessor:
    words = tokenizer(("<image>", "<video>"), image_token="<image>", video_token="<video>")
    no_videos = SimpleNamespace(model_input_names=[])
    return without_video(LlavaNextVideoProcessor)(no_videos, image_processor(), words, patch_size=8, **ARGUMENTS)


def video(frames: Tensor) -> dict[str, Tensor]:
    return video_prompt(len(frames) * 9, 4, pixel_values_videos=frames[None])


def newlines(builder):
    """The model's own packing, asked with numbered features and a newline that is no number."""

    def separators(inputs: dict[str, Tensor]) -> Tensor:
        if "pixel_values" not in inputs:
            return torch.zeros(int((inputs["input_ids"] == 4).sum()), dtype=torch.bool)
        sizes = inputs["image_sizes"]
        numbered = [torch.ones(image_size_to_num_patches(size, PINPOINTS, 48), 36, 1) for size in sizes]
        packed, _ = builder("sdpa").model.pack_image_features(
            numbered, sizes, "default", image_newline=torch.tensor([torch.nan])
        )
        return torch.cat(packed)[:, 0].isnan()

    return separators


CASES = (
    Case("llava_next", build, processor, separators=newlines(build)),
    Case("llava_next_video", build_video, video_processor, separators=newlines(build_video), video=video),
)
