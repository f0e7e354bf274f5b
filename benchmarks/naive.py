"""DEX-AR from its equations: one token at a time, autograd through explicit attention probabilities, no cache.

The baseline of the benchmarks and the oracle of the tests. T forward passes over prompt and answer so far, every
attention matrix kept, one backward call per layer and token, as in the released code. Shares nothing with the package;
plain on purpose.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class NaiveResult:
    """T tokens, L layers, H heads, N image keys."""

    token_maps: Tensor  # (T, N)
    answer_map: Tensor  # (N,)
    token_weights: Tensor  # (T,)
    image_scores: Tensor  # (T, L, H)
    text_scores: Tensor  # (T, L, H)
    unfiltered_token_maps: Tensor  # (T, N)
    unfiltered_answer_map: Tensor  # (N,)


def explain(
    model: Any, inputs: dict[str, Tensor], answer: Tensor, layers: list[int], normalization: str, text_mask: Tensor
) -> NaiveResult:
    """All of Eq. 4-6 on ``layers``.

    Args:
        model: a LLaVA whose decoder has eager attention.
        inputs: `input_ids` ``(1, P)`` and `pixel_values`.
        answer: ``(T,)`` ids.
        layers: indices of the layers to sum.
        normalization: "paper" or "reference".
        text_mask: ``(P + T,)`` bool, which positions are text.
    """
    gradients = [
        token_gradients(model, inputs, answer[:t], int(answer[t]), layers) for t in range(len(answer))
    ]  # T of (L, H, keys so far)
    prompt = inputs["input_ids"][0]
    image = (prompt == model.config.image_token_id).nonzero().flatten()
    image_scores, text_scores, on_image = [], [], []
    for g in gradients:
        text = text_mask[: g.shape[-1]].nonzero().flatten()
        image_scores.append(g[..., image].relu().amax(-1))
        text_scores.append(g[..., text].relu().amax(-1) if len(text) else torch.zeros_like(image_scores[-1]))
        on_image.append(g[..., image].relu())
    s_img, s_text = torch.stack(image_scores), torch.stack(text_scores)
    g = torch.stack(on_image)  # (T, L, H, N)
    if normalization == "reference":
        g = minmax(g)
    w = (s_img - s_text).relu()
    delta = (s_img.flatten(1).amax(1) - s_text.flatten(1).amax(1)).relu()
    maps = torch.einsum("tlh,tlhn->tn", w, g)
    unfiltered = g.sum((1, 2))
    normed, normed_unfiltered = torch.stack([minmax(m) for m in maps]), torch.stack([minmax(m) for m in unfiltered])
    combine = (normed, normed_unfiltered) if normalization == "paper" else (maps, unfiltered)
    return NaiveResult(
        token_maps=normed,
        answer_map=minmax((delta[:, None] * combine[0]).sum(0)),
        token_weights=delta,
        image_scores=s_img,
        text_scores=s_text,
        unfiltered_token_maps=normed_unfiltered,
        unfiltered_answer_map=minmax(combine[1].sum(0)),
    )


def token_gradients(model: Any, inputs: dict[str, Tensor], so_far: Tensor, token: int, layers: list[int]) -> Tensor:
    """``G`` at the last position, ``(L, H, keys)``: from each layer's logit to its probabilities."""
    ids = torch.cat((inputs["input_ids"][0], so_far))[None]
    decoder = model.model.language_model
    residuals: dict[int, Tensor] = {}
    with ExitStack() as stack:
        probabilities = stack.enter_context(_keep_probabilities(decoder))
        for index, layer in enumerate(decoder.layers):
            handle = layer.register_forward_hook(lambda _m, _a, out, index=index: residuals.update({index: out}))
            stack.callback(handle.remove)
        model.model(input_ids=ids, pixel_values=inputs["pixel_values"], use_cache=False)
    rows = []
    for layer in layers:
        logit = decoder.norm(residuals[layer])[0, -1] @ model.lm_head.weight[token]
        (gradient,) = torch.autograd.grad(logit, probabilities[layer], retain_graph=True)
        row = gradient[0, :, -1]
        # A masked key has probability zero but a gradient; it is not visible.
        rows.append(row.masked_fill(probabilities[layer][0, :, -1] == 0, -math.inf).relu())
    return torch.stack(rows).detach()


@contextmanager
def _keep_probabilities(decoder: Any) -> Iterator[dict[int, Tensor]]:
    module: Any = sys.modules[type(decoder.layers[0].self_attn).__module__]
    original = module.eager_attention_forward
    kept: dict[int, Tensor] = {}

    def attention(
        self: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        logits = query @ key.transpose(2, 3) * scaling
        if attention_mask is not None:
            logits = logits + attention_mask
        kept[self.layer_idx] = logits.softmax(-1).requires_grad_()
        return (kept[self.layer_idx] @ value).transpose(1, 2), None

    module.eager_attention_forward = attention
    try:
        yield kept
    finally:
        module.eager_attention_forward = original


def minmax(x: Tensor) -> Tensor:
    span = x.max() - x.min()
    return (x - x.min()) / span if span > 0 else torch.zeros_like(x)
