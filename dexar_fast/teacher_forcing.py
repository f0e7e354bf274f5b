"""Plain forward passes over prompt and answer together: what the model says of an answer that it is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .answer_pass import prefill, row_states

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .models import Decoder, Family

Inputs = dict[str, Tensor]


def with_answer(inputs: Mapping[str, Tensor], answer_ids: Tensor) -> Inputs:
    """Model inputs of prompt and answer together, from those of ``(n, P)`` prompts and ids ``(T,)``."""
    n, P = inputs["input_ids"].shape
    T = len(answer_ids)
    joined: Inputs = {}
    for name, value in inputs.items():
        joined[name] = value
        if value.shape[:2] == (n, P) and not value.is_floating_point():
            if name == "input_ids":
                tail = answer_ids.expand(n, -1)
            elif value.ndim > 2:
                tail = value[:, -1:].expand(n, T, *value.shape[2:])  # the answer sees what the last prompt token sees
            else:
                # The answer is attended to, and of no special type.
                tail = value.new_full((n, T), 1 if name == "attention_mask" else 0)
            joined[name] = torch.cat((value, tail), dim=1)
    return joined


def answer_log_probabilities(decoder: Decoder, inputs: Mapping[str, Tensor], answer_ids: Tensor) -> Tensor:
    """``(T,)`` float64 log-probability of every answer token after one prompt, of any family.

    Args:
        decoder: the model, in eval mode.
        inputs: of the prompt.
        answer_ids: ``(T,)``.
    """
    states = row_states(decoder, prefill(decoder, inputs), answer_ids)
    return token_log_probabilities(decoder.model, states, answer_ids)[0]


def in_one_sequence(family: Family) -> bool:
    """Whether prompt and answer may run as one sequence (`with_answer`) and mean what they mean in generation."""
    return family.keys == "sequence" and family.rows != "decoder" and not family.prompt_sees_itself


def token_log_probabilities(model: PreTrainedModel, states: Tensor, answer_ids: Tensor) -> Tensor:
    """``(n, T)`` float64 log-probabilities of the answer ids from the normed states ``(n, T, d)`` of their rows.

    A soft-cap that a model puts on the head's output is left out, as in the logit lens.
    """
    head: Any = model.get_output_embeddings()
    log_p = head(states).float().log_softmax(dim=-1)
    found: Tensor = log_p.gather(2, answer_ids.expand(len(states), -1)[..., None])[..., 0].double()
    return found
