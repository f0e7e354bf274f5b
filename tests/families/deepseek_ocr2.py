"""DeepSeek-OCR 2: learned queries over tiles and the whole page, a learned separator behind; experts."""

import torch
from torch import Tensor
from transformers import DeepseekOcr2Config, DeepseekOcr2ForConditionalGeneration, DeepseekOcr2Processor
from transformers.models.deepseek_ocr2.image_processing_pil_deepseek_ocr2 import DeepseekOcr2ImageProcessorPil

from .case import Case, randomised, text_shape, tokenizer


def build(attention: str):
    config = DeepseekOcr2Config(
        vision_config={
            "sam_config": {
                "hidden_size": 32,
                "output_channels": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 768,
                "patch_size": 16,
                "window_size": 14,
                "global_attn_indexes": [],
                "mlp_dim": 48,
                "downsample_channels": [24, 32],
            },
            "encoder_config": {
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
            },
        },
        text_config=text_shape(
            n_routed_experts=4,
            n_shared_experts=1,
            num_experts_per_tok=2,
            moe_intermediate_size=16,
            mlp_layer_types=["dense", "sparse", "sparse"],
            max_position_embeddings=2048,
        ),
        image_token_id=3,
    )
    return randomised(DeepseekOcr2ForConditionalGeneration, config, attention)


def processor() -> DeepseekOcr2Processor:
    return DeepseekOcr2Processor(
        DeepseekOcr2ImageProcessorPil(size={"height": 768, "width": 768}), tokenizer(image_token="<image>")
    )


def separators(inputs: dict[str, Tensor]) -> Tensor:
    """One behind the 144 queries of each page, none of which here is cut into tiles."""
    return (torch.arange(145) == 144).repeat(len(inputs["pixel_values"]))


CASES = (
    Case(
        "deepseek_ocr2",
        build,
        processor,
        separators=separators,
        skip={"test_lit_region_lands_where_it_is": "queries have no place"},
    ),
)
