"""Mllama: cross-attention layers over tiles of one canvas; the prompt holds one token per image."""

from transformers import MllamaConfig, MllamaForConditionalGeneration, MllamaProcessor
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

from .case import Case, randomised, text_shape, tokenizer

RATIOS = [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]]


def build(attention: str):
    text = text_shape(num_hidden_layers=4, cross_attention_layers=[1, 3], vocab_size=300)
    del text["head_dim"]
    config = MllamaConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 2,
            "image_size": 48,
            "patch_size": 8,
            "intermediate_layers_indices": [0],
            "vision_output_dim": 64,
            "supported_aspect_ratios": RATIOS,
            "max_num_tiles": 4,
        },
        text_config=text,
        image_token_index=3,
    )
    return randomised(MllamaForConditionalGeneration, config, attention)


def processor() -> MllamaProcessor:
    return MllamaProcessor(
        MllamaImageProcessorPil(size={"height": 48, "width": 48}, max_image_tiles=4),
        tokenizer(("<|image|>", "<|python_tag|>"), image_token="<|image|>"),
    )


CASES = (Case("mllama", build, processor, image="<|image|>"),)
