"""VideoLLaMA 3: grids of any shape; of a video, tokens that are left out."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Qwen2Config,
    VideoLlama3Config,
    VideoLlama3ForConditionalGeneration,
    VideoLlama3Processor,
)
from transformers.models.video_llama_3.image_processing_pil_video_llama_3 import VideoLlama3ImageProcessorPil

from .case import Case, randomised, text_shape, tokenizer, video_prompt, without_video


def build(attention: str):
    text = text_shape()
    del text["head_dim"]  # width / heads
    config = VideoLlama3Config(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": 4,
        },
        text_config=Qwen2Config(**text),
        image_token_id=3,
        video_token_id=4,
    )
    return randomised(VideoLlama3ForConditionalGeneration, config, attention)


def processor() -> Any:
    return without_video(VideoLlama3Processor)(
        VideoLlama3ImageProcessorPil(patch_size=4, merge_size=2, min_pixels=256, max_pixels=4096),
        tokenizer(("<image>", "<video>"), image_token="<image>", video_token="<video>"),
        SimpleNamespace(merge_size=2, model_input_names=[]),
    )


def video(frames: Tensor) -> dict[str, Tensor]:
    """Four frames of 6 x 6 tokens; of the third, every second token is left out."""
    split = frames.reshape(4, 3, 6, 2, 4, 6, 2, 4)  # frame, channel, (row, of merge, pixel), (column, ...)
    patches = split.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(4 * 144, 48)
    kept = torch.ones(4, 36, dtype=torch.bool)
    kept[2, ::2] = False
    return video_prompt(
        int(kept.sum()),
        4,
        pixel_values_videos=patches,
        video_grid_thw=torch.tensor([[4, 12, 12]]),
        video_merge_sizes=torch.tensor([2]),
        video_compression_mask=kept.flatten(),
    )


CASES = (Case("video_llama_3", build, processor, video=video),)
