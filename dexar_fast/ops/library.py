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
from .signals import SIGNALS, Attention, MapSums

_KEYS = "Tensor image, Tensor kinds, Tensor visible, SymInt[] rows, SymInt image_start"
# With defaults, since every argument that is given takes its time.
_ATTENTION = (
    "Tensor? query=None, Tensor? key=None, Tensor? out=None, float? scale=None, float? softcap=None, Tensor? lse=None"
)


def pack(keys: PackedKeys, attention: Attention | None) -> tuple[Any, ...]:
    """Arguments ``_KEYS`` and ``_ATTENTION``."""
    return (*keys, *(attention or ()))


def _unpack(*arguments: Any) -> tuple[PackedKeys, Attention | None]:
    """The inverse of `pack`; the last arguments may be missing, or be those that are taken where none is given."""
    n_keys = len(PackedKeys._fields)
    keys, of_attention = PackedKeys(*arguments[:n_keys]), arguments[n_keys:]
    return keys, Attention(*of_attention) if of_attention and of_attention[0] is not None else None


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


def pack_sums(sums: Sequence[MapSums]) -> tuple[list[int], list[Tensor]]:
    """Of each four numbers (its two of `SIGNALS`, and whether its optional tensors are there); and all tensors."""
    numbers: list[int] = []
    tensors: list[Tensor] = []
    for score_signal, map_signal, maps, *optional in sums:
        numbers += SIGNALS.index(score_signal), SIGNALS.index(map_signal), *(each is not None for each in optional)
        tensors += maps, *(each for each in optional if each is not None)
    return numbers, tensors


def _unpack_sums(numbers: list[int], tensors: list[Tensor]) -> list[MapSums]:
    """The inverse of `pack_sums`."""
    given, of = iter(tensors), iter(numbers)
    return [
        MapSums(
            SIGNALS[of_scores],
            SIGNALS[of_maps],
            next(given),
            next(given) if has_unfiltered else None,
            next(given) if has_token_sums else None,
        )
        for of_scores, of_maps, has_unfiltered, has_token_sums in zip(of, of, of, of, strict=True)
    ]


def _score_and_accumulate(
    d_out: Tensor, value: Tensor, sums: list[int], tensors: list[Tensor], backend: str, *packed: Any
) -> tuple[Tensor, Tensor]:
    keys, attention = _unpack(*packed)
    found = _backend(backend, d_out).score_and_accumulate(d_out, value, keys, attention, _unpack_sums(sums, tensors))
    return _as_tensors(*found)


def _fake_score_and_accumulate(
    d_out: Tensor, value: Tensor, sums: list[int], tensors: list[Tensor], backend: str, *packed: Any
) -> tuple[Tensor, Tensor]:
    return _fake_scores(d_out, _unpack(*packed)[1], len({each.score_signal for each in _unpack_sums(sums, tensors)}))


score_and_accumulate = _define(
    "score_and_accumulate",
    f"(Tensor d_out, Tensor value, int[] sums, Tensor(a!)[] tensors, str backend, {_KEYS}, {_ATTENTION}) "
    "-> (Tensor, Tensor)",
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
