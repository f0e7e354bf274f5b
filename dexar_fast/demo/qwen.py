"""A small Qwen2.5-VL: images of several sizes, patches merged two by two, positions with three axes, biases.

Tower and decoder start from the embedded model's: a CLIP tower becomes a Qwen2.5-VL tower, as nearly as the two can be
the same. What merges patches two by two is new, and learns to tell the decoder what the tower sees.
"""

from typing import Any

import torch
from torch.nn import functional
from transformers import (
    GenerationConfig,
    PaddleOCRVLProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import get_vision_position_ids, rotate_half
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from .architectures import Architecture
from .labels import ASPECTS
from .language import PLAIN
from .packing import Encoder, Packed
from .patch_code import SIGMOID, centred, embedded_model, linear_embedding, patch_code, start_decoder
from .scenes import SIZES, draw_sized_scene
from .tokenizer import build_tokenizer, chat_template

PATCH, MERGE = 8, 2
CELL = PATCH * MERGE
"""Width in pixels of what an image token shows."""
IMAGE, START, END = "<|image_pad|>", "<|vision_start|>", "<|vision_end|>"
VIDEO = "<|video_pad|>"


def tokenizer() -> PreTrainedTokenizerFast:
    names = {"vision_bos_token": START, "vision_eos_token": END, "video_token": VIDEO}
    return build_tokenizer(image=IMAGE, others=(START, END, VIDEO), **names)


def build_model(
    words: PreTrainedTokenizerFast,
    *,
    width: int = 128,
    vision_width: int = 128,
    vision_layers: int = 3,
    text_layers: int = 4,
) -> Qwen2_5_VLForConditionalGeneration:
    """Random float32 weights. The first layer of the tower attends in windows."""
    ids = {"eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": vision_layers,
            "hidden_size": vision_width,
            "intermediate_size": 4 * vision_width,
            "num_heads": 4,
            "out_hidden_size": width,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "window_size": 4 * CELL,
            "fullatt_block_indexes": list(range(1, vision_layers)),
        },
        text_config={
            "vocab_size": len(words),
            "hidden_size": width,
            "intermediate_size": 3 * width,
            "num_hidden_layers": text_layers,
            "num_attention_heads": width // 32,
            "num_key_value_heads": width // 64,
            "max_position_embeddings": 1024,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
            "bos_token_id": None,
            **ids,
        },
        image_token_id=words.convert_tokens_to_ids(IMAGE),
        video_token_id=words.convert_tokens_to_ids(VIDEO),
        vision_start_token_id=words.convert_tokens_to_ids(START),
        vision_end_token_id=words.convert_tokens_to_ids(END),
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(bos_token_id=None, do_sample=False, max_new_tokens=128, **ids)
    return model


def build_processor(words: PreTrainedTokenizerFast) -> PaddleOCRVLProcessor:
    """Qwen2-VL's image processor in PaddleOCR-VL's processor.

    That one does with images what Qwen2.5-VL's does, and unlike it needs no torchvision for videos. Larger images are
    scaled down to what the model was trained on, in their own shape.
    """
    pixels = [width * height for width, height in SIZES]
    images = Qwen2VLImageProcessorPil(
        patch_size=PATCH, merge_size=MERGE, min_pixels=min(pixels), max_pixels=max(pixels)
    )
    return PaddleOCRVLProcessor(images, words, chat_template=chat_template(START + IMAGE + END))


@torch.no_grad()
def start(model: Qwen2_5_VLForConditionalGeneration, words: PreTrainedTokenizerFast) -> None:
    """Give the model the embedded model's weights, as nearly as its parts can do the same."""
    start_decoder(model, words)
    source: Any = embedded_model().model.vision_tower
    visual: Any = model.model.visual
    kernel, gain, constant = linear_embedding(source)
    frame = (centred(kernel) * gain[:, None, None, None] / 2)[:, :, None]  # two equal frames
    visual.patch_embed.proj.weight.copy_(frame.expand(-1, -1, 2, -1, -1))
    for block, layer in zip(visual.blocks, source.encoder.layers, strict=True):
        first, second, attention, mlp = layer.layer_norm1, layer.layer_norm2, layer.self_attn, layer.mlp
        block.norm1.weight.copy_(first.weight)
        block.norm2.weight.copy_(second.weight)
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        block.attn.qkv.weight.copy_(torch.cat([part.weight for part in parts]))
        # These norms have no bias: it goes through what reads them.
        block.attn.qkv.bias.copy_(torch.cat([part.bias + part.weight @ first.bias for part in parts]))
        block.attn.proj.weight.copy_(centred(attention.out_proj.weight))
        block.attn.proj.bias.copy_(centred(attention.out_proj.bias) + constant)
        constant = torch.zeros_like(constant)
        # quick_gelu(x) = silu(SIGMOID x) / SIGMOID, with a gate that is always open
        block.mlp.gate_proj.weight.copy_(SIGMOID * mlp.fc1.weight)
        block.mlp.gate_proj.bias.copy_(SIGMOID * (mlp.fc1.bias + mlp.fc1.weight @ second.bias))
        block.mlp.up_proj.weight.zero_()
        block.mlp.up_proj.bias.fill_(1 / SIGMOID)
        block.mlp.down_proj.weight.copy_(centred(mlp.fc2.weight))
        block.mlp.down_proj.bias.copy_(centred(mlp.fc2.bias))


def patches_of(images: torch.Tensor) -> torch.Tensor:
    """uint8 (B, 3, height, width) as the processor would give them: (B * patches, 3 * 2 * PATCH * PATCH).

    The patches of an image in the order in which MERGE * MERGE of them are merged; two equal frames each.
    """
    processor = Qwen2VLImageProcessorPil()
    mean, deviation = (torch.tensor(v, device=images.device)[:, None, None]
                       for v in (processor.image_mean, processor.image_std))  # fmt: skip
    pixels = (images.float() / 255.0 - mean) / deviation
    batch, _, height, width = images.shape
    rows, columns = height // CELL, width // CELL
    split = pixels.reshape(batch, 3, rows, MERGE, PATCH, columns, MERGE, PATCH)
    ordered = split.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, 2, -1, -1)
    return ordered.reshape(batch * rows * columns * MERGE * MERGE, 3 * 2 * PATCH * PATCH)


def image_embeds(model: Qwen2_5_VLForConditionalGeneration, images: torch.Tensor) -> torch.Tensor:
    """What `model.model.visual` gives, for all images at once: itself it goes from window to window."""
    visual, config = model.model.visual, model.config.vision_config
    batch, _, height, width = images.shape
    grid = torch.tensor([[1, height // PATCH, width // PATCH]], device=images.device)
    places = get_vision_position_ids(grid, MERGE)  # (patches, 2): row and column, in the patches' order
    hidden = functional.linear(patches_of(images), visual.patch_embed.proj.weight.flatten(1))
    hidden = hidden.reshape(batch, len(places), -1)
    window = places.reshape(-1, 2) * PATCH // config.window_size
    near = (window[:, None] == window[None]).all(-1)  # (patches, patches)
    cos, sin = visual.rotary_pos_emb(hidden[0], places)
    for number, block in enumerate(visual.blocks):
        mask = None if number in config.fullatt_block_indexes else near
        hidden = hidden + _attend(block.attn, block.norm1(hidden), cos, sin, mask)
        hidden = hidden + block.mlp(block.norm2(hidden))
    merged: torch.Tensor = visual.merger(hidden)
    return merged.reshape(batch, -1, merged.shape[-1])


def _attend(
    attention: Any, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """(B, patches, width) by a tower layer's attention, in float32."""
    batch, patches, width = hidden.shape
    split = attention.qkv(hidden).float().reshape(batch, patches, 3, attention.num_heads, -1)
    query, key, value = split.permute(2, 0, 3, 1, 4)  # each (B, heads, patches, width of a head)
    query, key = (x * cos + rotate_half(x) * sin for x in (query, key))
    with torch.autocast(hidden.device.type, enabled=False):
        out = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    projected: torch.Tensor = attention.proj(out.transpose(1, 2).reshape(batch, patches, width))
    return projected


def encoder(words: PreTrainedTokenizerFast, grid: tuple[int, int]) -> Encoder:
    return Encoder(words, grid[0] * grid[1], image=IMAGE, before=("USER:", START), after=(END,), grid=grid)


def hidden(model: Qwen2_5_VLForConditionalGeneration, embeds: torch.Tensor, packed: Packed) -> torch.Tensor:
    last: torch.Tensor = model.model.language_model(
        inputs_embeds=embeds,
        attention_mask={"full_attention": packed.visible},
        position_ids=packed.positions,
        use_cache=False,
    ).last_hidden_state
    return last


QWEN = Architecture(
    name="qwen",
    cell=CELL,
    sizes=SIZES,
    draw=draw_sized_scene,
    language=PLAIN,
    aspects=tuple(ASPECTS),
    tokenizer=tokenizer,
    model=build_model,
    processor=build_processor,
    encoder=encoder,
    image_embeds=image_embeds,
    hidden=hidden,
    vision=("model.visual.",),
    start=start,
    code=patch_code,
)
