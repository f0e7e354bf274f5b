"""A small Gemma 3: an image attends to itself both ways, layers slide, queries and keys are normed, tables are tied."""

import torch
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    Gemma3TextConfig,
    GenerationConfig,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

from .architectures import Architecture
from .labels import ASPECTS
from .language import PLAIN
from .packing import Encoder, Packed
from .scenes import SIDE, SQUARE, draw_scene
from .tokenizer import build_tokenizer, chat_template

PATCH = 12
GRID = SIDE // PATCH
WINDOW = 64
"""Tokens that a sliding layer sees: behind a few words no longer the whole image."""
START, END = "<start_of_image>", "<end_of_image>"


def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(others=(START, END), boi_token=START, eoi_token=END)


def build_model(
    words: PreTrainedTokenizerFast, *, width: int = 96, vision_layers: int = 3, text_layers: int = 4
) -> Gemma3ForConditionalGeneration:
    """Random float32 weights. Layers slide and see everything by turns."""
    ids = {"eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    config = Gemma3Config(
        vision_config=SiglipVisionConfig(
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=vision_layers,
            num_attention_heads=4,
            image_size=SIDE,
            patch_size=PATCH,
            vision_use_head=False,
        ),
        text_config=Gemma3TextConfig(
            vocab_size=len(words),
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=text_layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            query_pre_attn_scalar=32,
            max_position_embeddings=1024,
            sliding_window=WINDOW,
            layer_types=["full_attention" if layer % 2 else "sliding_attention" for layer in range(text_layers)],
            bos_token_id=None,
            **ids,
        ),
        image_token_index=words.image_token_id,
        boi_token_index=words.convert_tokens_to_ids(START),
        eoi_token_index=words.convert_tokens_to_ids(END),
        mm_tokens_per_image=GRID * GRID,
        **ids,
    )
    model = Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=width**-0.5)
    model.generation_config = GenerationConfig(bos_token_id=None, do_sample=False, max_new_tokens=128, **ids)
    return model


def build_processor(words: PreTrainedTokenizerFast) -> Gemma3Processor:
    """Gemma 3's processor. An image of another size is stretched to a square."""
    return Gemma3Processor(
        Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE}),
        words,
        chat_template=chat_template(START),
        image_seq_length=GRID * GRID,
    )


def encoder(words: PreTrainedTokenizerFast, grid: tuple[int, int]) -> Encoder:
    return Encoder(words, grid[0] * grid[1], before=("USER:", START), after=(END,))


def image_embeds(model: Gemma3ForConditionalGeneration, images: torch.Tensor) -> torch.Tensor:
    pixels = images.float() / 127.5 - 1.0  # the processor's mean and deviation are 0.5
    embeds: torch.Tensor = model.model.get_image_features(pixels).pooler_output
    return embeds


def hidden(model: Gemma3ForConditionalGeneration, embeds: torch.Tensor, packed: Packed) -> torch.Tensor:
    of_image = packed.ids == model.config.image_token_id
    both_ways = of_image[:, None, :, None] & of_image[:, None, None, :]
    visible = packed.visible | both_ways
    behind = packed.positions[:, None, :, None] - packed.positions[:, None, None, :]
    last: torch.Tensor = model.model.language_model(
        inputs_embeds=embeds,
        attention_mask={"full_attention": visible, "sliding_attention": visible & (behind < WINDOW)},
        position_ids=packed.positions,
        use_cache=False,
    ).last_hidden_state
    return last


GEMMA = Architecture(
    name="gemma",
    cell=PATCH,
    sizes=(SQUARE,),
    draw=draw_scene,
    language=PLAIN,
    aspects=tuple(ASPECTS),
    tokenizer=tokenizer,
    model=build_model,
    processor=build_processor,
    encoder=encoder,
    image_embeds=image_embeds,
    hidden=hidden,
    vision=("model.vision_tower.", "model.multi_modal_projector."),
    loudness=("model.multi_modal_projector.mm_input_projection_weight",),
)
