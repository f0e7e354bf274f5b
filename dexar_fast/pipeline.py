"""The core run behind `Explainer` and `compat`: answer pass, self-check, scores and maps of every layer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from torch import Tensor

from .aggregate import Accumulator
from .answer_pass import LayerGradient, prefill, run_rows
from .errors import NotFiniteError
from .logit_lens import LogitLens
from .methods import METHODS
from .models import Decoder
from .progress import ProgressCallback
from .request import Request
from .self_check import check_layer


def accumulate_layers(
    decoder: Decoder,
    request: Request,
    layers: Sequence[int],
    lens: LogitLens,
    *,
    method: str,
    unfiltered: bool,
    backend: str,
    checked: set[int],
    report: ProgressCallback,
) -> Accumulator:
    """Run the answer pass and add up every chosen layer.

    Args:
        decoder, request, layers, lens: as for `run_rows`.
        method: a name of `METHODS`.
        unfiltered: also sum the maps with ``w = 1``.
        backend: of the ops.
        checked: layers that passed the self-check; others are checked now, and added if all went well.
        report: progress callback.

    Raises:
        SelfCheckError, NotFiniteError, UnsupportedModelError: see `Explainer.explain`.
    """
    accumulator = Accumulator(
        len(request.answer_ids),
        len(request.image_keys),
        method=METHODS[method],
        unfiltered=unfiltered,
        backend=backend,
    )
    keys_of = cache(request.keys)  # the layers of one kind share them

    def visit(gradient: LayerGradient) -> None:
        call = gradient.attention
        keys = keys_of(call.key.shape[1], call.window)
        if call.layer not in checked:
            check_layer(decoder, gradient, keys, lens)
        accumulator.add(gradient, keys)
        report("explaining", accumulator.n_layers, len(layers))

    report("explaining", 0, len(layers))
    run_rows(decoder, prefill(decoder, request.inputs), request.answer_ids, layers, lens, visit)
    _require_finite(accumulator, layers, request.answer_ids)
    checked.update(layers)  # only now: a NaN passes every comparison
    return accumulator


def _require_finite(accumulator: Accumulator, layers: Sequence[int], answer_ids: Tensor) -> None:
    scores = accumulator.image_scores + accumulator.text_scores  # [T, L, H]
    broken = ~scores.isfinite().all(dim=-1)  # [T, L]
    if bool(broken.any()):
        layer = int(broken.any(dim=0).nonzero()[0])
        token = int(broken[:, layer].nonzero()[0])
        where = f"layer {layers[layer]}, token {token} (id {int(answer_ids[token])})"
    elif not bool(accumulator.maps.isfinite().all()):
        token = int((~accumulator.maps.isfinite()).any(dim=1).nonzero()[0])
        where = f"the sum over layers, token {token} (id {int(answer_ids[token])})"
    else:
        return
    raise NotFiniteError(
        f"gradients are NaN or infinite, first at {where}. The model overflows there or has broken weights; "
        "try dtype='bfloat16' or 'float32'."
    )
