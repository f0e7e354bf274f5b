"""The ops on NVIDIA GPUs, with Triton; on CPU tensors in its interpreter. `reference` is the definition of each."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .keys import PackedKeys
from .signals import Attention, MapSums

try:
    import triton  # noqa: F401
except ImportError as error:
    raise ImportError("the package triton is not installed: pip install dexar-fast[triton]") from error

from ..kernels import columns, few, maps, row_dots
from ..kernels import head_scores as scores
from ..kernels.launch import Launch, Operands


def head_scores(
    d_out: Tensor, value: Tensor, keys: PackedKeys, signal: str, attention: Attention | None
) -> tuple[Tensor, Tensor | None]:
    """Eq. 4: see `dexar_fast.ops.head_scores`."""
    launches, found = scores.head_scores(operands_of(keys, (signal,), attention, d_out, value), (signal,))
    _run(launches)
    return found.scores[0], found.lse


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
    lse = None
    if attention is not None:
        lse = attention_lse(attention, keys) if attention.lse is None else attention.lse
    operands = operands_of(keys, (signal,), attention, d_out, value)
    _accumulate_maps(operands, [MapSums(signal, signal, maps, unfiltered, token_sums)], [signal], weights[None], lse)


def score_and_accumulate(
    d_out: Tensor, value: Tensor, keys: PackedKeys, attention: Attention | None, sums: Sequence[MapSums]
) -> tuple[Tensor, Tensor | None]:
    """Eq. 4, ``w = relu(S_img - S_text)``, Eq. 5: see `dexar_fast.ops.score_and_accumulate_all`."""
    signals = list(dict.fromkeys(each.score_signal for each in sums))
    of_maps = [each.map_signal for each in sums]
    # The log-sum-exp comes from the scores, so query and key are there if any signal reads P.
    operands = operands_of(keys, (*signals, *of_maps), attention, d_out, value)
    outs = outs_of(sums, signals)
    if few.has_few_rows(operands, outs) and all(each.token_sums is None for each in sums):
        launches, found = few.score_and_accumulate(operands, tuple(signals), outs)
        _run(launches)
        return found.scores, found.lse
    launches, found = scores.head_scores(operands, tuple(signals))
    _run(launches)
    _accumulate_maps(operands, sums, signals, found.weights, found.lse)
    return found.scores, found.lse


def attention_lse(attention: Attention, keys: PackedKeys) -> Tensor:
    """Log-sum-exp of the logits of all visible keys ``(T, H)``: see `dexar_fast.ops.attention_lse`."""
    launches, found = scores.head_scores(operands_of(keys, (), attention), ())
    _run(launches)
    assert found.lse is not None
    return found.lse


def attention_columns(attention: Attention, keys: PackedKeys) -> Tensor:
    """Softmax probabilities of the image keys: see `dexar_fast.ops.attention_columns`."""
    lse = attention_lse(attention, keys) if attention.lse is None else attention.lse
    launch, out = columns.attention_columns(operands_of(keys, (), attention), lse)
    launch.run()
    return out


def _accumulate_maps(
    operands: Operands, sums: Sequence[MapSums], score_signals: Sequence[str], weights: Tensor, lse: Tensor | None
) -> None:
    """Eq. 5 of all in one launch, with weights ``(score signals, T, H)``."""
    launches, partials = maps.accumulate_maps(
        operands,
        outs_of(sums, score_signals),
        weights,
        lse,
        [(each.map_signal, each.token_sums) for each in sums if each.token_sums is not None],
    )
    _run(launches)
    for each in partials:
        each.add()


def outs_of(sums: Sequence[MapSums], score_signals: Sequence[str]) -> list[maps.Out]:
    """Weighted maps and those with every weight 1."""
    outs = [maps.Out(each.map_signal, score_signals.index(each.score_signal), each.maps) for each in sums]
    return outs + [maps.Out(each.map_signal, -1, each.unfiltered) for each in sums if each.unfiltered is not None]


def operands_of(
    keys: PackedKeys,
    signals: tuple[str, ...],
    attention: Attention | None,
    d_out: Tensor | None = None,
    value: Tensor | None = None,
) -> Operands:
    """What the launchers take, with ``D = <dO, o>`` where one of the signals needs it."""
    if {*signals} == {"attention"}:
        d_out = value = None
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
