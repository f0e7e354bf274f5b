"""The ops as ``torch.ops.dexar_fast.*``: what keeps torch.compile, torch.export and meta tensors working.

A registered op takes tensors and numbers only; `api` packs key sets and attention into them, here they are unpacked for
the backend.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from .backends import Backend, load_backend, resolve_backend
from .keys import PackedKeys
from .reference import accumulator
from .signals import Attention, HeadScores

_KEYS = "Tensor image, Tensor kinds, Tensor visible, SymInt[] rows, SymInt image_start"
_ATTENTION = "Tensor? query, Tensor? key, Tensor? out, float scale, float? softcap, Tensor? lse"


def pack(keys: PackedKeys, attention: Attention | None) -> tuple[Any, ...]:
    """Arguments ``_KEYS`` and ``_ATTENTION``."""
    return (*keys, *(attention or (None, None, None, 1.0, None, None)))


def _unpack(*arguments: Any) -> tuple[PackedKeys, Attention | None]:
    """The inverse of `pack`."""
    n_keys = len(PackedKeys._fields)
    keys, attention = PackedKeys(*arguments[:n_keys]), Attention(*arguments[n_keys:])
    return keys, None if attention.query is None else attention


def _backend(name: str, like: Tensor) -> Backend:
    return cast(Backend, load_backend(resolve_backend(name, like.device, like.dtype)))


def _define(name: str, schema: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> Callable[..., Any]:
    """Define and return ``torch.ops.dexar_fast.<name>``."""
    qualified = f"dexar_fast::{name}"

    def alone(*arguments: Any) -> Any:
        # The ops have no derivative, and their sums are float32 whatever the caller's autocast says.
        device = next(argument.device.type for argument in arguments if isinstance(argument, Tensor))
        with torch.no_grad(), torch.autocast(device, enabled=False):
            return kernel(*arguments)

    torch.library.define(qualified, schema)
    torch.library.impl(qualified, "default", alone)
    torch.library.register_fake(qualified, fake)
    return cast(Callable[..., Any], getattr(torch.ops.dexar_fast, name).default)


def _as_tensors(scores: HeadScores) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    lse = scores.image.new_empty(0) if scores.lse is None else scores.lse
    return scores.image, scores.text, scores.image_min, lse


def _head_scores(d_out: Tensor, value: Tensor, signal: str, backend: str, *packed: Any) -> tuple[Tensor, ...]:
    keys, attention = _unpack(*packed)
    return _as_tensors(_backend(backend, d_out).head_scores(d_out, value, keys, signal, attention))


def _fake_head_scores(d_out: Tensor, value: Tensor, signal: str, backend: str, *packed: Any) -> tuple[Tensor, ...]:
    _, attention = _unpack(*packed)
    shape, dtype = d_out.shape[:2], accumulator(d_out)
    scores = [d_out.new_empty(shape, dtype=dtype) for _ in range(3)]
    return *scores, d_out.new_empty(0 if attention is None else shape, dtype=dtype)


head_scores = _define(
    "head_scores",
    f"(Tensor d_out, Tensor value, str signal, str backend, {_KEYS}, {_ATTENTION}) -> (Tensor, Tensor, Tensor, Tensor)",
    _head_scores,
    _fake_head_scores,
)


def _accumulate_maps(
    d_out: Tensor,
    value: Tensor,
    weights: Tensor,
    maps: Tensor,
    unfiltered: Tensor | None,
    signal: str,
    backend: str,
    *packed: Any,
) -> None:
    keys, attention = _unpack(*packed)
    _backend(backend, d_out).accumulate_maps(d_out, value, weights, keys, signal, attention, maps, unfiltered)


accumulate_maps = _define(
    "accumulate_maps",
    "(Tensor d_out, Tensor value, Tensor weights, Tensor(a!) maps, Tensor(b!)? unfiltered, str signal, str backend, "
    f"{_KEYS}, {_ATTENTION}) -> ()",
    _accumulate_maps,
    lambda *_: None,
)


def _score_and_accumulate(
    d_out: Tensor,
    value: Tensor,
    maps: Tensor,
    unfiltered: Tensor | None,
    score_signal: str,
    map_signal: str,
    backend: str,
    *packed: Any,
) -> tuple[Tensor, ...]:
    keys, attention = _unpack(*packed)
    return _as_tensors(
        _backend(backend, d_out).score_and_accumulate(
            d_out, value, keys, score_signal, map_signal, attention, maps, unfiltered
        )
    )


def _fake_score_and_accumulate(
    d_out: Tensor,
    value: Tensor,
    maps: Tensor,
    unfiltered: Tensor | None,
    score_signal: str,
    map_signal: str,
    backend: str,
    *packed: Any,
) -> tuple[Tensor, ...]:
    return _fake_head_scores(d_out, value, score_signal, backend, *packed)


score_and_accumulate = _define(
    "score_and_accumulate",
    "(Tensor d_out, Tensor value, Tensor(a!) maps, Tensor(b!)? unfiltered, str score_signal, str map_signal, "
    f"str backend, {_KEYS}, {_ATTENTION}) -> (Tensor, Tensor, Tensor, Tensor)",
    _score_and_accumulate,
    _fake_score_and_accumulate,
)


def _attention_lse(backend: str, *packed: Any) -> Tensor:
    keys, attention = _unpack(*packed)
    assert attention is not None
    return _backend(backend, attention.query).attention_lse(attention, keys)


def _fake_attention_lse(backend: str, *packed: Any) -> Tensor:
    _, attention = _unpack(*packed)
    assert attention is not None
    return attention.query.new_empty(attention.query.shape[:2], dtype=accumulator(attention.query))


attention_lse = _define(
    "attention_lse", f"(str backend, {_KEYS}, {_ATTENTION}) -> Tensor", _attention_lse, _fake_attention_lse
)


def _attention_columns(backend: str, *packed: Any) -> Tensor:
    keys, attention = _unpack(*packed)
    assert attention is not None
    return _backend(backend, attention.query).attention_columns(attention, keys)


def _fake_attention_columns(backend: str, *packed: Any) -> Tensor:
    keys, attention = _unpack(*packed)
    assert attention is not None
    query = attention.query
    return query.new_empty((*query.shape[:2], keys.image.shape[1]), dtype=accumulator(query))


attention_columns = _define(
    "attention_columns",
    f"(str backend, {_KEYS}, {_ATTENTION}) -> Tensor",
    _attention_columns,
    _fake_attention_columns,
)
