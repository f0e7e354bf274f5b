"""PaliGemma 1 and 2: a square of patches in front of the text; the prompt attends to all of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from ...errors import InputError
from ..decoder import Decoder
from ..family import Family, encoded, next_positions
from .llava import layout


def continue_arguments(decoder: Decoder, arguments: Mapping[str, Any], answer_ids: Tensor) -> dict[str, Any]:
    """Positions; and masks where the sliding window of Gemma 2 is shorter than the prompt.

    The prompt's last position, the first answer row, sees all of the prompt even then; the others see the window.
    """
    positions = next_positions(decoder, arguments, answer_ids)
    config: Any = decoder.text_model.config
    window, n_prompt = getattr(config, "sliding_window", None), arguments["inputs_embeds"].shape[1]
    if window is None or n_prompt <= window:
        return positions
    if decoder.attention_implementation not in ("eager", "sdpa"):
        raise InputError(
            f"prompt: {n_prompt} tokens are more than the sliding window of {window}, whose mask "
            f"{decoder.attention_implementation} attention does not take. Load the model with eager attention."
        )
    embeddings = arguments["inputs_embeds"]
    row = positions["position_ids"][0, :, None] - 1  # PaliGemma counts from 1
    key = torch.arange(int(row[-1]) + 1, device=embeddings.device)
    causal = key <= row
    sliding = causal & ((key > row - window) | (row == n_prompt - 1))
    least = torch.finfo(embeddings.dtype).min
    masks = {
        name: torch.zeros_like(seen, dtype=embeddings.dtype).masked_fill(~seen, least)[None, None]
        for name, seen in (("full_attention", causal), ("sliding_attention", sliding))
    }
    return {**positions, "attention_mask": masks}


def encode(processor: Any, images: list[Image], prompt: str, **settings: Any) -> dict[str, Tensor]:
    """With the places of the images, which the processor would put there itself, with a warning on every call."""
    token = processor.image_token
    text = prompt if token in prompt else token * len(images) + prompt
    return encoded(processor, images, text, **settings)


FAMILY = Family(
    name="paligemma",
    model_types=("paligemma",),
    layout=layout,
    inputs=("input_ids", "attention_mask", "token_type_ids", "pixel_values"),
    continue_arguments=continue_arguments,
    prompt_sees_itself=True,
    prompt_image=None,
    encode=encode,
)
