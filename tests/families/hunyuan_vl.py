"""HunYuan-VL: grids with learned marks and newlines, positions on four axes."""

from typing import Any

import torch
from torch import Tensor
from transformers import HunYuanVLConfig, HunYuanVLForConditionalGeneration, HunYuanVLProcessor
from transformers.models.hunyuan_vl.image_processing_pil_hunyuan_vl import HunYuanVLImageProcessorPil

from .case import Case, randomised, text_shape, tokenizer

SPECIALS: dict[str, Any] = {
    "image_token": "<image>",
    "image_start_token": "<image_start>",
    "image_end_token": "<image_end>",
}
# The processor takes images between their marks alone.
CHAT_TEMPLATE = (
    "{% for m in messages %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image_start><image><image_end>{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)


def build(attention: str):
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2, 2]}
    config = HunYuanVLConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": 4,
            "max_image_size": 64,
            "out_hidden_size": 32,
            "text_hidden_size": 32,
        },
        text_config=text_shape(rope_parameters=rope),
        tie_word_embeddings=False,
        image_token_id=3,
    )
    return randomised(HunYuanVLForConditionalGeneration, config, attention)


def processor() -> HunYuanVLProcessor:
    images = HunYuanVLImageProcessorPil(patch_size=4, merge_size=2, size={"shortest_edge": 256, "longest_edge": 4096})
    words = tokenizer(tuple(SPECIALS.values()), **SPECIALS)
    return HunYuanVLProcessor(images, words, chat_template=CHAT_TEMPLATE)


def separators(inputs: dict[str, Tensor]) -> Tensor:
    """The first and the last token of each image, and the end of each row."""
    marks = []
    for _, rows, cols in inputs["image_grid_thw"].tolist():
        row = torch.arange(cols // 2 + 1) == cols // 2
        marks += [torch.tensor([True]), row.repeat(rows // 2), torch.tensor([True])]
    return torch.cat(marks)


CASES = (Case("hunyuan_vl", build, processor, image="<image_start><image><image_end>", separators=separators),)
