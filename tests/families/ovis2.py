"""Ovis 2: an image as a whole and its tiles, learned indicators between them."""

from transformers import Ovis2Config, Ovis2ForConditionalGeneration, Ovis2Processor, Ovis2VisionConfig, Qwen2Config
from transformers.models.ovis2.image_processing_pil_ovis2 import Ovis2ImageProcessorPil

from .case import Case, randomised, text_shape, tokenizer, vision_shape

# transformers replaces <image> by the others; ids from 3.
SPECIALS = ("<IMG_ATOM>", "<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>", "<image>")


def build(attention: str):
    text = text_shape()
    del text["head_dim"]
    config = Ovis2Config(
        vision_config=Ovis2VisionConfig(
            **vision_shape(image_size=48, vocab_size=40, hidden_stride=2, num_visual_indicator_tokens=5)
        ),
        text_config=Qwen2Config(**text),
        image_token_id=3,
        visual_indicator_token_ids=[4, 5, 6, 7, 8],
        vocab_size=300,
        hidden_size=32,
    )
    return randomised(Ovis2ForConditionalGeneration, config, attention)


def processor() -> Ovis2Processor:
    images = Ovis2ImageProcessorPil(size={"height": 48, "width": 48}, crop_to_patches=True, max_patches=6)
    return Ovis2Processor(images, tokenizer(SPECIALS), image_seq_length=9)


CASES = (Case("ovis2", build, processor),)
