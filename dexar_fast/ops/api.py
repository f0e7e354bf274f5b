"""The ops as people call them: arguments are checked here, once, for all backends.

Shapes: T rows, H query heads, H_kv key/value heads with ``H`` a multiple of ``H_kv``, D head width, K keys, N image
keys. B samples of a batch have ``(B, H_kv, K, D)`` keys and values, and `KeySets.rows`. Tensors may have any strides.
Dtypes are float16, bfloat16, float32 or float64; results are float32, of float64 inputs float64. The ops have no
derivative: results do not require grad.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import TypeVar

import torch
from torch import Tensor

from ..errors import InputError
from . import library
from .backends import check_backend
from .keys import KeySets, PackedKeys
from .reference import accumulator
from .signals import SIGNALS, Attention, HeadScores, MapSums

Op = TypeVar("Op", bound=Callable[..., object])


def _without_grad(op: Op) -> Op:
    """`torch.no_grad`, entered only where it changes something: entering takes as long as a small op."""
    guarded = torch.no_grad()(op)

    @wraps(op)
    def call(*arguments, **named):  # type: ignore[no-untyped-def]
        return (guarded if torch.is_grad_enabled() else op)(*arguments, **named)

    return call  # type: ignore[return-value]


@_without_grad
def head_scores(
    d_out: Tensor,
    value: Tensor,
    keys: KeySets,
    *,
    signal: str = "gradient",
    attention: Attention | None = None,
    backend: str = "auto",
) -> HeadScores:
    """Largest relu-gradient of the attention probabilities on image keys and on text keys (Eq. 4).

    ``G[t, i, j] = < d_out[t, i], value[i // (H / H_kv), j] >`` is the exact gradient of row t's logit with respect to
    the attention probability of head i on key j. It is never stored as a whole.

    Args:
        d_out: ``(T, H, D)``, gradient of the row's score with respect to the attention output.
        value: ``(H_kv, K, D)`` or ``(B, H_kv, K, D)``, same dtype and device.
        keys: image and text keys and what each row sees.
        signal: what is read off a key, one of `SIGNALS`.
        attention: what every signal but "gradient" needs besides.
        backend: "auto", or a name of `available_backends`.

    Returns:
        `HeadScores`. NaN in the inputs gives NaN.

    Raises:
        InputError: shapes, dtypes, the signal or the backend do not fit.
    """
    value, packed, attention = _check(d_out, value, keys, (signal,), attention, backend)
    scores, lse = library.head_scores(d_out, value, signal, backend, *library.pack(packed, attention))
    return _as_head_scores(scores, None if attention is None else lse)


@_without_grad
def accumulate_maps(
    d_out: Tensor,
    value: Tensor,
    weights: Tensor,
    keys: KeySets,
    maps: Tensor,
    *,
    unfiltered: Tensor | None = None,
    token_sums: Tensor | None = None,
    signal: str = "gradient",
    attention: Attention | None = None,
    backend: str = "auto",
) -> None:
    """Add ``sum_i weights[t, i] * relu(G[t, i, j])`` of one layer to ``maps`` on the image keys (Eq. 5), in place.

    Args:
        d_out, value, keys, signal, attention, backend: as for `head_scores`.
        weights: ``(T, H)`` head weights ``w``.
        maps: ``(T, N)``, float32 (float64 for float64 inputs). Keys that a row does not see get nothing.
        unfiltered: ``(T, N)`` or None; the same sum with every weight 1 is added to it, at no further product.
        token_sums: as of `MapSums`, or None.

    Raises:
        InputError: shapes, dtypes, the signal or the backend do not fit.
    """
    value, packed, attention = _check(d_out, value, keys, (signal,), attention, backend)
    _expect_shape("weights", weights, tuple(d_out.shape[:2]))
    sums = _check_sums(d_out, packed, MapSums(signal, signal, maps, unfiltered, token_sums))
    library.accumulate_maps(d_out, value, weights, *sums[2:], signal, backend, *library.pack(packed, attention))


def score_and_accumulate(
    d_out: Tensor,
    value: Tensor,
    keys: KeySets,
    maps: Tensor,
    *,
    unfiltered: Tensor | None = None,
    score_signal: str = "gradient",
    map_signal: str = "gradient",
    attention: Attention | None = None,
    backend: str = "auto",
) -> HeadScores:
    """One layer, whole: `head_scores`, the head filter ``w = relu(S_img - S_text)``, and `accumulate_maps` with it.

    A backend may do it in one pass over the gradients.

    Args:
        d_out, value, keys, attention, backend: as for `head_scores`.
        maps, unfiltered: as for `accumulate_maps`.
        score_signal, map_signal: signal of the scores and of the maps.

    Raises:
        InputError: shapes, dtypes, a signal or the backend do not fit.
    """
    sums = MapSums(score_signal, map_signal, maps, unfiltered)
    return score_and_accumulate_all(d_out, value, keys, [sums], attention=attention, backend=backend)[0]


@_without_grad
def score_and_accumulate_all(
    d_out: Tensor,
    value: Tensor,
    keys: KeySets,
    sums: Sequence[MapSums],
    *,
    attention: Attention | None = None,
    backend: str = "auto",
) -> list[HeadScores]:
    """`score_and_accumulate` for several pairs of signals: their maps come from the same products.

    Args:
        d_out, value, keys, attention, backend: as for `head_scores`.
        sums: at least one; what each pair of signals adds to. No tensor may be there twice.

    Returns:
        Of each of `sums` the scores that its weights follow from. Pairs of the same score signal share their tensors.

    Raises:
        InputError: shapes, dtypes, a signal or the backend do not fit.
    """
    if not sums:
        raise InputError("sums: expected at least one pair of signals; got none")
    signals = tuple(signal for each in sums for signal in each[:2])
    value, packed, attention = _check(d_out, value, keys, signals, attention, backend)
    sums = [_check_sums(d_out, packed, each) for each in sums]
    scores, lse = library.score_and_accumulate(
        d_out, value, *library.pack_sums(sums), backend, *library.pack(packed, attention)
    )
    order = dict.fromkeys(each.score_signal for each in sums)
    lse = None if attention is None else lse
    by_signal = {
        signal: _as_head_scores(of_signal, lse) for signal, of_signal in zip(order, scores.unbind(), strict=True)
    }
    return [by_signal[each.score_signal] for each in sums]


@_without_grad
def attention_lse(
    query: Tensor,
    key: Tensor,
    keys: KeySets,
    *,
    scale: float,
    softcap: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """Log-sum-exp of the attention logits over all keys that a row sees, ``(T, H)``; -inf where it sees none.

    Args:
        query, key, keys, scale, softcap, backend: as for `attention_columns`.

    Raises:
        InputError: shapes, dtypes or the backend do not fit.
    """
    packed, attention = _check_attention_alone(query, key, keys, scale, softcap, None, backend)
    lse: Tensor = library.attention_lse(backend, *library.pack(packed, attention))
    return lse


@_without_grad
def attention_columns(
    query: Tensor,
    key: Tensor,
    keys: KeySets,
    *,
    scale: float,
    softcap: float | None = None,
    lse: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Softmax attention probabilities of the image keys alone, ``P[t, i, j] = exp(scale * <q, k_j> - lse)``.

    Args:
        query: ``(T, H, D)``, with any rotary embedding applied.
        key: ``(H_kv, K, D)`` or ``(B, H_kv, K, D)``, same dtype and device.
        keys: image keys and what each row sees; the text set is not used.
        scale: factor on the logits, often ``D ** -0.5``.
        softcap: the logits go through ``softcap * tanh(logits / softcap)``; None for no cap.
        lse: ``(T, H)`` of `attention_lse`, if it is known already.
        backend: "auto", or a name of `available_backends`.

    Returns:
        ``(T, H, N)`` float32 (float64 for float64 inputs) in [0, 1]; zero on keys that a row does not see.

    Raises:
        InputError: shapes, dtypes or the backend do not fit.
    """
    packed, attention = _check_attention_alone(query, key, keys, scale, softcap, lse, backend)
    columns: Tensor = library.attention_columns(backend, *library.pack(packed, attention))
    return columns


def _as_head_scores(scores: Tensor, lse: Tensor | None) -> HeadScores:
    image, text, image_min = scores.unbind()
    return HeadScores(image, text, image_min, lse)


def _check(
    d_out: Tensor,
    value: Tensor,
    keys: KeySets,
    signals: tuple[str, ...],
    attention: Attention | None,
    backend: str,
) -> tuple[Tensor, PackedKeys, Attention | None]:
    check_backend(backend)
    for signal in signals:
        if signal not in SIGNALS:
            raise InputError(f"signal: expected one of {', '.join(SIGNALS)}; got {signal!r}")
    packed = keys.packed
    value = _check_product(("d_out", d_out), ("value", value), packed)
    needs_attention = [signal for signal in signals if signal != "gradient"]
    if not needs_attention:
        return value, packed, None
    if attention is None:
        raise InputError(f"attention: expected the layer's Attention for the signal {needs_attention[0]!r}; got None")
    key = _check_product(("attention.query", attention.query), ("attention.key", attention.key), packed)
    if attention.query.shape[:2] != d_out.shape[:2] or key.shape[1] != value.shape[1]:
        raise InputError(
            f"attention: expected the heads and rows of d_out {tuple(d_out.shape)} and value {tuple(value.shape)}; "
            f"got query {tuple(attention.query.shape)} and key {tuple(key.shape)}"
        )
    _expect_like("attention.query", attention.query, "d_out", d_out)
    _expect_shape("attention.out", attention.out, tuple(d_out.shape))
    _expect_like("attention.out", attention.out, "d_out", d_out)
    _check_factors(attention.scale, attention.softcap)
    _check_lse(attention.query, attention.lse)
    return value, packed, attention._replace(key=key)


def _check_attention_alone(
    query: Tensor,
    key: Tensor,
    keys: KeySets,
    scale: float,
    softcap: float | None,
    lse: Tensor | None,
    backend: str,
) -> tuple[PackedKeys, Attention]:
    check_backend(backend)
    packed = keys.packed
    key = _check_product(("query", query), ("key", key), packed)
    _check_factors(scale, softcap)
    _check_lse(query, lse)
    return packed, Attention(query, key, query, scale, softcap, lse)


def _check_product(per_query: tuple[str, Tensor], per_key: tuple[str, Tensor], keys: PackedKeys) -> Tensor:
    """The per-key tensor as ``(B, H_kv, K, D)``."""
    (query_name, query), (key_name, key) = per_query, per_key
    rows, shape = query.shape, key.shape
    if len(rows) != 3 or not query.is_floating_point() or rows[2] < 1:
        raise InputError(
            f"{query_name}: expected floating point (T, H, D) with D above 0; got {query.dtype} {tuple(rows)}"
        )
    T, H, D = rows
    key = key.unsqueeze(0) if len(shape) == 3 else key
    if len(shape) not in (3, 4) or shape[-1] != D or shape[-3] < 1 or H % shape[-3]:
        raise InputError(f"{key_name}: expected (H_kv, K, {D}) with H_kv a divisor of H = {H}; got {tuple(shape)}")
    _expect_like(key_name, key, query_name, query)
    if keys.kinds.device != query.device:
        raise InputError(
            f"keys: expected them on {query.device} like {query_name}; got {keys.kinds.device}. Use keys.to(device)."
        )
    B, K = key.shape[0], shape[-2]
    if keys.image.shape[0] != B:
        raise InputError(f"keys.image: expected ({B}, N), a row a sample, or (N,); got {tuple(keys.image.shape)}")
    _expect_shape("keys.text", keys.kinds, (B, K))
    _expect_shape("keys.visible", keys.visible, (T, 2))
    if len(keys.rows) != B or sum(keys.rows) != T or any(count < 0 for count in keys.rows):
        raise InputError(f"keys.rows: expected {B} counts that sum to T = {T}; got {tuple(keys.rows)}")
    return key


def _check_sums(d_out: Tensor, keys: PackedKeys, sums: MapSums) -> MapSums:
    """The same with token sums ``(B, H, N)``."""
    (T, H, _), (B, N) = d_out.shape, keys.image.shape
    token_sums = sums.token_sums
    if token_sums is not None:
        _expect_shape("token_sums", token_sums, (H, N) if B == 1 and token_sums.ndim == 2 else (B, H, N))
        sums = sums._replace(token_sums=token_sums if token_sums.ndim == 3 else token_sums[None])
    for name in ("maps", "unfiltered"):
        if getattr(sums, name) is not None:
            _expect_shape(name, getattr(sums, name), (T, N))
    for name, tensor in zip(MapSums._fields[2:], sums[2:], strict=True):
        if tensor is not None and (tensor.dtype, tensor.device) != (accumulator(d_out), d_out.device):
            raise InputError(
                f"{name}: expected dtype {accumulator(d_out)} on {d_out.device}; got {tensor.dtype} on {tensor.device}"
            )
    return sums


def _check_factors(scale: float | None, softcap: float | None) -> None:
    if scale is None:
        raise InputError("scale: expected the factor on the logits, often D ** -0.5; got None")
    if softcap is not None and not softcap > 0:
        raise InputError(f"softcap: expected a number above 0, or None for no cap; got {softcap}")


def _check_lse(query: Tensor, lse: Tensor | None) -> None:
    if lse is not None:
        _expect_shape("lse", lse, tuple(query.shape[:2]))


def _expect_like(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    if tensor.dtype != other.dtype or tensor.device != other.device:
        raise InputError(
            f"{name}: expected {other.dtype} on {other.device} like {other_name}; got {tensor.dtype} on {tensor.device}"
        )


def _expect_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise InputError(f"{name}: expected shape {shape}; got {tuple(tensor.shape)}")
