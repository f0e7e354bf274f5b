"""Phi-4-multimodal: the text model takes the pictures itself. The processor counts on 32 x 32 patches per tile."""

import torch
from torch import Tensor
from transformers import (
    Phi4MultimodalConfig,
    Phi4MultimodalFeatureExtractor,
    Phi4MultimodalForCausalLM,
    Phi4MultimodalProcessor,
)

from .case import Case, randomised, text_shape, tokenizer, vision_shape
from .torchvision_free import torchvision_free

Phi4MultimodalImageProcessor = torchvision_free(
    "transformers.models.phi4_multimodal.image_processing_phi4_multimodal", "Phi4MultimodalImageProcessor"
)


def build(attention: str):
    text = text_shape(max_position_embeddings=4096)
    del text["head_dim"]
    config = Phi4MultimodalConfig(
        **text,
        vision_config=vision_shape(image_size=64, patch_size=2, crop_size=64, image_token_id=3),
        audio_config={
            "hidden_size": 8,
            "intermediate_size": 8,
            "num_blocks": 1,
            "num_attention_heads": 2,
            "ext_pw_out_channel": 8,
            "depthwise_separable_out_channel": 8,
            "nemo_conv_channels": 8,
            "audio_token_id": 4,
        },
    )
    return randomised(Phi4MultimodalForCausalLM, config, attention)


def processor() -> Phi4MultimodalProcessor:
    return Phi4MultimodalProcessor(
        Phi4MultimodalImageProcessor(size={"height": 64, "width": 64}, patch_size=2, dynamic_hd=4),
        Phi4MultimodalFeatureExtractor(),
        tokenizer(("<|image|>", "<|audio|>"), image_token="<|image|>", audio_token="<|audio|>"),
    )


def newlines(inputs: dict[str, Tensor]) -> Tensor:
    """The model's own packing, asked with patches that are one and separators that are no number."""
    packing = build("sdpa").model.embed_tokens_extend.image_embed
    width = packing.image_dim_out
    packed: list[Tensor] = []
    packing.get_img_features = lambda pixels, attention_mask: torch.ones(len(pixels), 256, width)
    packing.img_projection_up.register_forward_pre_hook(lambda _m, args: packed.append(args[0][0, :, 0].clone()))
    with torch.no_grad():
        packing.sub_img_feature_extensor.fill_(torch.nan)
        packing.global_img_feature_extensor.fill_(torch.nan)
        ids, pictures = inputs["input_ids"], inputs["image_pixel_values"].float()
        packing(ids, torch.zeros(*ids.shape, 32), pictures, inputs["image_sizes"], inputs["image_attention_mask"])
    return torch.cat(packed).isnan()


CASES = (
    Case(
        "phi4_multimodal",
        build,
        processor,
        image="<|image|>",
        ends_in_image=False,
        separators=newlines,
        global_vision=r"img_processor.*attn\.out_proj\.(weight|bias)$",
    ),
)
