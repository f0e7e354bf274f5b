"""PaddleOCR-VL: M-RoPE, grids of any shape, patches merged 2 x 2."""

from transformers import PaddleOCRVLConfig, PaddleOCRVLForConditionalGeneration, PaddleOCRVLProcessor
from transformers.models.paddleocr_vl.image_processing_pil_paddleocr_vl import PaddleOCRVLImageProcessorPil

from .case import Case, randomised, text_shape, tokenizer

ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}


def build(attention: str):
    config = PaddleOCRVLConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 4,
            "spatial_merge_size": 2,
        },
        text_config=text_shape(rope_parameters=ROPE),
        image_token_id=3,
        video_token_id=4,
        vision_start_token_id=5,
        vision_end_token_id=6,
    )
    return randomised(PaddleOCRVLForConditionalGeneration, config, attention)


def processor() -> PaddleOCRVLProcessor:
    images = PaddleOCRVLImageProcessorPil(patch_size=4, merge_size=2, size={"shortest_edge": 256, "longest_edge": 4096})
    return PaddleOCRVLProcessor(images, tokenizer(image_token="<image>"))


CASES = (Case("paddleocr_vl", build, processor),)
