"""Molmo 2: a thumbnail and overlapping crops, patches pooled 2 x 2; images attend to themselves both ways."""

from typing import Any

import torch
from torch import Tensor

from .case import Case, randomised, text_shape, tokenizer, video_prompt, vision_shape
from .qwen_vl import without_video
from .torchvision_free import torchvision_free

MARKS = (
    "<im_patch>",
    "<im_col>",
    "<im_start>",
    "<low_res_im_start>",
    "<frame_start>",
    "<im_end>",
    "<frame_end>",
    "<im_low>",
    "<|image|>",
    "<|video|>",
)


def build(attention: str):
    from transformers import Molmo2Config, Molmo2ForConditionalGeneration

    shape = {"num_key_value_heads": 2, "head_dim": 16}
    config = Molmo2Config(
        vision_config=vision_shape(image_size=[40, 40], **shape),
        adapter_config={
            "vision_feature_layer": [-1, -2],
            "hidden_size": 32,
            "num_attention_heads": 2,
            **shape,
            "intermediate_size": 48,
            "text_hidden_size": 32,
        },
        text_config=text_shape(additional_vocab_size=4, vocab_size=296),
        image_patch_id=3,
        image_start_token_id=5,
        low_res_image_start_token_id=6,
        image_end_token_id=8,
        frame_start_token_id=7,
        frame_end_token_id=9,
    )
    return randomised(Molmo2ForConditionalGeneration, config, attention)


def processor() -> Any:
    from transformers import Molmo2Processor

    image_processor = torchvision_free("transformers.models.molmo2.image_processing_molmo2", "Molmo2ImageProcessor")
    images = image_processor(
        size={"height": 40, "width": 40}, patch_size=8, max_crops=4, overlap_margins=[1, 1], pooling_size=[2, 2]
    )
    words = tokenizer(MARKS, vocabulary=296, image_token="<|image|>", video_token="<|video|>")
    return without_video(Molmo2Processor)(images, None, words)


def video(frames: Tensor) -> dict[str, Tensor]:
    """Four frames of 5 x 5 patches, pooled 2 x 2 with nothing at the right and below: 3 x 3 tokens each."""
    patches = frames[..., :40, :40].reshape(4, 3, 5, 8, 5, 8).permute(0, 2, 4, 3, 5, 1).reshape(4, 25, 192)
    index = torch.nn.functional.pad(torch.arange(100).reshape(4, 5, 5), (0, 1, 0, 1), value=-1)
    pooling = index.reshape(4, 3, 2, 3, 2).transpose(2, 3).reshape(36, 4)
    grids = torch.tensor([[4, 3, 3]])
    inputs = video_prompt(9, 3, parts=4, pixel_values_videos=patches, video_token_pooling=pooling, video_grids=grids)
    return {**inputs, "mm_token_type_ids": (inputs["input_ids"] == 3).long()}


CASES = (
    Case(
        "molmo2",
        build,
        processor,
        image="<|image|>",
        video=video,
        global_vision=r"vision_tower.*attn\.o_proj\.(weight|bias)$",
        needs="Molmo2Config",
    ),
)
