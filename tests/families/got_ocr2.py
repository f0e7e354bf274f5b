"""GOT-OCR 2: a SAM-like tower and two strided convolutions; one view, or tiles where the processor is told to."""

from transformers import GotOcr2Config, GotOcr2ForConditionalGeneration, GotOcr2Processor, Qwen2Config
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from .case import Case, asking, randomised, text_shape, tokenizer


def build(attention: str):
    text = text_shape()
    del text["head_dim"]
    config = GotOcr2Config(
        vision_config={
            "hidden_size": 32,
            "output_channels": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 4,
            "window_size": 4,
            "global_attn_indexes": [1],
            "mlp_dim": 48,
        },
        text_config=Qwen2Config(**text),
        image_token_index=3,
    )
    return randomised(GotOcr2ForConditionalGeneration, config, attention, rest="eager")


class Small(GotOcr2Processor):
    """transformers' processor counts on 256 tokens per view unless the call says otherwise."""

    def __call__(self, *args, **kwargs):
        return super().__call__(*args, **kwargs, num_image_tokens=16)


# It cuts tiles only when it is told to in the call.
Tiled = asking(Small, crop_to_patches=True, min_patches=1, max_patches=4)


def processor(processor_class):
    def build():
        images = GotOcr2ImageProcessorPil(size={"height": 64, "width": 64}, max_patches=4)
        return processor_class(images, tokenizer(("<imgpad>", "<img>", "</img>")))

    return build


CASES = tuple(
    Case(
        name,
        build,
        processor(processor_class),
        image="<img><imgpad></img>",
        global_vision=r"vision_tower.*attn\.proj\.(weight|bias)$",
        halo=1,
    )
    for name, processor_class in (("got_ocr2", Small), ("got_ocr2 tiles", Tiled))
)
