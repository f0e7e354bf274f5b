"""One forward pass over the answer, one small gradient per layer, nothing kept.

After attention a layer works on one position at a time and each score reads only its own layer. So the attention
output of the T answer rows is made a leaf, the rest of the layer runs with gradients, and where the layer ends

    s[t] = < W_lm[y_t], norm_final(h[t]) >        (Eq. 2-3)
    dO   = d(sum_t s[t]) / d(leaf)                 (T, H, D)

gives the gradient with respect to attention as ``dO V^T``. On the gradient path "leaf" this happens while the model
runs, and the layer's output goes on detached: its graph is freed. On the path "replay" the model runs without
gradients, and each layer runs once more on the answer rows alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache

from .attention_tap import AttentionCall, OnCall, tap_attention, tap_projections
from .errors import UnsupportedModelError
from .logit_lens import LogitLens
from .model_state import keeping
from .models import Decoder
from .replay import LayerInputs, layer_inputs, replay, watch_outputs


@dataclass(frozen=True)
class Prefill:
    """A prompt, run as far as the answer rows need it.

    Attributes:
        inputs: model inputs of the prompt.
        cache: keys and values of all prompt positions but the last; None for rows "whole" and "decoder".
        embeddings: what the text model takes for the prompt. For rows "cached" ``(1, 1, d)``, the last position's: it
            predicts the first answer token, so it runs again, with gradients, as the first answer row. For "whole"
            ``(1, P, d)``. None for "decoder".
        arguments: everything that the text model was called with for the prompt.
    """

    inputs: Mapping[str, Tensor]
    cache: Cache | None = None
    embeddings: Tensor | None = None
    arguments: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class LayerGradient:
    """What the answer pass hands over for one layer.

    Attributes:
        d_out: ``(T, H, D)``, gradient of each row's score with respect to the attention output.
        attention: query, key, value and output of the layer's attention.
        inputs: what the layer was called with, for the T rows.
        residual_out: ``(1, T, d)``, the layer's output.
    """

    d_out: Tensor
    attention: AttentionCall
    inputs: LayerInputs
    residual_out: Tensor


class _PromptSeen(Exception):
    """Ends a run of the base model where its text model begins."""


def prefill(decoder: Decoder, inputs: Mapping[str, Tensor]) -> Prefill:
    """Run the prompt once, without gradients: wholly for a cache, else up to the text model."""
    rows = decoder.family.rows
    if rows == "decoder":
        return Prefill(inputs)
    seen: dict[str, Any] = {}

    def remember(_: nn.Module, args: Any, kwargs: Any) -> None:
        seen.update(kwargs)
        if seen.get("inputs_embeds") is None:
            seen["inputs_embeds"] = decoder.embed(kwargs["input_ids"][0])
        if rows == "whole":
            raise _PromptSeen

    # Without a config every layer keeps all keys; a sliding window is then the mask's business.
    cache = DynamicCache() if rows == "cached" else None
    with ExitStack() as stack:
        stack.enter_context(_removing(decoder.text_model.register_forward_pre_hook(remember, with_kwargs=True)))
        stack.enter_context(keeping(decoder.base, decoder.family.run_state))
        stack.enter_context(torch.no_grad())
        stack.enter_context(suppress(_PromptSeen))
        decoder.base(**inputs, past_key_values=cache, use_cache=cache is not None)
    embeddings = seen["inputs_embeds"]
    if cache is not None:
        embeddings = embeddings[:, -1:]
        _forget_last_position(decoder, cache)
    return Prefill(inputs, cache, embeddings, seen)


def _forget_last_position(decoder: Decoder, cache: Cache) -> None:
    """The last prompt position is about to run again. A cross-attention's keys are no positions of the prompt."""
    for index, layer in enumerate(cache.layers):
        if decoder.family.keys == "sequence" or index not in decoder.attentions:
            layer.crop(-1)


def _start(decoder: Decoder, prompt: Prefill, answer_ids: Tensor) -> Callable[[], Any]:
    """The call that runs all rows; the last T of them predict the answer's tokens."""
    if decoder.family.rows == "decoder":
        ids = torch.cat((decoder.start_ids(answer_ids.device), answer_ids[:-1]))[None]
        return lambda: decoder.base(**prompt.inputs, decoder_input_ids=ids, use_cache=False)
    assert prompt.embeddings is not None  # for mypy: prefill sets both
    assert prompt.arguments is not None
    rows = torch.cat((prompt.embeddings, decoder.embed(answer_ids[:-1])), dim=1)
    arguments = decoder.family.continue_arguments(decoder, prompt.arguments, answer_ids)
    cached = prompt.cache is not None
    return lambda: decoder.text_model(inputs_embeds=rows, past_key_values=prompt.cache, use_cache=cached, **arguments)


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
        layers: indices of the layers to visit, all with an attention that reads the image.
        lens: the score of a layer's residual stream, one seed per row.
        visit: called once per layer, grad mode off.

    Raises:
        UnsupportedModelError: the model's attention is not seen, or its layers have no gradient.
    """
    last = slice(-len(answer_ids), None)
    visited: list[int] = []
    calls: dict[int, tuple[AttentionCall, Tensor | None]] = {}
    with torch.no_grad(), ExitStack() as stack:
        run = _start(decoder, prompt, answer_ids)
        tap = _tap(decoder, layers, len(answer_ids), lambda call, leaf: calls.update({call.layer: (call, leaf)}))
        stack.enter_context(tap)
        for layer in layers:
            outputs = stack.enter_context(watch_outputs(decoder, layer))

            def leave(
                _: nn.Module, args: Any, kwargs: Any, output: Any, layer: int = layer, outputs: Any = outputs
            ) -> Any:
                if layer not in calls:
                    return output
                call, leaf = calls.pop(layer)
                residual = output[0] if isinstance(output, tuple) else output
                inputs = layer_inputs(decoder, layer, args, kwargs, outputs).at(last)
                if leaf is None:
                    leaf = call.out.detach().requires_grad_()
                    with torch.enable_grad():
                        d_out = _tail_gradient(lens, layer, leaf, replay(decoder, layer, inputs, leaf))
                else:
                    d_out = _tail_gradient(lens, layer, leaf, residual[:, last])
                    torch.set_grad_enabled(False)
                    residual = residual.detach()
                    output = (residual, *output[1:]) if isinstance(output, tuple) else residual
                visit(LayerGradient(d_out[0, last], call, inputs, residual[:, last]))
                visited.append(layer)
                return output

            stack.enter_context(_removing(decoder.layers[layer].register_forward_hook(leave, with_kwargs=True)))
        run()
    missing = sorted(set(layers) - set(visited))
    if missing:
        raise UnsupportedModelError(
            f"model: the attention of layers {missing} was not seen. A {decoder.family.name} model is expected to look "
            f"its attention up in transformers' registry as {decoder.attention_implementation!r}; this one does not."
        )


def _tap(decoder: Decoder, layers: Collection[int], n_rows: int, on_call: OnCall) -> AbstractContextManager[None]:
    family = decoder.family
    layer_of = {decoder.attentions[layer]: layer for layer in layers}
    if family.tap == "projections":
        return tap_projections(layer_of, family.projection, on_call, n_rows=n_rows)
    return tap_attention(
        decoder.attention_implementation,
        layer_of,
        on_call,
        n_rows=n_rows,
        cross=family.keys != "sequence",
        leaf=family.gradient_path == "leaf",
    )


def _tail_gradient(lens: LogitLens, layer: int, leaf: Tensor, residual: Tensor) -> Tensor:
    scores = lens(layer, residual)
    d_out = torch.autograd.grad(scores.sum(), leaf, allow_unused=True)[0] if scores.requires_grad else None
    if d_out is None:
        raise UnsupportedModelError(
            f"model: layer {layer}'s output does not depend differentiably on its attention. Its weights (quantised or "
            "compiled) have no backward; load the model unquantised or in a format with gradients."
        )
    return d_out


@contextmanager
def _removing(handle: torch.utils.hooks.RemovableHandle) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()
