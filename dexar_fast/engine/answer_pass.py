"""One forward pass over the answer, one small gradient per layer, nothing kept.

After attention a layer works on one position at a time and each score reads only its own layer. So the attention
output of the T answer rows is made a leaf, the rest of the layer runs with gradients, and where the layer ends

    s[t] = < W_lm[y_t], norm_final(h[t]) >        (Eq. 2-3)
    dO   = d(sum_t s[t]) / d(leaf)                 (T, H, D), for each seed where a row has several

gives the gradient with respect to attention as ``dO V^T``. On the gradient path "leaf" this happens while the model
runs, and the layer's output goes on detached: its graph is freed. On the path "replay" the model runs without
gradients, and each layer runs once more on the answer rows alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from ..errors import InputError, UnsupportedModelError
from ..models.decoder import Decoder
from ..models.state import keeping
from ..stages import stage
from .answer_rows import AnswerRows
from .attention_tap import AttentionCall, OnCall, tap_arguments, tap_attention, tap_projections
from .logit_lens import LogitLens
from .replay import LayerInputs, layer_inputs, replay, watch_outputs


@dataclass(frozen=True)
class Prefill:
    """A prompt, run as far as the answer rows need it.

    Attributes:
        inputs: model inputs of the prompt.
        cache: keys and values of the prompt, and of answer tokens as far as they ran; None unless rows are "cached".
        embeddings: ``(1, P, d)``, what the text model takes for the prompt; None for rows "decoder" and "own".
        arguments: everything that the text model was called with for the prompt.
    """

    inputs: Mapping[str, Tensor]
    cache: Cache | None = None
    embeddings: Tensor | None = None
    arguments: Mapping[str, Any] | None = None

    def rewind(self, decoder: Decoder, answer_rows: int) -> None:
        """Cut the cache back to where answer row ``answer_rows`` is about to run.

        The prompt's last position is the first answer row. A cross-attention's keys are no positions of the prompt.
        """
        assert self.cache is not None
        assert self.embeddings is not None
        length = self.embeddings.shape[1] - 1 + answer_rows
        crossing = set() if decoder.family.keys == "sequence" else set(decoder.attentions)
        for index, layer in enumerate(self.cache.layers):
            # A run that ended early has left some layers longer than others.
            surplus = int(layer.get_seq_length()) - length
            if surplus > 0 and index not in crossing:
                layer.crop(-surplus)


@dataclass(frozen=True)
class LastStates:
    """Behind the last layer, ``(1, T, d)`` both.

    Attributes:
        residual: the layer's output.
        normed: what the text model makes of it for the head.
    """

    residual: Tensor
    normed: Tensor


@dataclass(frozen=True)
class LayerGradient:
    """What the answer pass hands over for one layer and T rows with S seeds each, of one sample or of several.

    Attributes:
        rows: which answer rows.
        d_out: ``(T * S, H, D)``, gradient of each row's scores with respect to the attention output.
        attention: query, key, value and output of the layer's attention.
        inputs: what the layer was called with, for the T rows.
        residual_out: ``(1, T, d)``, the layer's output.
    """

    rows: slice
    d_out: Tensor
    attention: AttentionCall
    inputs: LayerInputs
    residual_out: Tensor

    def to(self, device: torch.device) -> LayerGradient:
        """What scores and maps are made of, on the device that adds up the layers of a model on several devices."""
        if self.d_out.device == device:
            return self
        call = self.attention
        moved = {name: getattr(call, name).to(device) for name in ("query", "key", "value", "out")}
        return replace(self, d_out=self.d_out.to(device), attention=replace(call, **moved))


class _PromptSeen(Exception):
    """Ends a run of the base model where its text model begins."""


@stage("vision")  # up to the language model
def prefill(decoder: Decoder, inputs: Mapping[str, Tensor]) -> Prefill:
    """Run the prompt once, without gradients: wholly for a cache, else up to the text model."""
    rows = decoder.family.rows
    if rows in ("decoder", "own"):
        return Prefill(inputs)
    cache = new_cache() if rows == "cached" else None
    return _run_prompt(decoder, inputs, cache, stop=rows == "whole")


def _run_prompt(decoder: Decoder, inputs: Mapping[str, Tensor], cache: Cache | None, *, stop: bool) -> Prefill:
    """Run the base model on the prompt; ``stop`` ends the run where the text model begins."""
    with ExitStack() as stack:
        seen = stack.enter_context(prompt_call(decoder, stop=stop))
        stack.enter_context(keeping(decoder.base, decoder.family.run_state))
        stack.enter_context(torch.no_grad())
        stack.enter_context(suppress(_PromptSeen))
        decoder.base(**inputs, **{decoder.cache_argument: cache}, use_cache=cache is not None)
    return Prefill(inputs, cache, seen["inputs_embeds"], seen)


def run_up_to_text_model(decoder: Decoder, inputs: Mapping[str, Tensor]) -> None:
    """What comes before the text model on a prompt: the vision tower, and an encoder where there is one."""
    start = {"decoder_input_ids": decoder.start_ids(inputs)[None]} if decoder.family.rows == "decoder" else {}
    with ExitStack() as stack:
        stack.enter_context(prompt_call(decoder, stop=True))
        stack.enter_context(keeping(decoder.base, decoder.family.run_state))
        stack.enter_context(torch.no_grad())
        stack.enter_context(suppress(_PromptSeen))
        decoder.base(**{**inputs, **start}, use_cache=False)


def take_up(decoder: Decoder, inputs: Mapping[str, Tensor], cache: Cache) -> Prefill | None:
    """A prompt whose keys and values a caller's cache holds: only what comes before the text model runs.

    None, with a warning, if the cache cannot be cut back to the prompt; the caller's object is not changed.

    Raises:
        InputError: the family's rows do not run over a cache, or the cache is shorter than the prompt.
    """
    if decoder.family.rows != "cached":
        raise InputError(
            f"past_key_values: expected None, answers of the family {decoder.family.name!r} do not run over a cache"
        )
    prompt = _run_prompt(decoder, inputs, None, stop=True)
    assert prompt.embeddings is not None
    n_prompt = prompt.embeddings.shape[1]
    if cache.get_seq_length() < n_prompt - 1:
        raise InputError(
            f"past_key_values: expected the {n_prompt} positions of the prompt; got {cache.get_seq_length()}. Pass the "
            "cache of the same prompt, images included."
        )
    if any(type(layer) is not DynamicLayer for layer in cache.layers):
        kinds = ", ".join(sorted({type(layer).__name__ for layer in cache.layers}))
        warnings.warn(
            f"past_key_values: expected layers that keep every position and grow; got {kinds}, which cannot be cut "
            "back to the prompt. It runs again; generate with past_key_values=DynamicCache() to reuse the cache.",
            stacklevel=3,
        )
        return None
    return replace(prompt, cache=sharing(cache))


def _embed_text(decoder: Decoder, ids: Tensor) -> Tensor:
    """What a text model that embeds its prompt ``(P,)`` itself begins with; of use on the positions that run again."""
    if decoder.family.keys != "sequence":
        return decoder.embed(ids)  # the image is not in the sequence
    is_image = decoder.is_placeholder(ids)
    again = is_image if decoder.family.rows == "whole" else is_image[-1:]
    if bool(again.any()):
        raise InputError(
            f"prompt: ends in an image, and a {decoder.family.name} model does not show what it makes of one. "
            "Put text behind the image."
        )
    return decoder.embed(ids.masked_fill(is_image, 0))


def sharing(cache: Cache) -> Cache:
    """A cache of its own on the same tensors: layers replace theirs when they are cut or grow, and never write."""
    mine = copy(cache)
    mine.layers = [copy(layer) for layer in cache.layers]
    return mine


def new_cache() -> Cache:
    """One that can be cut back: without a config every layer keeps all keys, and a window is the mask's business."""
    return DynamicCache()


@contextmanager
def prompt_call(decoder: Decoder, *, stop: bool = False) -> Iterator[dict[str, Any]]:
    """Collect what the text model is called with first, `inputs_embeds` among it; ``stop`` ends the run there."""
    seen: dict[str, Any] = {}

    def remember(_: nn.Module, args: Any, kwargs: Any) -> None:
        if not seen:
            with torch.inference_mode(False):
                seen.update({name: _without_inference(value) for name, value in kwargs.items()})
            if seen.get("inputs_embeds") is None and decoder.family.rows != "decoder":
                seen["inputs_embeds"] = _embed_text(decoder, kwargs["input_ids"][0])
        if stop:
            raise _PromptSeen

    with _removing(decoder.text_model.register_forward_pre_hook(remember, with_kwargs=True)):
        yield seen


def _without_inference(value: Any) -> Any:
    """An argument that a backward may keep, also where a caller's `generate` runs in inference mode."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def _start(decoder: Decoder, prompt: Prefill, answer_ids: Tensor, rows: slice) -> Callable[[], Any]:
    """The call that runs the rows, and what comes before them without a cache."""
    if decoder.family.run is not None:
        own = decoder.family.run
        return lambda: own(decoder.model, prompt.inputs, answer_ids[: rows.stop - 1])
    if decoder.family.rows == "decoder":
        ids = torch.cat((decoder.start_ids(prompt.inputs), answer_ids[: rows.stop - 1]))[None]
        inputs = {**prompt.inputs, "decoder_input_ids": ids}
        return lambda: decoder.base(**inputs, use_cache=False)
    assert prompt.embeddings is not None  # for mypy: prefill sets both
    assert prompt.arguments is not None
    family, arguments, embeddings = decoder.family, prompt.arguments, prompt.embeddings
    if prompt.cache is not None:
        prompt.rewind(decoder, rows.start)
        embeddings = embeddings[:, -1:]
        if rows.start:
            # The rows run on from a longer prompt, which ends in the answer token before them.
            before = answer_ids[: rows.start + 1]
            arguments = {**arguments, **family.continue_arguments(decoder, arguments, before)}
            embeddings = decoder.embed(before[-2:-1])
    of_rows = answer_ids[rows] if prompt.cache is not None else answer_ids[: rows.stop]
    embeddings = torch.cat((embeddings, decoder.embed(of_rows[:-1])), dim=1)
    arguments = family.continue_arguments(decoder, arguments, of_rows)
    arguments[decoder.cache_argument] = prompt.cache
    return lambda: decoder.text_model(inputs_embeds=embeddings, use_cache=prompt.cache is not None, **arguments)


def row_states(decoder: Decoder, prompt: Prefill, answer_ids: Tensor, rows: slice | None = None) -> Tensor:
    """Normed states ``(1, T, d)`` of the rows that predict the answer, without gradients and without a visit.

    Or of some rows alone, for a prompt whose cache holds all positions before them.
    """
    rows = slice(0, len(answer_ids)) if rows is None else rows
    with torch.no_grad(), keeping(decoder.base, decoder.family.run_state):
        states = normed_states(decoder, _start(decoder, prompt, answer_ids, rows))
    return states[:, rows.start - rows.stop :]


@contextmanager
def watch_states(decoder: Decoder) -> Iterator[list[Tensor]]:
    """Collect the normed states ``(1, rows, d)`` of every run of rows over a cache inside."""
    states: list[Tensor] = []
    with _removing(decoder.text_model.register_forward_hook(lambda _, __, output: states.append(output[0]))):
        yield states


def normed_states(decoder: Decoder, run: Callable[[], Any]) -> Tensor:
    """What the head is given in a run, ``(n, positions, d)``: the run's output, unless the head is part of it."""
    given: list[Tensor] = []
    head = decoder.model.get_submodule(decoder.family.head)
    with _removing(head.register_forward_pre_hook(lambda _, args: given.append(args[0]))):
        output = run()
    if given:
        return given[-1]
    if decoder.family.run is not None:
        raise UnsupportedModelError(
            f"model: run did not call the head {decoder.family.head.removeprefix('module.')!r}. It has to call the "
            "model up to its logits."
        )
    states: Tensor = output[0]
    return states


def run_rows(
    decoder: Decoder,
    prompt: Prefill,
    answer_ids: Tensor,
    rows: slice,
    layers: Collection[int],
    lens: LogitLens,
    visit: Callable[[LayerGradient], None],
) -> LastStates:
    """Run some answer rows, and visit every chosen layer with its gradient, in order.

    Args:
        decoder: the model, in eval mode.
        prompt: its cache holds all positions before the rows at least; it is filled up to the last row.
        answer_ids: ``(T,)``, the whole answer.
        rows: which of its tokens are explained; without a cache those before them run, too.
        layers: indices of the layers to visit, all with an attention that reads the image.
        lens: the scores of a layer's residual stream, with seeds for each of these rows.
        visit: called once per layer, grad mode off.

    Returns:
        The states behind the last layer.

    Raises:
        UnsupportedModelError: the model's attention is not seen, or its layers have no gradient.
    """
    with torch.no_grad():
        run = _start(decoder, prompt, answer_ids, rows)
    return visit_layers(decoder, run, AnswerRows((rows.stop - rows.start,)), rows, layers, lens, visit)


@stage("answer pass")
def visit_layers(
    decoder: Decoder,
    run: Callable[[], Any],
    of_run: AnswerRows,
    rows: slice,
    layers: Collection[int],
    lens: LogitLens,
    visit: Callable[[LayerGradient], None],
) -> LastStates:
    """Run the text model, and visit every chosen layer with the gradient of its answer rows, in order.

    Args:
        decoder, layers, lens, visit: as for `run_rows`.
        run: calls the text model, or what holds it.
        of_run: the answer rows among all that run; of several samples they are handed on as one sequence.
        rows: what is noted of them in `LayerGradient.rows`.

    Returns, raises:
        As `run_rows`.
    """
    visited: list[int] = []
    calls: dict[int, tuple[AttentionCall, Tensor | None]] = {}
    behind: list[Tensor] = []
    with torch.no_grad(), ExitStack() as stack:

        def keep(call: AttentionCall, leaf: Tensor | None) -> None:
            calls[call.layer] = replace(call, chunk=decoder.chunk(call.layer)), leaf

        stack.enter_context(_tap(decoder, layers, of_run, keep))
        for layer in layers:
            outputs = stack.enter_context(watch_outputs(decoder, layer))

            def leave(
                _: nn.Module, args: Any, kwargs: Any, output: Any, layer: int = layer, outputs: Any = outputs
            ) -> Any:
                if layer not in calls:
                    return output
                call, leaf = calls.pop(layer)
                residual = output[0] if isinstance(output, tuple) else output
                inputs = layer_inputs(decoder, layer, args, kwargs, outputs).at(of_run)
                if leaf is None:
                    leaf = call.out.detach().requires_grad_()
                    with torch.enable_grad():
                        d_out = _tail_gradient(lens, layer, leaf, replay(decoder, layer, inputs, leaf))
                else:
                    d_out = of_run.of(_tail_gradient(lens, layer, leaf, of_run.of(residual)))
                    torch.set_grad_enabled(False)
                    residual = residual.detach()
                    output = (residual, *output[1:]) if isinstance(output, tuple) else residual
                visit(LayerGradient(rows, d_out[0].flatten(0, 1), call, inputs, of_run.of(residual)))
                visited.append(layer)
                return output

            stack.enter_context(_removing(decoder.layers[layer].register_forward_hook(leave, with_kwargs=True)))

        def end(_: nn.Module, args: Any, output: Any) -> None:
            behind[:] = [output[0] if isinstance(output, tuple) else output]  # replays come before the run's own

        stack.enter_context(_removing(decoder.layers[-1].register_forward_hook(end)))
        normed = normed_states(decoder, run)
    missing = sorted(set(layers) - set(visited))
    if missing:
        raise UnsupportedModelError(
            f"model: the attention of layers {missing} was not seen. A {decoder.family.name} model is expected to look "
            f"its attention up in transformers' registry as {decoder.attention_implementation!r}; this one does not."
        )
    return LastStates(of_run.of(behind[0]), of_run.of(normed))


def _tap(decoder: Decoder, layers: Collection[int], rows: AnswerRows, on_call: OnCall) -> AbstractContextManager[None]:
    family = decoder.family
    layer_of = {decoder.attentions[layer]: layer for layer in layers}
    if family.tap == "arguments":
        assert family.read is not None  # for mypy: Family checks it
        return tap_arguments(layer_of, family.read, on_call, rows=rows, causal=family.keys == "sequence")
    if family.tap == "projections":
        return tap_projections(layer_of, family.projection, on_call, rows=rows)
    return tap_attention(
        decoder.attention_implementation,
        layer_of,
        on_call,
        rows=rows,
        cross=family.keys != "sequence",
        leaf=family.gradient_path == "leaf",
    )


@stage("tail gradients")
def _tail_gradient(lens: LogitLens, layer: int, leaf: Tensor, residual: Tensor) -> Tensor:
    """``(B, rows of the leaf, S, H, D)``: each score reads its own row, so one backward a seed serves all rows."""
    scores = lens(layer, residual)  # [T, S]
    n_seeds = scores.shape[1]
    found = [
        torch.autograd.grad(scores[:, i].sum(), leaf, retain_graph=i + 1 < n_seeds, allow_unused=True)[0]
        for i in range(n_seeds if scores.requires_grad else 0)
    ]
    d_out = [of_seed for of_seed in found if of_seed is not None]
    if not d_out:
        raise UnsupportedModelError(
            f"model: layer {layer}'s output does not depend differentiably on its attention. Its weights (quantised or "
            "compiled) have no backward; load the model unquantised or in a format with gradients."
        )
    return torch.stack(d_out, dim=2)


@contextmanager
def _removing(handle: torch.utils.hooks.RemovableHandle) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()
