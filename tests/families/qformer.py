"""BLIP-2 (OPT, T5) and InstructBLIP (Llama, as Vicuna, and T5): queries without a place."""

from typing import Any

from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    LlamaConfig,
    OPTConfig,
    T5Config,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from .case import VOCABULARY, Case, randomised, text_shape, tokenizer, vision_shape

QUERIES = 5
OPT = OPTConfig(
    hidden_size=32,
    word_embed_proj_dim=32,
    ffn_dim=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    max_position_embeddings=128,
    vocab_size=VOCABULARY,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
T5 = T5Config(
    d_model=32,
    d_kv=8,
    d_ff=48,
    num_layers=3,
    num_heads=4,
    feed_forward_proj="gated-gelu",
    tie_word_embeddings=False,
    vocab_size=VOCABULARY,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    decoder_start_token_id=0,
)


def build(model_class: Any, config_class: Any, text: Any):
    def of_attention(attention: str):
        config = config_class(
            vision_config=vision_shape(),
            qformer_config={
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "encoder_hidden_size": 32,
                "vocab_size": VOCABULARY,
            },
            text_config=text,
            num_query_tokens=QUERIES,
            image_token_index=3,
        )
        return randomised(model_class, config, attention)

    return of_attention


def images() -> BlipImageProcessorPil:
    return BlipImageProcessorPil(size={"height": 48, "width": 48})


SKIP = {"test_lit_region_lands_where_it_is": "queries have no place"}


def blip_2() -> Blip2Processor:
    return Blip2Processor(images(), tokenizer(), num_query_tokens=QUERIES)


def instructblip() -> InstructBlipProcessor:
    return InstructBlipProcessor(images(), tokenizer(), tokenizer(), num_query_tokens=QUERIES)


CASES = (
    Case("blip_2", build(Blip2ForConditionalGeneration, Blip2Config, OPT), blip_2, image="", skip=SKIP),
    Case(
        "instructblip",
        build(InstructBlipForConditionalGeneration, InstructBlipConfig, LlamaConfig(**text_shape())),
        instructblip,
        image="",
        skip=SKIP,
    ),
    Case("blip_2, T5", build(Blip2ForConditionalGeneration, Blip2Config, T5), blip_2, image="", skip=SKIP),
    Case(
        "instructblip, T5",
        build(InstructBlipForConditionalGeneration, InstructBlipConfig, T5),
        instructblip,
        image="",
        skip=SKIP,
    ),
)
