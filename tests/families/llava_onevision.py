"""LLaVA-OneVision: tiles of bounded number for one image, padded squares for several, pooled frames."""

from types import SimpleNamespace

import torch
from torch import Tensor
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionProcessor,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.llava_onevision.modeling_llava_onevision import image_size_to_num_patches

from .case import Case, randomised, text_shape, tokenizer, video_prompt, vision_shape, without_video

PINPOINTS = [[48, 48], [48, 96], [96, 48], [96, 96], [48, 144], [144, 48]]


def build(attention: str):
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**vision_shape(vision_use_head=False)),
        text_config=Qwen2Config(**text_shape()),
        image_token_index=3,
        video_token_index=4,
        image_grid_pinpoints=PINPOINTS,
        vision_aspect_ratio="anyres_max_2",
    )
    return randomised(LlavaOnevisionForConditionalGeneration, config, attention)


def processor() -> LlavaOnevisionProcessor:
    return without_video(LlavaOnevisionProcessor)(
        LlavaOnevisionImageProcessorPil(size={"height": 48, "width": 48}, image_grid_pinpoints=PINPOINTS),
        tokenizer(("<image>", "<video>"), image_token="<image>", video_token="<video>"),
        SimpleNamespace(model_input_names=[]),
        num_image_tokens=36,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_2",
    )


def video(frames: Tensor) -> dict[str, Tensor]:
    return video_prompt(len(frames) * 9 + 1, 4, pixel_values_videos=frames[None])


def newlines(inputs: dict[str, Tensor]) -> Tensor:
    """The model's own packing, asked with numbered features and a newline that is no number."""
    if "pixel_values" not in inputs:
        is_last = torch.zeros(int((inputs["input_ids"] == 4).sum()), dtype=torch.bool)
        is_last[-1] = True
        return is_last
    sizes = inputs["image_sizes"]
    alone = len(sizes) == 1
    numbered = [torch.ones(image_size_to_num_patches(size, PINPOINTS, 48) if alone else 1, 36, 1) for size in sizes]
    packed, _ = build("sdpa").model.pack_image_features(
        numbered, sizes, image_newline=torch.tensor([torch.nan]), vision_aspect_ratio="anyres_max_2"
    )
    return torch.cat(packed)[:, 0].isnan()


CASES = (
    # A grid too large is interpolated: a token then sees parts of its neighbours.
    Case("llava_onevision", build, processor, separators=newlines, video=video, halo=0.75),
)
