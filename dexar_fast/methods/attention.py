"""Methods on attention probabilities, layer by layer, in the same pass over the answer as DEX-AR."""

from __future__ import annotations

from torch import Tensor

from ..engine.aggregate import Accumulator
from ..engine.answer_pass import LayerGradient, run_rows
from ..engine.logit_lens import token_lens
from ..engine.pipeline import accumulate_layers
from ..engine.prefill import prefill
from ..inputs.options import Options
from ..ops import KeySets, accumulator, attention_columns
from ..progress import silent
from .subject import Subject, blocks


def attention(subject: Subject) -> Tensor:
    """Attention on the image keys, mean over heads, summed over layers: ``sum_l mean_i P``."""
    sums = _unfiltered(subject, "dexar-attention")
    assert sums.unfiltered is not None
    return subject.request.layout.to_cells(sums.unfiltered / sums.image_scores.shape[2])


def attention_contrast(subject: Subject) -> Tensor:
    """What a token attends to more than the others do: ``relu(A_t - mean of A_s over the other answer tokens s)``.

    A is `attention`. What all tokens attend to alike (sinks, the image's borders) is no one's evidence. An answer of
    one token has nothing to be compared with and keeps A.
    """
    maps = attention(subject)
    others = (maps.sum(dim=0) - maps) / max(1, len(maps) - 1)
    return (maps - others).clamp(min=0)


def dexar_unfiltered(subject: Subject) -> Tensor:
    """DEX-AR with every head weight 1: ``sum_l sum_i relu(G)``."""
    sums = _unfiltered(subject, "dexar")
    assert sums.unfiltered is not None
    return subject.request.layout.to_cells(sums.unfiltered)


def attention_gradient(subject: Subject) -> Tensor:
    """Attention x gradient: ``sum_l relu(sum_i P * G)``, relu of the product summed over heads."""
    request, decoder = subject.request, subject.explainer.decoder
    T = len(request.answer_ids)
    layers: list[Tensor] = []

    def visit(gradient: LayerGradient) -> None:
        call = gradient.attention
        keys = request.keys(slice(0, T), call.key.shape[1], call.window, call.chunk)
        of_layer = gradient.d_out.new_zeros(T, len(keys.image), dtype=accumulator(gradient.d_out))
        for rows in blocks(T, call.query.shape[1] * call.key.shape[1]):
            of_layer[rows] = _product(subject, gradient, keys, rows).sum(dim=1).clamp(min=0)
        layers.append(of_layer)

    lens = token_lens(decoder, request.answer_ids)
    prompt = prefill(decoder, request.inputs)
    run_rows(decoder, prompt, request.answer_ids, slice(0, T), subject.layers, lens, visit)
    total = layers[0]
    for of_layer in layers[1:]:
        total = total + of_layer
    return request.layout.to_cells(total)


def _product(subject: Subject, gradient: LayerGradient, keys: KeySets, rows: slice) -> Tensor:
    """``P * G`` of some rows on the image keys, ``(rows, H, N)``."""
    call = gradient.attention
    columns = attention_columns(
        call.query[rows],
        call.key,
        KeySets(keys.image, keys.text, keys.visible[rows]),
        scale=call.scale,
        softcap=call.softcap,
        backend=subject.explainer.backend,
    )
    value = call.value[:, keys.image].to(columns.dtype)  # [H_kv, N, D]
    grouped = (
        gradient.d_out[rows].to(columns.dtype).unflatten(1, (len(value), -1)).transpose(0, 1)
    )  # [H_kv, rows, G, D]
    g = (grouped.flatten(1, 2) @ value.mT).unflatten(1, (len(columns), -1))  # [H_kv, rows, G, N]
    return columns * g.transpose(0, 1).flatten(1, 2)


def _unfiltered(subject: Subject, method: str) -> Accumulator:
    explainer, request = subject.explainer, subject.request
    return accumulate_layers(
        explainer.decoder,
        request,
        Options(subject.layers, method=method, unfiltered=True),
        token_lens(explainer.decoder, request.answer_ids),
        backend=explainer.backend,
        checked=explainer.checked_layers,
        report=silent,
    )
