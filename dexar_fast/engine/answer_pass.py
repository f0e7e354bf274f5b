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

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedModelError
from ..models.decoder import Decoder
from ..models.state import hooked, keeping
from ..stages import stage
from .answer_rows import AnswerRows
from .attention_tap import AttentionCall, OnCall, tap_arguments, tap_attention, tap_projections
from .logit_lens import LogitLens
from .prefill import Prefill
from .replay import LayerInputs, layer_inputs, replay, watch_outputs


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
    with hooked(decoder.text_model.register_forward_hook, lambda _, __, output: states.append(output[0])):
        yield states


def normed_states(decoder: Decoder, run: Callable[[], Any]) -> Tensor:
    """What the head is given in a run, ``(n, positions, d)``: the run's output, unless the head is part of it."""
    given: list[Tensor] = []
    head = decoder.model.get_submodule(decoder.family.head)
    with hooked(head.register_forward_pre_hook, lambda _, args: given.append(args[0])):
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

            stack.enter_context(hooked(decoder.layers[layer].register_forward_hook, leave, with_kwargs=True))

        def end(_: nn.Module, args: Any, output: Any) -> None:
            behind[:] = [output[0] if isinstance(output, tuple) else output]  # replays come before the run's own

        stack.enter_context(hooked(decoder.layers[-1].register_forward_hook, end))
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
