"""Idefics 2: queries without a place, over images padded to one size; also split into quarters."""

from transformers import Idefics2Config, Idefics2ForConditionalGeneration, Idefics2Processor, MistralConfig
from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

from .case import Case, randomised, text_shape, tokenizer, vision_shape

LATENTS = 4


def build(attention: str):
    config = Idefics2Config(
        vision_config=vision_shape(),
        perceiver_config={
            "hidden_size": 32,
            "resampler_n_latents": LATENTS,
            "resampler_depth": 1,
            "resampler_n_heads": 2,
            "resampler_head_dim": 16,
            "num_key_value_heads": 2,
        },
        text_config=MistralConfig(**text_shape(vocab_size=340)),
        image_token_id=3,
    )
    return randomised(Idefics2ForConditionalGeneration, config, attention)


def processor(splitting: bool):
    def of_name() -> Idefics2Processor:
        images = Idefics2ImageProcessorPil(size={"shortest_edge": 24, "longest_edge": 48}, do_image_splitting=splitting)
        words = tokenizer(
            ("<image>", "<fake_token_around_image>", "<end_of_utterance>"),
            vocabulary=340,
            image_token="<image>",
            image_boundary_token="<fake_token_around_image>",
        )
        return Idefics2Processor(images, words, image_seq_len=LATENTS)

    return of_name


SKIP = {"test_lit_region_lands_where_it_is": "queries have no place"}
CASES = (
    Case("idefics2", build, processor(False), skip=SKIP),
    Case("idefics2, split", build, processor(True), skip=SKIP),
)
