"""A small PaliGemma: the image and the prompt attend to each other both ways, the answer to everything before it.

Tower and decoder start from the embedded model's: a CLIP tower becomes a SigLIP tower, a Llama a Gemma, as nearly as
the two can be the same. Training does the rest.
"""

from typing import Any

import torch
from transformers import (
    GemmaConfig,
    GenerationConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from .architectures import Architecture
from .labels import ASPECTS
from .language import PLAIN
from .packing import Encoder, Packed
from .patch_code import SIGMOID, centred, embedded_model, linear_embedding, patch_code
from .scenes import SIDE, SQUARE, draw_scene
from .tokenizer import IMAGE, build_tokenizer

PATCH = 8
GRID = SIDE // PATCH


def tokenizer() -> PreTrainedTokenizerFast:
    """The embedded model's, with "<s>" before a prompt and PaliGemma's tokens for places, which nothing here uses."""
    words = build_tokenizer(others=("<s>",))
    words.add_special_tokens({"bos_token": "<s>"})
    words.chat_template = None
    build_processor(words)  # adds those tokens
    return words


def build_processor(words: PreTrainedTokenizerFast) -> PaliGemmaProcessor:
    """PaliGemma's processor. An image of another size is stretched to a square."""
    images = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    images.image_seq_length = GRID * GRID
    return PaliGemmaProcessor(images, words)


def build_model(
    words: PreTrainedTokenizerFast, *, width: int = 128, vision_layers: int = 3, text_layers: int = 4
) -> PaliGemmaForConditionalGeneration:
    """Random float32 weights."""
    ids = {"eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id, "bos_token_id": words.bos_token_id}
    config = PaliGemmaConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=vision_layers,
            num_attention_heads=4,
            image_size=SIDE,
            patch_size=PATCH,
            hidden_act="quick_gelu",
            vision_use_head=False,
        ),
        text_config=GemmaConfig(
            vocab_size=len(words),
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=text_layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=width // 4,
            max_position_embeddings=1024,
            tie_word_embeddings=False,
            **ids,
        ),
        image_token_index=words.convert_tokens_to_ids(IMAGE),
        vocab_size=len(words),
        projection_dim=width,
        hidden_size=width,
        tie_word_embeddings=False,
    )
    model = PaliGemmaForConditionalGeneration(config)
    model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=128, **ids)
    return model


@torch.no_grad()
def start(model: PaliGemmaForConditionalGeneration, words: PreTrainedTokenizerFast) -> None:
    """Give the model the embedded model's weights, as nearly as its parts can do the same."""
    source = embedded_model()
    _start_tower(model.model.vision_tower, source.model.vision_tower)
    decoder = model.model.language_model
    weights = source.model.language_model.state_dict()
    known = build_tokenizer().get_vocab()
    table = weights.pop("embed_tokens.weight")
    for name, weight in weights.items():
        if "norm" in name:
            weight -= 1.0  # Gemma's norms count from one
        if name.endswith("gate_proj.weight"):
            weight /= SIGMOID  # silu(x) is nearly SIGMOID * gelu(x / SIGMOID)
        if name.endswith("up_proj.weight"):
            weight *= SIGMOID
    decoder.load_state_dict(weights, strict=False)
    for token, index in words.get_vocab().items():
        row = known.get("USER:" if token == "<s>" else token)
        if row is not None:
            decoder.embed_tokens.weight[index] = table[row] / decoder.config.hidden_size**0.5  # it scales them
            model.lm_head.weight[index] = source.lm_head.weight[row]


@torch.no_grad()
def _start_tower(tower: Any, source: Any) -> None:
    """Class token and last norm have no counterpart; the images' mean and deviation go into the first convolution."""
    kernel, gain, _ = linear_embedding(source)
    own, theirs = SiglipImageProcessorPil(), CLIPImageProcessorPil()
    scale = torch.tensor(own.image_std) / torch.tensor(theirs.image_std)
    shift = (torch.tensor(own.image_mean) - torch.tensor(theirs.image_mean)) / torch.tensor(theirs.image_std)
    bias, place = (kernel * shift[:, None, None]).sum(dim=(1, 2, 3)), source.embeddings.position_embedding.weight[1:]
    embeddings = tower.embeddings
    embeddings.patch_embedding.weight.copy_(centred(kernel * scale[:, None, None]) * gain[:, None, None, None])
    embeddings.patch_embedding.bias.copy_(centred(bias) * gain + source.pre_layrnorm.bias)
    embeddings.position_embedding.weight.copy_(centred(place.T).T * gain)
    tower.encoder.load_state_dict(source.encoder.state_dict())


def encoder(words: PreTrainedTokenizerFast, grid: tuple[int, int]) -> Encoder:
    return Encoder(words, grid[0] * grid[1], before=(), after=("<s>",), ask=())


def image_embeds(model: PaliGemmaForConditionalGeneration, images: torch.Tensor) -> torch.Tensor:
    pixels = images.float() / 127.5 - 1.0  # the processor's mean and deviation are 0.5
    embeds: torch.Tensor = model.model.get_image_features(pixels).pooler_output
    return embeds


def hidden(model: PaliGemmaForConditionalGeneration, embeds: torch.Tensor, packed: Packed) -> torch.Tensor:
    """One prompt per image: everything up to the first row that answers is seen by all of that."""
    first = (packed.targets >= 0).int().argmax(dim=1)  # (B,)
    asked = torch.arange(packed.ids.shape[1], device=first.device) <= first[:, None]
    visible = packed.visible | (asked[:, None, :, None] & asked[:, None, None, :])
    last: torch.Tensor = model.model.language_model(
        inputs_embeds=embeds, attention_mask=visible, position_ids=packed.positions + 1, use_cache=False
    ).last_hidden_state
    return last


PALIGEMMA = Architecture(
    name="paligemma",
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
    start=start,
    code=patch_code,
    one_prompt=True,
)
