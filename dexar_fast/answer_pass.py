"""One forward pass over the answer, one small gradient per layer, nothing kept.

After attention a layer works on one position at a time and each score reads only its own layer. So the attention
output of the T answer rows is made a leaf, the rest of the layer runs with gradients, and where the layer ends

    s[t] = < W_lm[y_t], norm_final(h[t]) >        (Eq. 2-3)
    dO   = d(sum_t s[t]) / d(leaf)                 (T, H, D)

gives the gradient with respect to attention as ``dO V^T``. The layer's output goes on detached: its graph is freed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache

from .attention_tap import AttentionCall, tap_attention
from .errors import UnsupportedModelError
from .logit_lens import LogitLens
from .models import Decoder
from .stages import stage


@dataclass(frozen=True)
class Prefill:
    """A prompt, run.

    Attributes:
        cache: keys and values of all prompt positions but the last.
        last: ``(1, 1, d)``, input embedding of the last position. It predicts the first answer token, so it runs again,
            with gradients, as the first answer row.
    """

    cache: Cache
    last: Tensor


@dataclass(frozen=True)
class LayerGradient:
    """What the answer pass hands over for one layer.

    Attributes:
        d_out: ``(T, H, D)``, gradient of each row's score with respect to the attention output.
        attention: query, key, value and output of the layer's attention.
        residual_in, residual_out: ``(1, T, d)``, the layer's input and output.
    """

    d_out: Tensor
    attention: AttentionCall
    residual_in: Tensor
    residual_out: Tensor


@stage("vision")  # up to the language model
def prefill(decoder: Decoder, inputs: Mapping[str, Tensor]) -> Prefill:
    """Run the prompt once, without gradients."""
    embeddings: list[Tensor] = []

    def remember(_: nn.Module, args: Any, kwargs: Any) -> None:
        embeddings.append(kwargs["inputs_embeds"][:, -1:])

    # Without a config every layer keeps all keys; a sliding window is then the mask's business.
    cache = DynamicCache()
    with _removing(decoder.text_model.register_forward_pre_hook(remember, with_kwargs=True)), torch.no_grad():
        decoder.base(**inputs, past_key_values=cache, use_cache=True)
    cache.crop(-1)
    return Prefill(cache, embeddings[0])


@stage("answer pass")
def run_rows(
    decoder: Decoder,
    prompt: Prefill,
    answer_ids: Tensor,
    layers: Collection[int],
    lens: LogitLens,
    visit: Callable[[LayerGradient], None],
) -> None:
    """Run the answer rows once, and visit every chosen layer with its gradient, in order.

    Args:
        decoder: the model, in eval mode.
        prompt: its cache is filled further.
        answer_ids: ``(T,)``.
        layers: indices of the layers to visit.
        lens: the score of a layer's residual stream, one seed per row.
        visit: called once per layer, grad mode off.

    Raises:
        UnsupportedModelError: the model's attention is not seen, or its layers have no gradient.
    """
    visited: list[int] = []
    calls: dict[int, AttentionCall] = {}
    tapped = {decoder.attentions[layer]: layer for layer in layers}
    with torch.no_grad(), ExitStack() as stack:
        rows = torch.cat((prompt.last, decoder.embed(answer_ids[:-1])), dim=1)
        stack.enter_context(
            tap_attention(decoder.attention_implementation, tapped, lambda call: calls.update({call.layer: call}))
        )
        for layer in layers:

            def leave(_: nn.Module, args: Any, kwargs: Any, output: Any, layer: int = layer) -> Any:
                if layer not in calls:
                    return output
                call = calls.pop(layer)
                residual = output[0] if isinstance(output, tuple) else output
                d_out = _tail_gradient(lens, layer, call.out, residual)
                torch.set_grad_enabled(False)
                residual = residual.detach()
                residual_in = args[0] if args else kwargs["hidden_states"]
                visit(LayerGradient(d_out, call, residual_in, residual))
                visited.append(layer)
                return (residual, *output[1:]) if isinstance(output, tuple) else residual

            stack.enter_context(_removing(decoder.layers[layer].register_forward_hook(leave, with_kwargs=True)))
        decoder.base(inputs_embeds=rows, past_key_values=prompt.cache, use_cache=True)
    missing = sorted(set(layers) - set(visited))
    if missing:
        raise UnsupportedModelError(
            f"model: the attention of layers {missing} was not seen. A {decoder.family.name} model is expected to look "
            f"its attention up in transformers' registry as {decoder.attention_implementation!r}; this one does not."
        )


@stage("tail gradients")
def _tail_gradient(lens: LogitLens, layer: int, leaf: Tensor, residual: Tensor) -> Tensor:
    scores = lens(layer, residual)
    d_out = torch.autograd.grad(scores.sum(), leaf, allow_unused=True)[0] if scores.requires_grad else None
    if d_out is None:
        raise UnsupportedModelError(
            f"model: layer {layer}'s output does not depend differentiably on its attention. Its weights (quantised or "
            "compiled) have no backward; load the model unquantised or in a format with gradients."
        )
    return d_out[0]


@contextmanager
def _removing(handle: torch.utils.hooks.RemovableHandle) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()
