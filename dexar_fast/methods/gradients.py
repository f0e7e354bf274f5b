"""Methods on the gradient of each token's logit through the whole model: one backward pass per answer token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..engine.answer_pass import normed_states
from ..engine.teacher_forcing import with_answer
from ..errors import UnsupportedModelError
from ..models.state import hooked
from .subject import Subject

PROJECTOR = "multi_modal_projector"
"""Where families of transformers have the module between vision tower and decoder, below the base model."""


def gradient_input(subject: Subject) -> Tensor:
    """Gradient x input at the image embeddings: ``relu(< x_j, d s / d x_j >)``, x_j what the decoder reads at key j.

    Raises:
        UnsupportedModelError: the decoder is not given the image as embeddings.
    """
    subject.need_sequence("gradient-input")
    embeddings, gradients = _gradients(subject, subject.explainer.decoder.text_model)
    keys = subject.request.image_keys
    if not bool(embeddings[0, keys].any()):
        raise UnsupportedModelError(
            f"method: gradient-input needs the image among the decoder's input embeddings; family "
            f"{subject.explainer.family.name!r} adds it to later layers. Use a dexar method or attention."
        )
    maps = torch.stack([(g[0, keys] * embeddings[0, keys]).sum(dim=-1).clamp(min=0) for g in gradients])  # [T, N]
    return subject.request.layout.to_cells(maps)


def grad_cam(subject: Subject) -> Tensor:
    """Grad-CAM on the vision tower's last layer: ``relu(sum_c alpha_c F_c)``, ``alpha_c = mean_j d s / d F_jc``.

    F ``(N, c)`` are the features that the tower hands to the projector.

    Raises:
        UnsupportedModelError: no projector, or features that do not stand one for one behind the image tokens.
    """
    subject.need_sequence("grad-cam")
    base = subject.explainer.decoder.base
    try:
        projector = base.get_submodule(PROJECTOR)
    except AttributeError as error:
        raise UnsupportedModelError(
            f"method: grad-cam needs a module {PROJECTOR} behind the vision tower; {type(base).__name__} has none"
        ) from error
    features, gradients = _gradients(subject, projector)
    n_keys = len(subject.request.image_keys)
    if features.shape[:-1].numel() != n_keys:
        raise UnsupportedModelError(
            f"method: grad-cam needs one feature per image token; got {tuple(features.shape)} for {n_keys} tokens"
        )
    flat = features.reshape(n_keys, -1)  # [N, c]
    maps = torch.stack([(flat @ g.reshape(n_keys, -1).mean(dim=0)).clamp(min=0) for g in gradients])  # [T, N]
    return subject.request.layout.to_cells(maps)


def _gradients(subject: Subject, module: nn.Module) -> tuple[Tensor, list[Tensor]]:
    """The input of a module in a pass over prompt and answer, and the gradient of every answer token's logit to it."""
    decoder, request = subject.explainer.decoder, subject.request
    leaves: list[Tensor] = []

    def make_leaf(_: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        given = args[0] if args else kwargs.get("inputs_embeds")
        if given is None or not given.is_floating_point():
            raise UnsupportedModelError(
                f"method: needs embeddings as the input of {type(module).__name__}; family "
                f"{subject.explainer.family.name!r} gives it ids. Use a dexar method or attention."
            )
        leaves.append(given.detach().requires_grad_())
        torch.set_grad_enabled(True)  # from here on; no_grad ends below
        return ((leaves[0], *args[1:]), kwargs) if args else (args, {**kwargs, "inputs_embeds": leaves[0]})

    with torch.no_grad(), hooked(module.register_forward_pre_hook, make_leaf, with_kwargs=True):
        inputs = with_answer(request.inputs, request.answer_ids)
        hidden = normed_states(decoder, lambda: decoder.base(**inputs, use_cache=False))
        scores = (hidden[0, request.row_positions] * decoder.output_rows(request.answer_ids)).sum(dim=-1).unbind()
    (leaf,) = leaves
    gradients = [torch.autograd.grad(score, leaf, retain_graph=True)[0].float() for score in scores]
    return leaf.detach().float(), gradients
