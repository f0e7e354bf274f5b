"""PaliGemma 1 (Gemma) and 2 (Gemma 2: sandwich norms, soft-caps, sliding layers; eager by default)."""

import copy

from transformers import (
    Gemma2Config,
    GemmaConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    SiglipVisionConfig,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from .case import Case, randomised, text_shape, tokenizer, vision_shape


def paligemma(text):
    def build(attention: str):
        config = PaliGemmaConfig(
            vision_config=SiglipVisionConfig(**vision_shape(vision_use_head=False)),
            text_config=copy.deepcopy(text),  # a model changes with its configuration, and tests change it
            image_token_index=3,
            projection_dim=32,
        )
        return randomised(PaliGemmaForConditionalGeneration, config, attention)

    return build


def processor() -> PaliGemmaProcessor:
    images = SiglipImageProcessorPil(size={"height": 48, "width": 48})
    images.image_seq_length = 36
    return PaliGemmaProcessor(images, tokenizer(image_token="<image>"))


GEMMA2 = Gemma2Config(
    **text_shape(),
    sliding_window=26,
    query_pre_attn_scalar=16,
    attn_logit_softcapping=2.0,
    final_logit_softcapping=None,  # older releases leave it out of PaliGemma's logits, newer ones do not
)

CASES = (
    Case("paligemma", paligemma(GemmaConfig(**text_shape())), processor, several_images=False),
    Case(
        "paligemma2",
        paligemma(GEMMA2),
        processor,
        several_images=False,
        attentions=("eager",),  # transformers has no other for Gemma 2's soft-cap on a CPU
    ),
)
