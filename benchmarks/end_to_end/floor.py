"""What explaining takes at least: operations counted, at the rate of a large matrix product on the same device.

``2 P_layers`` for each position that runs forward (P + T - 1 of them, or the T rows alone where generation left its
cache), ``2 P_tail`` for the backward of each row's tail in every layer, and over the keys that a position sees
``4 H D`` for attention and, of answer rows, ``2 H D`` for dO V^T. Left out, so that the floor is rather too low: the
vision tower, norms and all memory traffic.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from dexar_fast.models.decoder import Decoder


def operations(decoder: Decoder, n_prompt: int, n_answer: int, *, cached: bool) -> int:
    """Floating-point operations of explaining an answer, after its generation if ``cached``.

    Args:
        decoder: of which every layer is explained.
        n_prompt, n_answer: P and T.
        cached: the prompt's keys and values are there.
    """
    n_layers = len(decoder.layers)
    in_layers = _weights(decoder.layers)
    in_attention = _weights(
        getattr(attention, name) for attention in decoder.attentions.values() for name in ("q_proj", "k_proj", "v_proj")
    )
    first_row = n_prompt - 1
    positions = range(first_row if cached else 0, first_row + n_answer)
    seen = sum(position + 1 for position in positions)
    seen_by_rows = sum(position + 1 for position in range(first_row, first_row + n_answer))
    config: Any = decoder.text_model.config
    width: int = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )  # H * D
    forward = 2 * in_layers * len(positions) + 4 * n_layers * width * seen
    explaining = 2 * (in_layers - in_attention) * n_answer + 2 * n_layers * width * seen_by_rows
    return forward + explaining


def _weights(modules: Iterable[nn.Module]) -> int:
    """Elements of all matrices."""
    linear = (part for module in modules for part in module.modules() if isinstance(part, nn.Linear))
    return sum(part.weight.numel() for part in linear)
