"""An image encoder and any text decoder that attends across to it: TrOCR, Donut, ViT-GPT2.

There is no text to read beside the image: a prompt, where there is one (Donut's task token), is what the decoder's
sequence begins with.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import InputError
from ...layout.grid import Box
from ...layout.image_layout import LayoutBuilder
from ..decoder import Decoder
from ..family import Family, Prompt, begins_as_configured
from .llava import cropped_box

if TYPE_CHECKING:
    from PIL.Image import Image

_CLASS_TOKENS = {"vit": 1, "deit": 2, "beit": 1}  # deit has a distillation token too
_SHRINKING = ("donut-swin", "swin")  # each stage but the first halves rows and columns


def layout(prompt: Prompt, tokens: LayoutBuilder) -> None:
    """Class tokens, if any, then the grid of the encoder's last stage."""
    encoder = prompt.config.encoder
    height, width = prompt["pixel_values"].shape[-2:]
    patch = encoder.patch_size
    halvings = len(encoder.depths) - 1 if encoder.model_type in _SHRINKING else 0
    if not halvings and encoder.model_type not in _CLASS_TOKENS:
        known = ", ".join((*_CLASS_TOKENS, *_SHRINKING))
        raise InputError(f"model: expected an image encoder of type {known}; got {encoder.model_type!r}")
    rows, cols = (ceil(side // patch / 2**halvings) for side in (height, width))
    size = tokens.image((width, height))
    tokens.placeless(_CLASS_TOKENS.get(encoder.model_type, 0))
    donut = prompt.images_known and getattr(prompt.image_processor, "do_thumbnail", None) is not None
    box = thumbnail_box(prompt.image_processor, size) if donut else cropped_box(prompt, size, (width, height))
    tokens.grid(rows, cols, box)


def thumbnail_box(processor: Any, size: tuple[int, int]) -> Box:
    """Where Donut's canvas lies on an image of ``(width, height)`` pixels: made to fit, and padded on all sides.

    Raises:
        InputError: the processor would turn the image by a quarter, or leave the canvas away.
    """
    if not processor.do_pad:
        raise InputError(
            "image: expected a processor that pads images to its size; this one has do_pad=False, so the model sees "
            "images of many sizes, which its encoder pads by rules of its own. Set the image processor's do_pad to "
            "True, as Donut was trained."
        )
    (width, height), canvas = size, (processor.size["width"], processor.size["height"])
    if processor.do_align_long_axis and (canvas[0] - canvas[1]) * (width - height) < 0:
        raise InputError(
            f"image: the processor turns images of {width} x {height} pixels by a quarter, and maps would lie on the "
            "turned one. Turn the image before, or set the image processor's do_align_long_axis to False."
        )
    new_width, new_height = size
    if processor.do_resize:
        short = min(canvas)
        new_width = short if width <= height else int(short * width / height)
        new_height = short if height <= width else int(short * height / width)
    fit_width, fit_height = min(new_width, canvas[0]), min(new_height, canvas[1])
    if processor.do_thumbnail and (fit_width, fit_height) != (new_width, new_height):
        if new_height > new_width:
            fit_width = int(new_width * fit_height / new_height)
        elif new_width > new_height:
            fit_height = int(new_height * fit_width / new_width)
        new_width, new_height = fit_width, fit_height
    across, down = width / new_width, height / new_height
    left, top = (canvas[0] - new_width) // 2, (canvas[1] - new_height) // 2
    return -left * across, -top * down, (canvas[0] - left) * across, (canvas[1] - top) * down


def start_ids(decoder: Decoder, inputs: Mapping[str, Tensor]) -> Tensor:
    """As `generate` begins: with the start token, then the prompt. Donut's prompt is in place of the start token."""
    configured = begins_as_configured(decoder, inputs)
    if "decoder_input_ids" not in inputs:
        return configured
    given, config = inputs["decoder_input_ids"][0], decoder.model.config
    if "donut" in config.encoder.model_type or given[0] == configured[0]:
        return given
    return torch.cat((configured[:1], given))


def encode(
    processor: Any, images: list[Image], prompt: str, *, add_special_tokens: bool = False, **settings: Any
) -> dict[str, Tensor]:
    """Pixels, and the prompt without special tokens around it as `decoder_input_ids`; ``settings`` are of the image."""
    inputs = dict(processor.image_processor(images, return_tensors="pt", **settings))
    if prompt:
        ids = processor.tokenizer(prompt, add_special_tokens=add_special_tokens)["input_ids"]
        inputs["decoder_input_ids"] = torch.tensor([ids], device="cpu")
    return inputs


def _family(of_decoder: str, layers: str, **declared: Any) -> Family:
    return Family(
        name=f"vision-encoder-decoder/{of_decoder}",
        model_types=(f"vision-encoder-decoder/{of_decoder}",),
        layout=layout,
        inputs=("pixel_values", "decoder_input_ids"),
        base="",
        decoder=layers.rpartition(".")[0],
        layers=layers,
        keys="vision",
        rows="decoder",
        carried={"encoder_hidden_states": None},
        start_ids=start_ids,
        encode=encode,
        prompt_image=None,
        several_images=False,
        prompt_needed=False,
        **declared,
    )


TROCR = _family(
    "trocr",
    "decoder.model.decoder.layers",
    final_norm=None,
    head="decoder.output_projection",
    attention="encoder_attn",
    projection="out_proj",
    constant=("self_attn",),
    tap="projections",
    gradient_path="replay",
)
MBART = _family(
    "mbart",
    "decoder.model.decoder.layers",
    final_norm="decoder.model.decoder.layer_norm",
    head="decoder.lm_head",
    attention="encoder_attn",
    projection="out_proj",
    constant=("self_attn",),
)
GPT2 = _family(
    "gpt2",
    "decoder.transformer.h",
    final_norm="decoder.transformer.ln_f",
    head="decoder.lm_head",
    attention="crossattention",
    projection="c_proj",
    constant=("attn",),
)
