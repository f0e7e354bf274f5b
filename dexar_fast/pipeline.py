"""The core run behind `Explainer` and `compat`: answer pass, self-check, scores and maps of every layer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache, partial
from math import ceil

import torch
from torch import Tensor

from .aggregate import Accumulator
from .answer_pass import LayerGradient, Prefill, prefill, run_rows
from .errors import NotFiniteError
from .logit_lens import LogitLens
from .methods import METHODS
from .models import Decoder
from .ops import KeySets
from .progress import ProgressCallback, Steps
from .request import Request
from .row_chunk import rows_at_once
from .self_check import check_final_norm, check_layer


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
    row_chunk: int | str = "auto",
    prompt: Prefill | None = None,
    rows: slice | None = None,
) -> Accumulator:
    """Run the answer pass and add up every chosen layer.

    Args:
        decoder, request, layers, lens: as for `run_rows`.
        method: a name of `METHODS`.
        unfiltered: also sum the maps with ``w = 1``.
        backend: of the ops.
        checked: layers that passed the self-check; others are checked now, and added if all went well.
        report: progress callback.
        row_chunk: how many rows run at once, or "auto"; without a cache all do. Where they do not fit, half as many.
        prompt: the prompt if it ran already; its cache is changed.
        rows: the answer tokens to explain, None for all; some need a cache.

    Raises:
        SelfCheckError, NotFiniteError, UnsupportedModelError: see `Explainer.explain`.
    """
    rows = slice(0, len(request.answer_ids)) if rows is None else rows
    accumulator = Accumulator(
        rows,
        len(request.image_keys),
        method=METHODS[method],
        unfiltered=unfiltered,
        backend=backend,
    )
    n_rows = rows.stop - rows.start
    unchecked = set(layers) - checked
    at_once = min(n_rows, rows_at_once(decoder, row_chunk)) if decoder.family.rows == "cached" else n_rows
    report("explaining", 0, ceil(n_rows / at_once) * len(layers))
    prompt = prompt or prefill(decoder, request.inputs)
    done, warned = 0, False
    while done < n_rows:
        first = rows.start + done
        chunk = slice(first, min(first + at_once, rows.stop))
        steps = Steps(report, done=ceil(done / at_once) * len(layers), total=ceil(n_rows / at_once) * len(layers))
        if _add_rows(decoder, request, prompt, chunk, layers, lens, accumulator, unchecked, steps):
            done += chunk.stop - chunk.start
        else:
            if not warned:
                message = f"out of memory with {chunk.stop - chunk.start} answer tokens at once: going on with fewer. "
                warnings.warn(f"{message}Pass a smaller row_chunk to begin there.", stacklevel=2)
            warned = True
            at_once = (chunk.stop - chunk.start) // 2
    require_finite(accumulator, layers, request.answer_ids)
    checked.update(layers)  # only now: a NaN passes every comparison
    return accumulator


def _add_rows(
    decoder: Decoder,
    request: Request,
    prompt: Prefill,
    rows: slice,
    layers: Sequence[int],
    lens: LogitLens,
    accumulator: Accumulator,
    unchecked: set[int],
    steps: Steps,
) -> bool:
    """Add every layer of some rows; False, with nothing added that counts, if they did not fit into memory."""
    device = request.answer_ids.device
    visit = visitor(decoder, partial(request.keys, rows), lens.at(rows), accumulator, unchecked, steps, device)
    accumulator.begin(rows)
    checking = bool(unchecked)
    try:
        states = run_rows(decoder, prompt, request.answer_ids, rows, layers, lens.at(rows), visit)
        if checking:
            check_final_norm(decoder, states)
    except torch.OutOfMemoryError:
        if prompt.cache is None or rows.stop - rows.start == 1:
            raise
        return False  # the traceback, which holds the tensors of the run, ends here
    return True


def visitor(
    decoder: Decoder,
    keys: Callable[[int, int | None], KeySets],
    lens: LogitLens,
    accumulator: Accumulator,
    unchecked: set[int],
    steps: Steps,
    device: torch.device,
) -> Callable[[LayerGradient], None]:
    """What is done with every layer: check it if that is due, and add it up.

    Args:
        decoder, lens: the model, and the lens of the rows.
        keys: ``(number of keys, window)`` to the sets of keys of the rows.
        accumulator: of the rows.
        unchecked: layers to check; they leave it.
        steps: counts the layers.
        device: where they are added up.
    """
    keys_of = cache(keys)  # the layers of one kind share them

    def visit(gradient: LayerGradient) -> None:
        call = gradient.attention
        of_rows = keys_of(call.key.shape[-2], call.window)
        if call.layer in unchecked:
            check_layer(decoder, gradient, of_rows.to(gradient.d_out.device), lens)
            unchecked.discard(call.layer)
        accumulator.add(gradient.to(device), of_rows)
        steps.next()

    return visit


def require_finite(accumulator: Accumulator, layers: Sequence[int], answer_ids: Tensor) -> None:
    """Refuse what was added up if anything of it is NaN or infinite.

    Raises:
        NotFiniteError: names the layer and the token.
    """
    answer_ids, first = answer_ids[accumulator.rows], accumulator.rows.start
    scores = accumulator.image_scores + accumulator.text_scores  # [T, L, H]
    broken = ~scores.isfinite().all(dim=-1)  # [T, L]
    if bool(broken.any()):
        layer = int(broken.any(dim=0).nonzero()[0])
        token = int(broken[:, layer].nonzero()[0])
        where = f"layer {layers[layer]}, token {first + token} (id {int(answer_ids[token])})"
    elif not bool(accumulator.maps.isfinite().all()):
        token = int((~accumulator.maps.isfinite()).any(dim=1).nonzero()[0])
        where = f"the sum over layers, token {first + token} (id {int(answer_ids[token])})"
    else:
        return
    raise NotFiniteError(
        f"gradients are NaN or infinite, first at {where}. The model overflows there or has broken weights; "
        "try dtype='bfloat16' or 'float32'."
    )
