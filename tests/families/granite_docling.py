"""Granite Docling: tiles with markers and a thumbnail, DeepStack; coarse, and four times as fine."""

from typing import Any

from torch import Tensor

from .case import Case, randomised, text_shape, tokenizer
from .idefics3 import SPECIALS


def build(attention: str):
    from transformers import GraniteDoclingConfig, GraniteDoclingForConditionalGeneration

    config = GraniteDoclingConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 8,
            "out_hidden_size": 32,
            "scale_factor": 4,
            "deepstack_visual_indexes": [0, 1],
        },
        text_config=text_shape(
            vocab_size=340,
            embedding_multiplier=2.0,
            logits_scaling=4.0,
            residual_multiplier=0.5,
            attention_multiplier=0.25,
        ),
        image_token_id=3,
    )
    return randomised(GraniteDoclingForConditionalGeneration, config, attention)


def processor(fine_route: bool):
    def of_name() -> Any:
        from transformers import GraniteDoclingProcessor
        from transformers.models.granite_docling.image_processing_pil_granite_docling import (
            GraniteDoclingImageProcessorPil,
        )

        images = GraniteDoclingImageProcessorPil(size={"height": 64, "width": 64}, max_patches=4, fine_route=fine_route)
        words = tokenizer(SPECIALS, image_token="<image>", vocabulary=340)
        return GraniteDoclingProcessor(images, words, image_seq_len=4)

    return of_name


def logits(of_head: Tensor) -> Tensor:
    return of_head / 4


CASES = tuple(
    Case(name, build, processor(fine_route), logits=logits, needs="GraniteDoclingConfig")
    for name, fine_route in (("granite_docling", False), ("granite_docling, fine", True))
)
