"""Idefics 3 and SmolVLM: tiles with markers, then a global image."""

from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    LlamaConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMProcessor,
)
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from .case import Case, randomised, text_shape, tokenizer, vision_shape, without_video

SPECIALS = (
    "<image>",
    "<fake_token_around_image>",
    "<end_of_utterance>",
    "<global-img>",
    *(f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)),
)


def build(model_class, config_class):
    def of_attention(attention: str):
        config = config_class(
            vision_config=vision_shape(image_size=64),
            text_config=LlamaConfig(**text_shape(vocab_size=340)),
            image_token_id=3,
            scale_factor=2,
            pad_token_id=0,
        )
        return randomised(model_class, config, attention)

    return of_attention


def processor(processor_class, image_processor_class):
    def of_name():
        images = image_processor_class(size={"longest_edge": 192}, max_image_size={"longest_edge": 64})
        words = tokenizer(SPECIALS, image_token="<image>", vocabulary=340)
        arguments = {"image_seq_len": 16}
        if processor_class is SmolVLMProcessor:
            return without_video(processor_class)(images, words, None, **arguments)
        return processor_class(images, words, **arguments)

    return of_name


CASES = (
    Case(
        "idefics3",
        build(Idefics3ForConditionalGeneration, Idefics3Config),
        processor(Idefics3Processor, Idefics3ImageProcessorPil),
    ),
    Case(
        "smolvlm",
        build(SmolVLMForConditionalGeneration, SmolVLMConfig),
        processor(SmolVLMProcessor, SmolVLMImageProcessorPil),
    ),
)
