"""LLaVA 1.5, BakLLaVA (Mistral with a sliding window) and VipLLaVA."""

from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    MistralConfig,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from .case import Case, randomised, text_shape, tokenizer, vision_shape


def llava(text):
    def build(attention: str):
        config = LlavaConfig(
            vision_config=CLIPVisionConfig(**vision_shape(projection_dim=32)),
            text_config=text,
            image_token_index=3,
            vision_feature_layer=-2,
            image_seq_length=36,
        )
        return randomised(LlavaForConditionalGeneration, config, attention)

    return build


def vipllava(attention: str):
    config = VipLlavaConfig(
        vision_config=CLIPVisionConfig(**vision_shape(projection_dim=32)),
        text_config=LlamaConfig(**text_shape()),
        image_token_index=3,
        vision_feature_layers=[-2, -1],
        image_seq_length=36,
    )
    return randomised(VipLlavaForConditionalGeneration, config, attention)


def processor() -> LlavaProcessor:
    images = CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48})
    return LlavaProcessor(
        images,
        tokenizer(image_token="<image>"),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


CASES = (
    Case("llava", llava(LlamaConfig(**text_shape())), processor),
    Case("bakllava", llava(MistralConfig(**text_shape(sliding_window=16))), processor),
    Case("vipllava", vipllava, processor),
)
