"""Plain forward passes over prompt and answer together: what the model says of an answer that it is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from .answer_pass import row_states
from .prefill import prefill

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..models.decoder import Decoder
    from ..models.family import Family

Inputs = dict[str, Tensor]

_LOGIT_ROWS = 256  # of a large vocabulary, the logits of a long answer would take more memory than anything else


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
    return token_log_probabilities(decoder, states, answer_ids)[0]


def in_one_sequence(family: Family) -> bool:
    """Whether prompt and answer may run as one sequence (`with_answer`) and mean what they mean in generation."""
    return family.keys == "sequence" and family.rows in ("cached", "whole") and not family.prompt_sees_itself


def token_log_probabilities(decoder: Decoder, states: Tensor, answer_ids: Tensor) -> Tensor:
    """``(n, T)`` float64 log-probabilities of the answer ids from the normed states ``(n, T, d)`` of their rows."""
    found = []
    for of_rows, ids in zip(states.split(_LOGIT_ROWS, dim=1), answer_ids.split(_LOGIT_ROWS)):
        log_p = own_logits(decoder, of_rows).float().log_softmax(dim=-1)
        found.append(log_p.gather(2, ids.expand(len(states), -1)[..., None])[..., 0].double())
    return torch.cat(found, dim=1)


def own_logits(decoder: Decoder, states: Tensor) -> Tensor:
    """The model's logits ``(n, T, V)`` from normed states ``(n, T, d)``, with what it does behind its head.

    That is a soft-cap or a scale in some models, and which depends on the release of transformers. So the model's own
    ``forward`` runs, with the states for what its base would return.
    """
    base = decoder.family.base
    if not base:  # the head is part of what ran, and nothing comes behind it
        logits: Tensor = decoder.model.get_submodule(decoder.family.head)(states)
        return logits
    forward: Any = type(decoder.model).forward
    output: Tensor = forward(_WithoutBase(decoder.model, base, states), inputs_embeds=states, return_dict=True).logits
    return output


class _WithoutBase:
    """A model that looks like another, except that its base has the states ready and takes no notice of its input."""

    def __init__(self, model: PreTrainedModel, base: str, states: Tensor) -> None:
        self._model = model
        setattr(self, base, lambda *_, **__: _States(last_hidden_state=states))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class _States(BaseModelOutput):
    """Output of a base model: nothing but states."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
