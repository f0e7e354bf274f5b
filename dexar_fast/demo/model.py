"""The embedded model's architecture, and how it is written as a folder that plain transformers loads."""

import torch
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from .packing import Packed
from .scenes import SIDE
from .tokenizer import CHAT_TEMPLATE

PATCH = 8
"""Width of an image patch in pixels."""
GRID = SIDE // PATCH
"""Image tokens along one side; the model sees GRID * GRID of them."""


def build_model(
    tokenizer: PreTrainedTokenizerFast, *, width: int = 128, vision_layers: int = 3, text_layers: int = 4
) -> LlavaForConditionalGeneration:
    """A LLaVA with random float32 weights. The embedded model has the default sizes; smaller is for tests."""
    vision = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=vision_layers,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=width,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=text_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=GRID * GRID,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",  # drops the class token
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
        max_new_tokens=128,
    )
    return model


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """LLaVA's processor. An image of another size is scaled so that its shorter edge fits, then cut."""
    images = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # the class token
        image_token="<image>",
        chat_template=CHAT_TEMPLATE,
    )


def image_features(model: LlavaForConditionalGeneration, images: torch.Tensor) -> torch.Tensor:
    """What the projector sees: uint8 (B, 3, side, side) to (B, patches, width)."""
    processor = CLIPImageProcessorPil()
    mean, deviation = (torch.tensor(v, device=images.device)[:, None, None]
                       for v in (processor.image_mean, processor.image_std))  # fmt: skip
    pixels = (images.to(torch.float32) / 255.0 - mean) / deviation
    hidden = model.model.vision_tower(pixel_values=pixels, output_hidden_states=True).hidden_states
    features: torch.Tensor = hidden[model.config.vision_feature_layer][:, 1:]
    return features


def last_hidden(model: LlavaForConditionalGeneration, embeds: torch.Tensor, packed: Packed) -> torch.Tensor:
    """Embeddings (B, L, width) of packed text to the decoder's last hidden states (B, L, width)."""
    last: torch.Tensor = model.model.language_model(
        inputs_embeds=embeds, attention_mask=packed.visible, position_ids=packed.positions, use_cache=False
    ).last_hidden_state
    return last
