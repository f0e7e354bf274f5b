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


# What head scores and maps are made of; of the two in `token_signals`, "dexar-attention" takes one each.
SIGNALS = {
    "dexar": ("gradient", "gradient"),
    "dexar-scores": ("score_gradient", "score_gradient"),
    "dexar-contribution": ("contribution", "contribution"),
    "dexar-attention": ("score_gradient", "attention"),
}


def explain(
    model: Any,
    inputs: dict[str, Tensor],
    answer: Tensor,
    layers: list[int],
    normalization: str,
    text_mask: Tensor,
    method: str = "dexar",
    foils: list[int | None] | None = None,
    spans: list[tuple[int, int]] | None = None,
) -> NaiveResult:
    """All of Eq. 4-6 on ``layers``.

    Args:
        model: a LLaVA whose decoder has eager attention.
        inputs: `input_ids` ``(1, P)`` and `pixel_values`.
        answer: ``(T,)`` ids.
        layers: indices of the layers to sum.
        normalization: "paper" or "reference".
        text_mask: ``(P + T,)`` bool, which positions are text.
        method: a name of `SIGNALS`.
        foils: ids whose logits are taken off those of the tokens, None where none is.
        spans: token ranges, each explained as one, instead of the tokens; the T of the result is their number.
    """
    foils = foils or [None] * len(answer)
    of_scores, of_maps = SIGNALS[method]
    prompt = inputs["input_ids"][0]
    image = (prompt == model.config.image_token_id).nonzero().flatten()
    image_scores, text_scores, on_image = [], [], []
    for t in range(len(answer)) if spans is None else spans:
        if isinstance(t, int):
            signals = token_signals(model, inputs, answer[:t], int(answer[t]), layers, foils[t])
        else:
            signals = {"gradient": shared_gradient(model, inputs, answer, t, layers, foils)}
        g = signals[of_scores]  # (L, H, keys so far)
        text = text_mask[: g.shape[-1]].nonzero().flatten()
        image_scores.append(g[..., image].amax(-1))
        text_scores.append(g[..., text].amax(-1) if len(text) else torch.zeros_like(image_scores[-1]))
        on_image.append(signals[of_maps][..., image])
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


def token_signals(
    model: Any, inputs: dict[str, Tensor], so_far: Tensor, token: int, layers: list[int], foil: int | None = None
) -> dict[str, Tensor]:
    """relu of every signal at the last position, each ``(L, H, keys)``: from each layer's logit to its attention."""
    kept, residuals = _forward(model, inputs, so_far, None)
    rows: dict[str, list[Tensor]] = {name: [] for name in ("gradient", "score_gradient", "contribution", "attention")}
    for layer in layers:
        scores, probabilities, _ = kept[layer]
        logit = model.model.language_model.norm(residuals[layer])[0, -1] @ _seed(model, token, foil)
        of_probabilities, of_scores = torch.autograd.grad(logit, (probabilities, scores), retain_graph=True)
        P, G = probabilities[0, :, -1], of_probabilities[0, :, -1]
        # A masked key has probability zero but a gradient; it is not visible.
        rows["gradient"].append(G.masked_fill(P == 0, -math.inf).relu())
        rows["score_gradient"].append(of_scores[0, :, -1].relu())
        rows["contribution"].append((P * G).relu())
        rows["attention"].append(P)
    return {name: torch.stack(of_layers).detach() for name, of_layers in rows.items()}


def shared_gradient(
    model: Any,
    inputs: dict[str, Tensor],
    answer: Tensor,
    span: tuple[int, int],
    layers: list[int],
    foils: list[int | None],
) -> Tensor:
    """relu of the gradient of a span's mean logit with respect to one addition to the attention of all its rows.

    A vector of zeros, one for each key, is added to the probabilities of every row of the span: ``(L, H, keys)``.
    """
    start, stop = span
    first = inputs["input_ids"].shape[1] - 1  # the row of the first token
    rows = slice(first + start, first + stop)
    kept, residuals = _forward(model, inputs, answer[: stop - 1], rows)
    gradients = []
    for layer in layers:
        _, probabilities, addition = kept[layer]
        states = model.model.language_model.norm(residuals[layer])[0, rows]
        seeds = torch.stack([_seed(model, int(answer[t]), foils[t]) for t in range(start, stop)])
        (gradient,) = torch.autograd.grad((states * seeds).sum(-1).mean(), addition, retain_graph=True)
        unseen = (probabilities[0, :, rows] == 0).any(1)  # by one of the rows
        gradients.append(gradient.masked_fill(unseen, -math.inf).relu())
    return torch.stack(gradients).detach()


def _seed(model: Any, token: int, foil: int | None) -> Tensor:
    weight: Tensor = model.lm_head.weight
    return weight[token] if foil is None else weight[token] - weight[foil]


_Kept = dict[int, tuple[Tensor, Tensor, Tensor]]


def _forward(
    model: Any, inputs: dict[str, Tensor], so_far: Tensor, shared: slice | None
) -> tuple[_Kept, dict[int, Tensor]]:
    """Prompt and answer so far, whole: what `_keep_attention` keeps, and the residual stream behind every layer."""
    ids = torch.cat((inputs["input_ids"][0], so_far))[None]
    decoder = model.model.language_model
    residuals: dict[int, Tensor] = {}
    with ExitStack() as stack:
        kept = stack.enter_context(_keep_attention(decoder, shared))
        for index, layer in enumerate(decoder.layers):
            handle = layer.register_forward_hook(lambda _m, _a, out, index=index: residuals.update({index: out}))
            stack.callback(handle.remove)
        model.model(input_ids=ids, pixel_values=inputs["pixel_values"], use_cache=False)
    return kept, residuals


@contextmanager
def _keep_attention(decoder: Any, shared: slice | None = None) -> Iterator[_Kept]:
    """Scores before, and probabilities behind the softmax of every layer; and zeros added to those of shared rows."""
    module: Any = sys.modules[type(decoder.layers[0].self_attn).__module__]
    original = module.eager_attention_forward
    kept: _Kept = {}

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
        logits.requires_grad_()
        probabilities = logits.softmax(-1)
        addition = torch.zeros_like(probabilities[0, :, 0]).requires_grad_()  # (H, keys)
        kept[self.layer_idx] = logits, probabilities, addition
        if shared is not None:
            is_shared = torch.zeros_like(probabilities[..., :1])
            is_shared[:, :, shared] = 1
            probabilities = probabilities + is_shared * addition[:, None]
        return (probabilities @ value).transpose(1, 2), None

    module.eager_attention_forward = attention
    try:
        yield kept
    finally:
        module.eager_attention_forward = original


def minmax(x: Tensor) -> Tensor:
    span = x.max() - x.min()
    return (x - x.min()) / span if span > 0 else torch.zeros_like(x)
