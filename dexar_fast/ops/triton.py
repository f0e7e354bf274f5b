"""The ops on NVIDIA GPUs, with Triton; on CPU tensors in its interpreter. `reference` is the definition of each."""

from __future__ import annotations

from torch import Tensor

from .keys import PackedKeys
from .signals import Attention, HeadScores

try:
    import triton  # noqa: F401
except ImportError as error:
    raise ImportError("the package triton is not installed: pip install dexar-fast[triton]") from error

from ..kernels import columns, maps, row_dots
from ..kernels import head_scores as scores
from ..kernels.launch import Launch, Operands


def head_scores(d_out: Tensor, value: Tensor, keys: PackedKeys, signal: str, attention: Attention | None) -> HeadScores:
    """Eq. 4: see `dexar_fast.ops.head_scores`."""
    return _head_scores(operands_of(keys, (signal,), attention, d_out, value), signal)[0]


def accumulate_maps(
    d_out: Tensor,
    value: Tensor,
    weights: Tensor,
    keys: PackedKeys,
    signal: str,
    attention: Attention | None,
    maps: Tensor,
    unfiltered: Tensor | None,
) -> None:
    """Eq. 5, one layer's share, added in place: see `dexar_fast.ops.accumulate_maps`."""
    lse = None
    if attention is not None:
        lse = attention_lse(attention, keys) if attention.lse is None else attention.lse
    _accumulate_maps(operands_of(keys, (signal,), attention, d_out, value), signal, weights, lse, maps, unfiltered)


def score_and_accumulate(
    d_out: Tensor,
    value: Tensor,
    keys: PackedKeys,
    score_signal: str,
    map_signal: str,
    attention: Attention | None,
    maps: Tensor,
    unfiltered: Tensor | None,
) -> HeadScores:
    """Eq. 4, ``w = relu(S_img - S_text)``, Eq. 5: see `dexar_fast.ops.score_and_accumulate`."""
    operands = operands_of(keys, (score_signal, map_signal), attention, d_out, value)
    of_heads, weights = _head_scores(operands, score_signal)
    _accumulate_maps(operands, map_signal, weights, of_heads.lse, maps, unfiltered)
    return of_heads


def attention_lse(attention: Attention, keys: PackedKeys) -> Tensor:
    """Log-sum-exp of the logits of all visible keys ``(T, H)``: see `dexar_fast.ops.attention_lse`."""
    launches, out = scores.head_scores(operands_of(keys, (), attention), "none")
    _run(launches)
    return out["lse"]


def attention_columns(attention: Attention, keys: PackedKeys) -> Tensor:
    """Softmax probabilities of the image keys: see `dexar_fast.ops.attention_columns`."""
    lse = attention_lse(attention, keys) if attention.lse is None else attention.lse
    launch, out = columns.attention_columns(operands_of(keys, (), attention), lse)
    launch.run()
    return out


def _head_scores(operands: Operands, signal: str) -> tuple[HeadScores, Tensor]:
    """The scores, and the head filter ``w``."""
    launches, out = scores.head_scores(operands, signal)
    _run(launches)
    return HeadScores(out["image"], out["text"], out["image_min"], out.get("lse")), out["weight"]


def _accumulate_maps(
    operands: Operands, signal: str, weights: Tensor, lse: Tensor | None, out: Tensor, unfiltered: Tensor | None
) -> None:
    launches, partials = maps.accumulate_maps(operands, signal, weights, lse, out, unfiltered)
    _run(launches)
    for total, partial in partials:
        total += partial.sum(dim=0)


def operands_of(
    keys: PackedKeys,
    signals: tuple[str, ...],
    attention: Attention | None,
    d_out: Tensor | None = None,
    value: Tensor | None = None,
) -> Operands:
    """What the launchers take, with ``D = <dO, o>`` where one of the signals needs it."""
    row_dot = None
    if "score_gradient" in signals:
        assert attention is not None
        assert d_out is not None
        launch, row_dot = row_dots.row_dots(d_out, attention.out)
        launch.run()
    return Operands(
        keys.kinds,
        keys.image,
        keys.visible,
        tuple(keys.rows),
        keys.image_start,
        d_out,
        value,
        None if attention is None else attention.query,
        None if attention is None else attention.key,
        row_dot,
        1.0 if attention is None else attention.scale,
        None if attention is None else attention.softcap,
    )


def _run(launches: list[Launch]) -> None:
    for launch in launches:
        launch.run()
