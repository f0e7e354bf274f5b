"""PaliGemma 1 and 2: a square of patches in front of the text; the prompt attends to all of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..errors import InputError
from .decoder import Decoder
from .family import Family, next_positions
from .llava import layout


def continue_arguments(decoder: Decoder, arguments: Mapping[str, Any], answer_ids: Tensor) -> dict[str, Any]:
    """Positions; and a word where a sliding window (Gemma 2) is shorter than the prompt.

    The prompt's last row then sees all of the prompt, and the answer's only the window.
    """
    window = getattr(decoder.text_model.config, "sliding_window", None)
    n_prompt = arguments["inputs_embeds"].shape[1]
    if window is not None and n_prompt > window:
        raise InputError(
            f"prompt: expected at most {window} tokens, the text model's sliding window; got {n_prompt}. "
            "Use a checkpoint for smaller images."
        )
    return next_positions(decoder, arguments, answer_ids)


FAMILY = Family(
    name="paligemma",
    model_types=("paligemma",),
    layout=layout,
    inputs=("input_ids", "attention_mask", "token_type_ids", "pixel_values"),
    continue_arguments=continue_arguments,
    prefix_lm=True,
    prompt_image=None,
)
