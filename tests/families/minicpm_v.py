"""MiniCPM-V 4.6, 4.7 and MiniCPM-OCR: slices of any shape, on a text model most of whose layers are recurrent."""

from types import SimpleNamespace
from typing import Any

import transformers
from transformers import Qwen3_5TextConfig
from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import MiniCPMV4_6ImageProcessorPil

from .case import Case, randomised, text_shape, tokenizer, without_video
from .qwen_vl import RECURRENT, ROPE
from .torchvision_free import torchvision_free

SPECIALS: dict[str, Any] = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "image_start_token": "<image>",
    "image_end_token": "</image>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
}
MARKS = {"image_start_id": 5, "image_end_id": 6, "slice_start_id": 7, "slice_end_id": 8}


def build(name: str, **declared: Any):
    def of_attention(attention: str):
        config = getattr(transformers, f"{name}Config")(
            vision_config={
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 32,
                "patch_size": 4,
            },
            text_config=Qwen3_5TextConfig(**text_shape(rope_parameters=ROPE, **RECURRENT)),
            insert_layer_id=0,
            image_token_id=3,
            video_token_id=4,
            **declared,
        )
        return randomised(getattr(transformers, f"{name}ForConditionalGeneration"), config, attention)

    return of_attention


def processor(name: str):
    def of_name() -> Any:
        settings = {"max_slice_nums": 4, "scale_resolution": 32, "patch_size": 4}
        if name == "MiniCPMOcr":
            module = "transformers.models.minicpm_ocr.image_processing_minicpm_ocr"
            images = torchvision_free(module, "MiniCPMOcrImageProcessor")(**settings)
        else:
            images = MiniCPMV4_6ImageProcessorPil(**settings)
        return without_video(getattr(transformers, f"{name}Processor"))(
            images,
            SimpleNamespace(slice_mode=True, downsample_mode="16x", model_input_names=[]),
            tokenizer(tuple(SPECIALS.values()), **SPECIALS),
        )

    return of_name


def newline() -> int:
    return int(tokenizer(tuple(SPECIALS.values())).convert_tokens_to_ids("\u010a"))  # as byte-level BPE writes it


CASES = tuple(
    Case(
        case,
        build(name, **declared),
        processor(name),
        image="<|image_pad|>",
        global_vision=r"vision_tower.*(attn|attention)\.(out_proj|o_proj|proj)\.(weight|bias)$",
        paths=("replay",),
        needs=f"{name}Config",
        broken_in=("5.17.0",),  # views of several shapes are not told apart
    )
    for case, name, declared in (
        ("minicpmv4_6", "MiniCPMV4_6", {}),
        ("minicpmv4_7", "MiniCPMV4_7", {**MARKS, "newline_id": newline()}),
        ("minicpm_ocr", "MiniCPMOcr", {}),
    )
)
