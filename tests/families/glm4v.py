"""GLM-4V, 4.5V (experts), 4.6V and GLM-OCR: norms behind attention and MLP too; a video's frames are image tokens."""

from types import SimpleNamespace
from typing import Any

from torch import Tensor
from transformers import (
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    Glm4vMoeConfig,
    Glm4vMoeForConditionalGeneration,
    Glm4vProcessor,
    Glm46VConfig,
    Glm46VForConditionalGeneration,
    Glm46VProcessor,
    GlmOcrConfig,
    GlmOcrForConditionalGeneration,
)
from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil
from transformers.models.glm46v.image_processing_pil_glm46v import Glm46VImageProcessorPil

from .case import Case, randomised, text_shape, tokenizer, video_prompt, without_video
from .qwen_vl import frame_patches

SPECIALS = (
    "<|image|>",
    "<|video|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
)
TOKEN_IDS = {
    "image_token_id": 3,
    "video_token_id": 4,
    "image_start_token_id": 5,
    "image_end_token_id": 6,
    "video_start_token_id": 7,
    "video_end_token_id": 8,
}
VISION = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "out_hidden_size": 32,
    "patch_size": 4,
    "image_size": 24,
}
EXPERTS = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
}


def build(model_class, config_class, mrope: list[int], **text: Any):
    def of_attention(attention: str):
        rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": mrope, "partial_rotary_factor": 0.5}
        shape = text_shape(rope_parameters=rope, **text)
        if config_class is not GlmOcrConfig:
            del shape["head_dim"]  # width / heads
        config = config_class(vision_config=VISION, text_config=shape, **TOKEN_IDS)
        return randomised(model_class, config, attention)

    return of_attention


def processor(processor_class, image_processor_class):
    def of_name():
        return without_video(processor_class)(
            image_processor_class(
                patch_size=4, merge_size=2, size={"shortest_edge": 2 * 256, "longest_edge": 2 * 4096}
            ),
            tokenizer(SPECIALS, image_token="<|image|>", video_token="<|video|>"),
            SimpleNamespace(merge_size=2, model_input_names=[]),
        )

    return of_name


def video(frames: Tensor) -> dict[str, Tensor]:
    """Two merged pairs of frames, 6 x 6 tokens each, with text between them."""
    inputs = video_prompt(36, 3, parts=2, **frame_patches(frames))
    return {**inputs, "mm_token_type_ids": 2 * (inputs["input_ids"] == 3)}


GLM4V = processor(Glm4vProcessor, Glm4vImageProcessorPil)
GLM46V = processor(Glm46VProcessor, Glm46VImageProcessorPil)
IMAGE = "<|begin_of_image|><|image|><|end_of_image|>"
CASES = (
    Case("glm4v", build(Glm4vForConditionalGeneration, Glm4vConfig, [1, 1, 0]), GLM4V, image=IMAGE, video=video),
    Case(
        "glm4v_moe",
        build(Glm4vMoeForConditionalGeneration, Glm4vMoeConfig, [1, 1, 0], **EXPERTS),
        GLM4V,
        image=IMAGE,
        video=video,
    ),
    Case("glm46v", build(Glm46VForConditionalGeneration, Glm46VConfig, [1, 1, 0]), GLM46V, image=IMAGE, video=video),
    Case("glm_ocr", build(GlmOcrForConditionalGeneration, GlmOcrConfig, [2, 1, 1]), GLM46V, image=IMAGE, video=video),
)
