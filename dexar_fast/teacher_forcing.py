"""Plain forward passes over prompt and answer together: what the model says of an answer that it is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .models import Decoder

Inputs = dict[str, Tensor]


def with_answer(inputs: Mapping[str, Tensor], answer_ids: Tensor) -> Inputs:
    """Model inputs of prompt and answer together, from those of ``(n, P)`` prompts and ids ``(T,)``."""
    n, P = inputs["input_ids"].shape
    joined: Inputs = {}
    for name, value in inputs.items():
        joined[name] = value
        if value.shape == (n, P) and not value.is_floating_point():
            if name == "input_ids":
                tail = answer_ids.expand(n, -1)
            else:
                # The answer is attended to, and of no special type.
                tail = value.new_full((n, len(answer_ids)), 1 if name == "attention_mask" else 0)
            joined[name] = torch.cat((value, tail), dim=1)
    return joined


def token_log_probabilities(model: PreTrainedModel, hidden: Tensor, answer_ids: Tensor) -> Tensor:
    """``(n, T)`` float64 log-probabilities of the answer ids from the last normed states ``(n, T, d)`` of its rows."""
    head: Any = model.get_output_embeddings()
    log_p = head(hidden).float().log_softmax(dim=-1)
    found: Tensor = log_p.gather(2, answer_ids.expand(len(hidden), -1)[..., None])[..., 0].double()
    return found


def answer_log_probabilities(decoder: Decoder, inputs: Mapping[str, Tensor], answer_ids: Tensor) -> Tensor:
    """``(T,)`` float64 log-probability of every answer token after one prompt; without gradients if the caller says so.

    Args:
        decoder: the model, in eval mode.
        inputs: of one prompt.
        answer_ids: ``(T,)``.
    """
    hidden = decoder.base(**with_answer(inputs, answer_ids), use_cache=False)[0]
    first = inputs["input_ids"].shape[1] - 1
    return token_log_probabilities(decoder.model, hidden[:, first : first + len(answer_ids)], answer_ids)[0]
