"""FastVLM: a convolutional tower, as its own (which needs timm) has one."""

from transformers import ConvNextConfig, FastVlmConfig, FastVlmForConditionalGeneration, LlavaProcessor, Qwen2Config
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from .case import Case, randomised, text_shape, tokenizer


def build(attention: str):
    text = text_shape()
    del text["head_dim"]
    config = FastVlmConfig(
        vision_config=ConvNextConfig(hidden_sizes=[8, 32], depths=[1, 1], num_stages=2, patch_size=4, hidden_size=32),
        text_config=Qwen2Config(**text),
        image_token_index=3,
    )
    return randomised(FastVlmForConditionalGeneration, config, attention, rest="eager")


def processor() -> LlavaProcessor:
    images = CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48})
    words = tokenizer(image_token="<image>")
    return LlavaProcessor(
        images, words, patch_size=8, vision_feature_select_strategy="full", num_additional_image_tokens=0
    )


CASES = (Case("fast_vlm", build, processor, global_vision=r"vision_tower.*dwconv\.(weight|bias)$"),)
