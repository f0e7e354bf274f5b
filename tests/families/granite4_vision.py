"""Granite 4 Vision: features added in front of layers 0 and 1, newlines as in LLaVA-NeXT, scaled logits."""

import torch
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    Granite4VisionConfig,
    Granite4VisionForConditionalGeneration,
    Granite4VisionProcessor,
    Granite4VisionTextConfig,
)
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from .case import Case, randomised, text_shape, tokenizer, vision_shape

PINPOINTS = [[48, 96], [96, 48], [96, 96], [48, 144], [144, 48]]


def build(attention: str):
    text = text_shape(embedding_multiplier=2.0, logits_scaling=4.0, residual_multiplier=0.7, attention_multiplier=0.2)
    del text["head_dim"]
    config = Granite4VisionConfig(
        vision_config=CLIPVisionConfig(**vision_shape(hidden_size=64, patch_size=4, projection_dim=32)),
        text_config=Granite4VisionTextConfig(**text),
        qformer_config={
            "model_type": "blip_2_qformer",
            "hidden_size": 64,
            "encoder_hidden_size": 64,
            "num_attention_heads": 1,
            "num_hidden_layers": 1,
            "intermediate_size": 48,
            "cross_attention_frequency": 1,
            "use_qformer_text_input": False,
        },
        image_token_index=3,
        image_grid_pinpoints=PINPOINTS,
        downsample_rate="1/2",
        deepstack_layer_map=[[-1, 0]],
        spatial_vision_layer=-1,
        spatial_target_layers=[1, 1, 1, 2],
    )
    return randomised(Granite4VisionForConditionalGeneration, config, attention)


def processor() -> Granite4VisionProcessor:
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}, image_grid_pinpoints=PINPOINTS
    )
    return Granite4VisionProcessor(
        images,
        tokenizer(image_token="<image>"),
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        downsample_rate="1/2",
    )


def newlines(inputs: dict[str, Tensor]) -> Tensor:
    """The model's own packing, asked with numbered features and a newline that is no number."""
    from transformers.models.granite4_vision.modeling_granite4_vision import image_size_to_num_patches

    model = build("sdpa").model
    counts = [image_size_to_num_patches(size, PINPOINTS, 48) for size in inputs["image_sizes"]]
    features = [torch.ones(count, 36, 1) for count in counts]
    packed = model.pack_image_features(features, inputs["image_sizes"], "default", torch.tensor([torch.nan]))
    if isinstance(packed, tuple):  # older releases return lengths too
        packed = packed[0]
    return torch.cat(packed)[:, 0].isnan()


CASES = (Case("granite4_vision", build, processor, separators=newlines, logits=lambda logits: logits / 4),)
