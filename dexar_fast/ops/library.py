"""The ops as ``torch.ops.dexar_fast.*``: what keeps torch.compile, torch.export and meta tensors working.

A registered op takes tensors and numbers only; `api` packs key sets and attention into them, here they are unpacked for
the backend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from .backends import Backend, load_backend, resolve_backend
from .keys import PackedKeys
from .reference import accumulator
from .signals import Attention, MapSums

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
        if not torch.is_grad_enabled() and not torch.is_autocast_enabled(device):
            return kernel(*arguments)
        with torch.no_grad(), torch.autocast(device, enabled=False):
            return kernel(*arguments)

    torch.library.define(qualified, schema)
    torch.library.impl(qualified, "default", alone)
    torch.library.register_fake(qualified, fake)
    return cast(Callable[..., Any], getattr(torch.ops.dexar_fast, name).default)


def _as_tensors(scores: Tensor, lse: Tensor | None) -> tuple[Tensor, Tensor]:
    """Without the log-sum-exp an empty tensor."""
    return scores, scores.new_empty(0) if lse is None else lse


def _fake_scores(d_out: Tensor, attention: Attention | None, *signals: int) -> tuple[Tensor, Tensor]:
    shape, dtype = d_out.shape[:2], accumulator(d_out)
    scores = d_out.new_empty((*signals, 3, *shape), dtype=dtype)
    return scores, d_out.new_empty(0 if attention is None else shape, dtype=dtype)


def _head_scores(d_out: Tensor, value: Tensor, signal: str, backend: str, *packed: Any) -> tuple[Tensor, Tensor]:
    keys, attention = _unpack(*packed)
    return _as_tensors(*_backend(backend, d_out).head_scores(d_out, value, keys, signal, attention))


def _fake_head_scores(d_out: Tensor, value: Tensor, signal: str, backend: str, *packed: Any) -> tuple[Tensor, Tensor]:
    return _fake_scores(d_out, _unpack(*packed)[1])


head_scores = _define(
    "head_scores",
    f"(Tensor d_out, Tensor value, str signal, str backend, {_KEYS}, {_ATTENTION}) -> (Tensor, Tensor)",
    _head_scores,
    _fake_head_scores,
)


def _accumulate_maps(
    d_out: Tensor,
    value: Tensor,
    weights: Tensor,
    maps: Tensor,
    unfiltered: Tensor | None,
    token_sums: Tensor | None,
    signal: str,
    backend: str,
    *packed: Any,
) -> None:
    keys, attention = _unpack(*packed)
    _backend(backend, d_out).accumulate_maps(
        d_out, value, weights, keys, signal, attention, maps, unfiltered, token_sums
    )


accumulate_maps = _define(
    "accumulate_maps",
    "(Tensor d_out, Tensor value, Tensor weights, Tensor(a!) maps, Tensor(b!)? unfiltered, "
    f"Tensor(c!)? token_sums, str signal, str backend, {_KEYS}, {_ATTENTION}) -> ()",
    _accumulate_maps,
    lambda *_: None,
)


def pack_sums(sums: Sequence[MapSums]) -> tuple[list[str], list[str], list[Tensor], list[bool]]:
    """Their signals, and their tensors in one list: three of each, with None left out."""
    tensors = [tensor for each in sums for tensor in each[2:]]
    return (
        [each.score_signal for each in sums],
        [each.map_signal for each in sums],
        [tensor for tensor in tensors if tensor is not None],
        [tensor is not None for tensor in tensors],
    )


def _unpack_sums(
    score_signals: list[str], map_signals: list[str], tensors: list[Tensor], present: list[bool]
) -> list[MapSums]:
    """The inverse of `pack_sums`."""
    given = iter(tensors)
    slots = [next(given) if is_there else None for is_there in present]
    return [
        MapSums(of_scores, of_maps, cast(Tensor, slots[3 * i]), *slots[3 * i + 1 : 3 * i + 3])
        for i, (of_scores, of_maps) in enumerate(zip(score_signals, map_signals, strict=True))
    ]


def _score_and_accumulate(
    d_out: Tensor,
    value: Tensor,
    score_signals: list[str],
    map_signals: list[str],
    tensors: list[Tensor],
    present: list[bool],
    backend: str,
    *packed: Any,
) -> tuple[Tensor, Tensor]:
    keys, attention = _unpack(*packed)
    sums = _unpack_sums(score_signals, map_signals, tensors, present)
    return _as_tensors(*_backend(backend, d_out).score_and_accumulate(d_out, value, keys, attention, sums))


def _fake_score_and_accumulate(
    d_out: Tensor,
    value: Tensor,
    score_signals: list[str],
    map_signals: list[str],
    tensors: list[Tensor],
    present: list[bool],
    backend: str,
    *packed: Any,
) -> tuple[Tensor, Tensor]:
    return _fake_scores(d_out, _unpack(*packed)[1], len(set(score_signals)))


score_and_accumulate = _define(
    "score_and_accumulate",
    "(Tensor d_out, Tensor value, str[] score_signals, str[] map_signals, Tensor(a!)[] tensors, bool[] present, "
    f"str backend, {_KEYS}, {_ATTENTION}) -> (Tensor, Tensor)",
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
