"""Methods on attention probabilities, layer by layer, in the same pass over the answer as DEX-AR."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from ...answer_pass import LayerGradient, prefill, run_rows
from ...logit_lens import token_lens
from ...ops import KeySets, accumulator, attention_columns
from ...pipeline import accumulate_layers
from ...progress import silent
from .subject import Subject, blocks, zeros


def attention(subject: Subject) -> Tensor:
    """Attention on the image keys, mean over heads, summed over layers: ``sum_l mean_i P``."""

    def layer(gradient: LayerGradient, keys: KeySets) -> Tensor:
        return _columns(subject, gradient, keys).mean(dim=1)

    return _sum_layers(subject, layer)


def attention_contrast(subject: Subject) -> Tensor:
    """What a token attends to more than the others do: ``relu(A_t - mean of A_s over the other answer tokens s)``.

    A is `attention`. What all tokens attend to alike (sinks, the image's borders) is no one's evidence. An answer of
    one token has nothing to be compared with and keeps A.
    """
    maps = attention(subject)
    others = (maps.sum(dim=0) - maps) / max(1, len(maps) - 1)
    return (maps - others).clamp(min=0)


def attention_gradient(subject: Subject) -> Tensor:
    """Attention x gradient: ``sum_l relu(sum_i P * G)``, relu of the product summed over heads."""

    def layer(gradient: LayerGradient, keys: KeySets) -> Tensor:
        columns = _columns(subject, gradient, keys)  # [T, H, N]
        dtype = accumulator(gradient.d_out)
        H_kv = gradient.attention.value.shape[0]
        value = gradient.attention.value[:, keys.image].to(dtype)  # [H_kv, N, D]
        grouped = gradient.d_out.to(dtype).unflatten(1, (H_kv, -1))  # [T, H_kv, G, D]
        g = (grouped.transpose(0, 1).flatten(1, 2) @ value.mT).unflatten(1, (len(columns), -1))  # [H_kv, T, G, N]
        return (columns * g.transpose(0, 1).flatten(1, 2)).sum(dim=1).clamp(min=0)

    return _sum_layers(subject, layer)


def dexar_unfiltered(subject: Subject) -> Tensor:
    """DEX-AR with every head weight 1: ``sum_l sum_i relu(G)``."""
    explainer, request = subject.explainer, subject.request
    sums = accumulate_layers(
        explainer.decoder,
        request,
        subject.layers,
        token_lens(explainer.decoder, request.answer_ids),
        method="dexar",
        unfiltered=True,
        backend=explainer.backend,
        checked=explainer.checked_layers,
        report=silent,
    )
    assert sums.unfiltered is not None
    return request.layout.to_cells(sums.unfiltered)


def _columns(subject: Subject, gradient: LayerGradient, keys: KeySets) -> Tensor:
    call = gradient.attention
    return attention_columns(
        call.query, call.key, keys, scale=call.scale, softcap=call.softcap, backend=subject.explainer.backend
    )


def _sum_layers(subject: Subject, layer: Callable[[LayerGradient, KeySets], Tensor]) -> Tensor:
    """Add up ``layer`` ``(rows, N)`` over the chosen layers, some rows at a time."""
    request, decoder = subject.request, subject.explainer.decoder
    total = zeros(subject)

    def visit(gradient: LayerGradient) -> None:
        call = gradient.attention
        keys = request.keys(call.key.shape[1], call.window)
        for rows in blocks(len(total), call.query.shape[1] * call.key.shape[1]):
            of_rows = KeySets(keys.image, keys.text, keys.visible[rows])
            total[rows] += layer(_rows(gradient, rows), of_rows)

    prompt = prefill(decoder, request.inputs)
    run_rows(decoder, prompt, request.answer_ids, subject.layers, token_lens(decoder, request.answer_ids), visit)
    return request.layout.to_cells(total)


def _rows(gradient: LayerGradient, rows: slice) -> LayerGradient:
    attention = replace(gradient.attention, query=gradient.attention.query[rows], out=gradient.attention.out[rows])
    return replace(gradient, d_out=gradient.d_out[rows], attention=attention)
