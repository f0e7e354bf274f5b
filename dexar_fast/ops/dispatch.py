"""One signature per op, one place where a backend is chosen. Inputs are checked here, once, for all backends."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ..errors import InputError
from . import reference
from .keys import KeySets
from .reference import HeadScores


class Backend(Protocol):
    """What an implementation provides; `reference` is the definition."""

    def head_scores(self, d_out: Tensor, value: Tensor, keys: KeySets) -> HeadScores: ...

    def accumulate_maps(
        self,
        d_out: Tensor,
        value: Tensor,
        weights: Tensor,
        keys: KeySets,
        maps: Tensor,
        unfiltered: Tensor | None,
    ) -> None: ...

    def attention_columns(self, query: Tensor, key: Tensor, keys: KeySets, scale: float) -> Tensor: ...


_BACKENDS: dict[str, Backend] = {"reference": reference}


def available_backends() -> list[str]:
    """Names that ``backend=`` takes on this machine, besides "auto"."""
    return list(_BACKENDS)


def resolve_backend(backend: str) -> str:
    """The backend that ``"auto"`` or an explicit name stands for.

    Raises:
        InputError: the name is unknown. An explicit request never falls back to another backend.
    """
    if backend == "auto":
        return "reference"
    if backend not in _BACKENDS:
        names = ", ".join(["auto", *_BACKENDS])
        raise InputError(f"backend: expected one of {names}; got {backend!r}")
    return backend


def head_scores(d_out: Tensor, value: Tensor, keys: KeySets, *, backend: str = "auto") -> HeadScores:
    """Largest relu-gradient of the attention probabilities on image keys and on text keys (Eq. 4).

    ``G[t, i, j] = < d_out[t, i], value[i // (H / H_kv), j] >`` is the exact gradient of row t's logit with respect to
    the attention probability of head i on key j. It is never stored as a whole.

    Args:
        d_out: ``(T, H, D)`` float16, bfloat16, float32 or float64; any strides. Gradient of the row's score with
            respect to the attention output.
        value: ``(H_kv, K, D)``, same dtype and device; ``H`` is a multiple of ``H_kv``.
        keys: image and text keys and what each row sees.
        backend: "auto", or a name of `available_backends`.

    Returns:
        `HeadScores`: three ``(T, H)`` tensors, float32 (float64 for float64 inputs). NaN in the inputs gives NaN.

    Raises:
        InputError: shapes, dtypes or the backend do not fit.
    """
    _check(d_out, value, keys, ("d_out", "value"))
    return _BACKENDS[resolve_backend(backend)].head_scores(d_out, value, keys)


def accumulate_maps(
    d_out: Tensor,
    value: Tensor,
    weights: Tensor,
    keys: KeySets,
    maps: Tensor,
    *,
    unfiltered: Tensor | None = None,
    backend: str = "auto",
) -> None:
    """Add ``sum_i weights[t, i] * relu(G[t, i, j])`` of one layer to ``maps`` on the image keys (Eq. 5), in place.

    Args:
        d_out, value, keys, backend: as for `head_scores`.
        weights: ``(T, H)`` head weights ``w``.
        maps: ``(T, N)``, float32 (float64 for float64 inputs). Keys that a row does not see get nothing.
        unfiltered: ``(T, N)`` or None; the same sum with every weight 1 is added to it, at no further product.

    Raises:
        InputError: shapes, dtypes or the backend do not fit.
    """
    _check(d_out, value, keys, ("d_out", "value"))
    T, H, _ = d_out.shape
    _expect_shape("weights", weights, (T, H))
    for name, out in (("maps", maps), ("unfiltered", unfiltered)):
        if out is not None:
            _expect_shape(name, out, (T, len(keys.image)))
            if out.dtype != reference.accumulator(d_out):
                raise InputError(f"{name}: expected dtype {reference.accumulator(d_out)}; got {out.dtype}")
    _BACKENDS[resolve_backend(backend)].accumulate_maps(d_out, value, weights, keys, maps, unfiltered)


def attention_columns(query: Tensor, key: Tensor, keys: KeySets, *, scale: float, backend: str = "auto") -> Tensor:
    """Softmax attention probabilities of the image keys alone, ``P[t, i, j] = exp(scale * <q, k_j> - lse)``.

    ``lse`` is the log-sum-exp over all keys that the row sees, computed in blocks of rows.

    Args:
        query: ``(T, H, D)``, with any rotary embedding applied.
        key: ``(H_kv, K, D)``, same dtype and device.
        keys: image keys and what each row sees; the text set is not used.
        scale: factor on the logits, often ``D ** -0.5``.
        backend: "auto", or a name of `available_backends`.

    Returns:
        ``(T, H, N)`` float32 (float64 for float64 inputs) in [0, 1]; zero on keys that a row does not see.

    Raises:
        InputError: shapes, dtypes or the backend do not fit.
    """
    _check(query, key, keys, ("query", "key"))
    return _BACKENDS[resolve_backend(backend)].attention_columns(query, key, keys, scale)


def _check(per_query: Tensor, per_key: Tensor, keys: KeySets, names: tuple[str, str]) -> None:
    query_name, key_name = names
    if per_query.ndim != 3 or not per_query.is_floating_point():
        raise InputError(
            f"{query_name}: expected floating point (T, H, D); got {per_query.dtype} {tuple(per_query.shape)}"
        )
    T, H, D = per_query.shape
    if per_key.ndim != 3 or per_key.shape[2] != D or per_key.shape[0] < 1 or H % per_key.shape[0]:
        raise InputError(
            f"{key_name}: expected (H_kv, K, {D}) with H_kv a divisor of H = {H}; got {tuple(per_key.shape)}"
        )
    if (per_key.dtype, per_key.device) != (per_query.dtype, per_query.device):
        raise InputError(
            f"{key_name}: expected {per_query.dtype} on {per_query.device} like {query_name}; "
            f"got {per_key.dtype} on {per_key.device}"
        )
    _expect_shape("keys.text", keys.text, (per_key.shape[1],))
    _expect_shape("keys.visible", keys.visible, (T, 2))
    if keys.image.ndim != 1:
        raise InputError(f"keys.image: expected (N,); got {tuple(keys.image.shape)}")


def _expect_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise InputError(f"{name}: expected shape {shape}; got {tuple(tensor.shape)}")
