"""Llama 4: tiles, experts, layers that attend within chunks and one that sees everything."""

from typing import Any

from transformers import Llama4Config, Llama4ForConditionalGeneration, Llama4Processor

from .case import Case, randomised, text_shape, tokenizer
from .torchvision_free import torchvision_free

SPECIALS = (
    "<|patch|>",
    "<|image|>",
    "<|image_start|>",
    "<|image_end|>",
    "<|tile_x_separator|>",
    "<|tile_y_separator|>",
)


def build(attention: str):
    config = Llama4Config(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 48,
            "patch_size": 8,
            "vision_output_dim": 64,
            "projector_input_dim": 64,
            "projector_output_dim": 64,
            "pixel_shuffle_ratio": 0.5,
        },
        text_config=text_shape(
            num_hidden_layers=4,
            intermediate_size_mlp=48,
            num_local_experts=2,
            num_experts_per_tok=1,
            interleave_moe_layer_step=2,
            attention_chunk_size=8,  # prompts have more, and an answer runs into the next chunk
            attn_temperature_tuning=True,
            floor_scale=8,
            attn_scale=0.1,
        ),
        image_token_index=3,
    )
    model = randomised(Llama4ForConditionalGeneration, config, attention)
    rotary = model.vision_model.rotary_embedding
    rotary.freqs_ci = rotary._buffers.pop("freqs_ci")  # complex, which `to(torch.float64)` would make real
    return model


def processor() -> Any:
    image_processor = torchvision_free("transformers.models.llama4.image_processing_llama4", "Llama4ImageProcessor")
    images = image_processor(size={"height": 48, "width": 48}, max_patches=6)
    return Llama4Processor(images, tokenizer(SPECIALS), patch_size=8, chat_template=None)


CASES = (
    Case(
        "llama4",
        build,
        processor,
        image="<|image|>",
        broken_in=("5.24.0",),  # it looks for image_outputs among what its text model returns
        global_vision=r"vision_model.*self_attn\.o_proj\.(weight|bias)$",
    ),
)
