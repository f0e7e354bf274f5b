"""Kosmos-2: a norm between heads and output projection, latent queries that a mask marks."""

from inspect import signature

from transformers import Kosmos2Config, Kosmos2ForConditionalGeneration, Kosmos2Processor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.kosmos2.modeling_kosmos2 import KosmosTextAttention

from .case import Case, randomised, tokenizer, vision_shape

IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def build(attention: str):
    config = Kosmos2Config(
        text_config={
            "vocab_size": 400,
            "embed_dim": 32,
            "layers": 3,
            "ffn_dim": 48,
            "attention_heads": 4,
            "max_position_embeddings": 256,
            **IDS,
        },
        vision_config=vision_shape(),
        latent_query_num=64,
    )
    return randomised(Kosmos2ForConditionalGeneration, config, attention)


def processor() -> Kosmos2Processor:
    words = tokenizer(("<image>", "</image>", "<unk>"))
    words.unk_token = "<unk>"
    images = CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48})
    return Kosmos2Processor(images, words, num_patch_index_tokens=16)


SKIP = {"test_lit_region_lands_where_it_is": "queries have no place"}
if "is_causal" not in signature(KosmosTextAttention).parameters:
    SKIP["test_sdpa_and_eager_agree"] = "this release's sdpa hides image queries from each other, its eager does not"

CASES = (
    Case(
        "kosmos2",
        build,
        processor,
        image="",
        skip=SKIP,
    ),
)
