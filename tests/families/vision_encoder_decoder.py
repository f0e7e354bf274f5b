"""TrOCR (attention of its own), Donut (Swin encoder, MBart decoder, a prompt of its own) and ViT-GPT2."""

from typing import Any

from transformers import (
    DonutProcessor,
    DonutSwinConfig,
    GPT2Config,
    MBartConfig,
    TrOCRConfig,
    TrOCRProcessor,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)
from transformers.models.donut.image_processing_pil_donut import DonutImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from .case import VOCABULARY, Case, randomised, tokenizer, vision_shape

IDS = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
BART = {
    "d_model": 32,
    "decoder_layers": 3,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 128,
    "is_decoder": True,
    "add_cross_attention": True,
    **IDS,
}


def build(encoder: Any, decoder: Any):
    def of_attention(attention: str):
        config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder, decoder_start_token_id=2)
        model = randomised(VisionEncoderDecoderModel, config, attention)
        model.generation_config.decoder_start_token_id = 2
        return model

    return of_attention


def vit() -> ViTConfig:
    return ViTConfig(**vision_shape())


def trocr() -> TrOCRProcessor:
    return TrOCRProcessor(ViTImageProcessorPil(size={"height": 48, "width": 48}), tokenizer())


def donut() -> DonutProcessor:
    return DonutProcessor(DonutImageProcessorPil(size={"height": 64, "width": 48}), tokenizer(("<s_task>",)))


MIXING = r"^encoder\..*attention\.(output\.dense|o_proj)\.(weight|bias)$"
CASES = (
    Case(
        "trocr",
        build(vit(), TrOCRConfig(cross_attention_hidden_size=32, scale_embedding=True, **BART)),
        trocr,
        image="",
        prompt_needed=False,
        global_vision=MIXING,
        attentions=("eager",),
        paths=("replay",),
    ),
    Case(
        "donut",
        build(
            DonutSwinConfig(
                image_size=[64, 48], patch_size=4, depths=[1, 1], num_heads=[2, 2], embed_dim=16, window_size=4
            ),
            MBartConfig(scale_embedding=True, forced_eos_token_id=None, **BART),
        ),
        donut,
        image="",
        prompt_needed=False,
        global_vision=MIXING,
    ),
    Case(
        "vit_gpt2",
        build(vit(), GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=128, add_cross_attention=True, **IDS)),
        trocr,
        image="",
        prompt_needed=False,
        global_vision=MIXING,
    ),
)
