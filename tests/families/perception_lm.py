"""Perception LM: a thumbnail and tiles, patches pooled 2 x 2. A ViT with a class token stands for its tower in timm."""

from torch import Tensor
from transformers import (
    LlamaConfig,
    PerceptionLMConfig,
    PerceptionLMForConditionalGeneration,
    PerceptionLMProcessor,
    ViTConfig,
)

from .case import Case, randomised, text_shape, tokenizer, video_prompt, vision_shape
from .qwen_vl import without_video
from .torchvision_free import torchvision_free

PerceptionLMImageProcessor = torchvision_free(
    "transformers.models.perception_lm.image_processing_perception_lm", "PerceptionLMImageProcessor"
)


def build(attention: str):
    config = PerceptionLMConfig(
        vision_config=ViTConfig(**vision_shape(image_size=48), model_args={"embed_dim": 32}),
        text_config=LlamaConfig(**text_shape()),
        vision_use_cls_token=True,
        projector_pooling_ratio=2,
        image_token_id=3,
        video_token_id=4,
    )
    return randomised(PerceptionLMForConditionalGeneration, config, attention)


def processor(max_num_tiles: int):
    def with_tiles() -> PerceptionLMProcessor:
        return without_video(PerceptionLMProcessor)(
            None,
            PerceptionLMImageProcessor(tile_size=48, max_num_tiles=max_num_tiles),
            tokenizer(("<image>", "<video>"), image_token="<image>", video_token="<video>"),
            patch_size=8,
            pooling_ratio=2,
        )

    return with_tiles


def video(frames: Tensor) -> dict[str, Tensor]:
    """Four frames of 3 x 3 tokens each, in one run."""
    return video_prompt(36, 4, pixel_values_videos=frames[None])


CASES = (
    Case("perception_lm", build, processor(2), video=video),
    # transformers makes no tensor of several images that have different numbers of tiles.
    Case("perception_lm, four tiles", build, processor(4), several_images=False),
)
