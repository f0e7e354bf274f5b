"""The ops on CPUs, in C++ (``csrc/``): few rows as in `cpp_few`, many as in `cpp_many`.

Products ``V dO^T`` (and ``K Q^T``) go into buffers that stay in cache, and passes over them take maxima, head weights
and weighted sums. No tensor of size (T, H, K) exists.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import cpp_few, cpp_many
from .cpp_layer import Layer, empty, padded
from .cpp_parts import parts_of
from .keys import PackedKeys
from .signals import Attention, MapSums

MOST_ROWS = 1024  # more are as fast
BLOCK_ELEMENTS = 1 << 22  # 16 MiB: products of few rows; of long prompts still fewer are taken at once
FEW_ROWS = 10  # beyond, lanes that are rows are faster: they fill more of a register's 16


def head_scores(
    d_out: Tensor, value: Tensor, keys: PackedKeys, signal: str, attention: Attention | None
) -> tuple[Tensor, Tensor | None]:
    """Eq. 4: see `dexar_fast.ops.head_scores`."""
    lse, scores = _new_lse(attention), empty(1, 3, *d_out.shape[:2])
    _run(Layer(keys, d_out, value, attention, lse, score_signals=(signal,), scores=scores))
    return scores[0], lse


def accumulate_maps(
    d_out: Tensor,
    value: Tensor,
    weights: Tensor,
    keys: PackedKeys,
    signal: str,
    attention: Attention | None,
    maps: Tensor,
    unfiltered: Tensor | None,
    token_sums: Tensor | None,
) -> None:
    """Eq. 5, one layer's share, added in place: see `dexar_fast.ops.accumulate_maps`."""
    sums = [MapSums(signal, signal, maps, unfiltered, token_sums)]
    weights = weights.to(torch.float32).contiguous()
    _run(Layer(keys, d_out, value, attention, *_lse(attention), weights=weights, sums=sums))


def score_and_accumulate(
    d_out: Tensor, value: Tensor, keys: PackedKeys, attention: Attention | None, sums: Sequence[MapSums]
) -> tuple[Tensor, Tensor | None]:
    """Eq. 4 and 5 in one pass: see `dexar_fast.ops.score_and_accumulate_all`."""
    signals = tuple(dict.fromkeys(each.score_signal for each in sums))
    lse, scores = _new_lse(attention), empty(len(signals), 3, *d_out.shape[:2])
    _run(Layer(keys, d_out, value, attention, lse, score_signals=signals, scores=scores, sums=sums))
    return scores, lse


def attention_lse(attention: Attention, keys: PackedKeys) -> Tensor:
    """Log-sum-exp of the logits of all visible keys ``(T, H)``: see `dexar_fast.ops.attention_lse`."""
    lse = _new_lse(attention)
    assert lse is not None
    _run(Layer(keys, None, None, attention, lse))
    return lse


def attention_columns(attention: Attention, keys: PackedKeys) -> Tensor:
    """Softmax probabilities of the image keys: see `dexar_fast.ops.attention_columns`."""
    shape = (*attention.query.shape[:2], keys.image.shape[1])
    columns = empty(shape)
    _run(Layer(keys, None, None, attention, *_lse(attention), columns=columns))
    return columns


def _new_lse(attention: Attention | None) -> Tensor | None:
    return None if attention is None else empty(attention.query.shape[:2])


def _lse(attention: Attention | None) -> tuple[Tensor | None, bool]:
    """That of the caller, or a new one; and whether it is known."""
    if attention is None or attention.lse is None:
        return _new_lse(attention), False
    return attention.lse.to(torch.float32).contiguous(), True


def _run(layer: Layer) -> None:
    if layer.d_out is not None and layer.attention is not None and layer.signals <= {"attention"}:
        layer = layer._replace(d_out=None, value=None)
    keys = layer.keys
    if not layer.H:
        return
    most_rows = few = min(FEW_ROWS, max(1, BLOCK_ELEMENTS // max(1, keys.kinds.size(1) * padded(layer.H))))
    if max(keys.rows, default=0) > FEW_ROWS:
        most_rows = min(MOST_ROWS, cpp_many.most_rows(layer))
    for part in parts_of(keys, max(1, most_rows), image_alone=layer.image_alone):
        (cpp_few if part.n_rows <= few else cpp_many).run(layer, part)
    # The kernels write through pointers, which autograd does not see.
    for each in layer.sums:
        for tensor in each[2:]:
            if tensor is not None and not tensor.is_inference():
                torch.autograd.graph.increment_version(tensor)
