"""The core run behind `Explainer` and `compat`: answer pass, self-check, scores and maps of every layer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache, partial

import torch
from torch import Tensor

from ..errors import NotFiniteError
from ..inputs.options import Options
from ..models.decoder import Decoder
from ..ops import KeySets
from ..progress import ProgressCallback, Steps
from .aggregate import Accumulator
from .answer_pass import LastStates, LayerGradient, run_rows
from .focus import make_accumulator
from .logit_lens import LogitLens
from .prefill import Prefill, prefill
from .request import Request
from .row_chunk import row_chunks, rows_at_once
from .self_check import check_final_norm, check_layer
from .target_rows import TargetRows


def accumulate_layers(
    decoder: Decoder,
    request: Request,
    options: Options,
    lens: LogitLens,
    *,
    backend: str,
    checked: set[int],
    report: ProgressCallback,
    prompt: Prefill | None = None,
    rows: slice | None = None,
    targets: TargetRows | None = None,
) -> Accumulator:
    """Run the answer pass and add up every chosen layer.

    Args:
        decoder, request, lens: as for `run_rows`.
        options: of the run, with methods of `METHODS`. `row_chunk` says how many rows run at once; without a cache all
            do, and where they do not fit, half as many.
        backend: of the ops.
        checked: layers that passed the self-check; others are checked now, and added if all went well.
        report: progress callback.
        prompt: the prompt if it ran already; its cache is changed.
        rows: the answer tokens to explain, None for all. Those before them must be in the cache, if there is one.
        targets: what is explained of these rows, None for each token; more than a row only with the method "dexar".

    Raises:
        SelfCheckError, NotFiniteError, UnsupportedModelError: see `Explainer.explain`.
    """
    rows = slice(0, targets.stop if targets else len(request.answer_ids)) if rows is None else rows
    spans, layers = targets.spans if targets else (), options.layers
    of_rows = slice(0, len(spans)) if targets else rows
    accumulator = make_accumulator(options, of_rows, len(request.image_keys), backend)
    n_rows = rows.stop - rows.start
    unchecked = set(layers) - checked
    at_once = min(n_rows, rows_at_once(decoder, options.row_chunk)) if decoder.family.rows == "cached" else n_rows
    todo = row_chunks(rows, at_once, spans)
    report("explaining", 0, len(todo) * len(layers))
    prompt = prompt or prefill(decoder, request.inputs)
    done, warned = 0, False
    while todo:
        chunk = todo[0]
        steps = Steps(report, done=done * len(layers), total=(done + len(todo)) * len(layers))
        fewer = (chunk.stop - chunk.start) // 2
        divisible = prompt.cache is not None and len(row_chunks(chunk, fewer, spans)) > 1
        states = _add_rows(
            decoder, request, prompt, chunk, layers, lens, accumulator, unchecked, steps, targets, divisible
        )
        if states is not None:
            done, todo = done + 1, todo[1:]
            if options.grounding:
                accumulator.states.append(states.normed)
        else:
            if not warned:
                message = f"out of memory with {chunk.stop - chunk.start} answer tokens at once: going on with fewer. "
                warnings.warn(f"{message}Pass a smaller row_chunk to begin there.", stacklevel=2)
            warned, todo = True, row_chunks(slice(chunk.start, rows.stop), fewer, spans)
    require_finite(accumulator, layers, request.answer_ids, targets)
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
    targets: TargetRows | None,
    divisible: bool,
) -> LastStates | None:
    """Add every layer of some rows; None, with nothing added that counts, if they did not fit into memory.

    Rows that are ``divisible`` may run again as fewer; of others the error is the caller's.
    """
    own = targets.within(rows) if targets else rows
    layers = layers if own.stop > own.start else ()  # rows between targets only have to be in the cache
    device = request.answer_ids.device
    visit = visitor(decoder, partial(request.keys, rows), lens.at(rows), accumulator, unchecked, steps, device, targets)
    accumulator.begin(own)
    due = frozenset(unchecked)
    try:
        states = run_rows(decoder, prompt, request.answer_ids, rows, layers, lens.at(rows), visit)
        if due:
            check_final_norm(decoder, states)
    except torch.OutOfMemoryError:
        if not divisible:
            raise
        unchecked.update(due)
        return None  # the traceback, which holds the tensors of the run, ends here
    return states


def visitor(
    decoder: Decoder,
    keys: Callable[[int, int | None, int | None], KeySets],
    lens: LogitLens,
    accumulator: Accumulator,
    unchecked: set[int],
    steps: Steps,
    device: torch.device,
    targets: TargetRows | None = None,
) -> Callable[[LayerGradient], None]:
    """What is done with every layer: check it if that is due, and add it up.

    Args:
        decoder, lens: the model, and the lens of the rows.
        keys: ``(number of keys, window, chunk)`` to the sets of keys of the rows.
        accumulator: of the rows, or of the targets.
        unchecked: layers to check; they leave it.
        steps: counts the layers.
        device: where they are added up.
        targets: what is explained of the rows, None for each of them.
    """
    keys_of = cache(keys)  # the layers of one kind share them
    target_keys: dict[tuple[int, int | None, int | None], KeySets] = {}

    def visit(gradient: LayerGradient) -> None:
        call = gradient.attention
        kind = call.key.shape[-2], call.window, call.chunk
        of_rows = keys_of(*kind)
        if call.layer in unchecked:
            check_layer(decoder, gradient, of_rows.to(gradient.d_out.device), lens)
            unchecked.discard(call.layer)
        if targets is not None:
            if kind not in target_keys:
                target_keys[kind] = targets.keys(gradient.rows, of_rows)
            gradient, of_rows = targets.combine(gradient), target_keys[kind]
        accumulator.add(gradient.to(device), of_rows)
        steps.next()

    return visit


def require_finite(
    accumulator: Accumulator, layers: Sequence[int], answer_ids: Tensor, targets: TargetRows | None = None
) -> None:
    """Refuse what was added up if anything of it is NaN or infinite.

    Raises:
        NotFiniteError: names the layer and the token, or target.
    """

    def named(index: int) -> str:
        token = accumulator.rows.start + index
        if targets is None:
            return f"token {token} (id {int(answer_ids[token])})"
        start, stop = targets.spans[index]
        return f"target {index} (tokens {start} to {stop - 1})"

    scores = accumulator.image_scores + accumulator.text_scores  # [T, L, H]
    broken = ~scores.isfinite().all(dim=-1)  # [T, L]
    if bool(broken.any()):
        layer = int(broken.any(dim=0).nonzero()[0])
        where = f"layer {layers[layer]}, {named(int(broken[:, layer].nonzero()[0]))}"
    elif not bool(accumulator.maps.isfinite().all()):
        where = f"the sum over layers, {named(int((~accumulator.maps.isfinite()).any(dim=1).nonzero()[0]))}"
    else:
        for other in accumulator.beside.values():
            require_finite(other, layers, answer_ids, targets)
        return
    raise NotFiniteError(
        f"gradients are NaN or infinite, first at {where}. The model overflows there or has broken weights; "
        "try dtype='bfloat16' or 'float32'."
    )
