"""Tiny LLaVA models with random weights, real in everything but size, and their processor."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    MistralConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

IMAGE_SIZE, PATCH = 24, 8  # a grid of 3 x 3
IMAGE_TOKEN_ID = 3
VOCABULARY = 300
CHAT_TEMPLATE = (
    "{% for m in messages %}USER: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def tiny_config(
    text: str = "llama",
    *,
    layers: int = 3,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 16,
    sliding_window: int | None = None,
    strategy: str = "default",
) -> LlavaConfig:
    shape = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 256,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=IMAGE_SIZE,
        patch_size=PATCH,
        projection_dim=32,
    )
    text_config = LlamaConfig(**shape) if text == "llama" else MistralConfig(**shape, sliding_window=sliding_window)
    return LlavaConfig(
        vision_config=vision,
        text_config=text_config,
        image_token_index=IMAGE_TOKEN_ID,
        vision_feature_layer=-2,
        vision_feature_select_strategy=strategy,
        image_seq_length=(IMAGE_SIZE // PATCH) ** 2 + (strategy == "full"),
    )


def tiny_llava(
    text: str = "llama", *, dtype: torch.dtype = torch.float64, attention: str = "sdpa", seed: int = 9, **shape
) -> LlavaForConditionalGeneration:
    """A random model with weights large enough that heads differ, and norms that are not uniform.

    ``attention`` is the decoder's; the vision tower has sdpa, which stays in float64.
    """
    torch.manual_seed(seed)
    config = tiny_config(text, **shape)
    implementations = {"": "sdpa", "vision_config": "sdpa", "text_config": attention}
    model = LlavaForConditionalGeneration._from_config(config, attn_implementation=implementations).eval()
    randomise(model)
    return model.to(dtype)


@torch.no_grad()
def randomise(model: nn.Module, *, biases: float | None = None) -> None:
    """Weights so large that heads differ, norms that are not uniform; biases (and gates) only if a size is given."""
    for name, weight in model.named_parameters():
        if "norm" in name and name.endswith("weight"):
            weight.uniform_(0.5, 1.5)
        elif weight.ndim > 1:
            weight.normal_(std=0.25)
        elif biases is not None:
            weight.normal_(std=biases)


class Float64RMSNorm(nn.Module):
    """transformers' norm without its detour over float32, for tests to the last digits."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self.epsilon = norm.weight, norm.variance_epsilon

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * (x.square().mean(-1, keepdim=True) + self.epsilon).rsqrt()


def with_float64_norms(model: LlavaForConditionalGeneration) -> LlavaForConditionalGeneration:
    decoder = model.model.language_model
    decoder.norm = Float64RMSNorm(decoder.norm)
    for layer in decoder.layers:
        layer.input_layernorm = Float64RMSNorm(layer.input_layernorm)
        layer.post_attention_layernorm = Float64RMSNorm(layer.post_attention_layernorm)
    return model


def tiny_inputs(
    model: LlavaForConditionalGeneration, before: int = 3, after: int = 4, seed: int = 1
) -> dict[str, Tensor]:
    """Random text ids before and after one random image."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(10, VOCABULARY, (before + after,), generator=generator)
    image = torch.full((model.config.image_seq_length,), IMAGE_TOKEN_ID)
    ids = torch.cat((text[:before], image, text[before:]))[None]
    pixels = torch.randn(1, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator, dtype=torch.float64)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels.to(model.dtype)}


def tiny_answer(length: int, seed: int = 2) -> Tensor:
    return torch.randint(10, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed))


def tiny_processor(chat_template: str | None = CHAT_TEMPLATE, strategy: str = "default") -> LlavaProcessor:
    """A real processor: byte-level BPE trained on a few sentences, CLIP's image processor in its Pillow form."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    sentences = ["a small red square on the left", "two blue stars and a green circle", "USER: what is it? ASSISTANT:"]
    tokenizer.train_from_iterator(
        sentences,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=["<pad>", "<s>", "</s>", "<image>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
    )
    images = CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    )
    return LlavaProcessor(
        images,
        fast,
        patch_size=PATCH,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=1,
        chat_template=chat_template,
    )


def picture(width: int = 40, height: int = 30) -> Image.Image:
    """A picture with something different everywhere."""
    x = torch.arange(width).expand(height, -1)
    y = torch.arange(height)[:, None].expand(-1, width)
    rgb = torch.stack((x * 6 % 256, y * 8 % 256, (x + y) * 5 % 256), dim=-1)
    return Image.fromarray(rgb.to(torch.uint8).numpy())
