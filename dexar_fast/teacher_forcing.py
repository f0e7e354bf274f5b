"""Plain forward passes over prompt and answer together: what the model says of an answer that it is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .model_state import keeping

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .models import Decoder

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


def answer_states(decoder: Decoder, inputs: Mapping[str, Tensor], answer_ids: Tensor) -> Tensor:
    """Normed states ``(n, T, d)`` of the rows that predict the answer, for n prompts of one length.

    Args:
        decoder: the model, in eval mode.
        inputs: of the prompts.
        answer_ids: ``(T,)``.
    """
    T = len(answer_ids)
    with keeping(decoder.base, decoder.family.run_state):
        if decoder.family.rows == "decoder":
            ids = torch.cat((decoder.start_ids(answer_ids.device), answer_ids[:-1])).expand(
                len(inputs["input_ids"]), -1
            )
            states: Tensor = decoder.base(**inputs, decoder_input_ids=ids, use_cache=False)[0]
            return states[:, -T:]
        states = decoder.base(**with_answer(inputs, answer_ids), use_cache=False)[0]
        first = inputs["input_ids"].shape[1] - 1
        return states[:, first : first + T]


def token_log_probabilities(model: PreTrainedModel, states: Tensor, answer_ids: Tensor) -> Tensor:
    """``(n, T)`` float64 log-probabilities of the answer ids from the states ``(n, T, d)`` of `answer_states`."""
    head: Any = model.get_output_embeddings()
    log_p = head(states).float().log_softmax(dim=-1)
    found: Tensor = log_p.gather(2, answer_ids.expand(len(states), -1)[..., None])[..., 0].double()
    return found
