"""Which decoder layers are summed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import SupportsIndex

from ..errors import InputError

LayerSelection = SupportsIndex | tuple[int, int] | Sequence[int] | None


def select_layers(
    layers: LayerSelection, n_layers: int, with_attention: Collection[int] | None = None
) -> tuple[int, ...]:
    """Indices of the chosen layers, ascending, from 0.

    Args:
        layers: None for all; an int for all from that layer on, negative from the end (-10: the last ten); a tuple
            ``(start, stop)`` for a half-open band; a list for exactly these.
        n_layers: L of the model.
        with_attention: layers that can be explained, None for all. A band leaves the others out; a list must not name
            them.

    Raises:
        InputError: a layer that the model does not have, an empty band, a repeated layer, something else than integers,
            a layer that cannot be explained.
    """
    chosen = _chosen(layers, n_layers)
    if with_attention is None:
        return chosen
    able = tuple(layer for layer in chosen if layer in with_attention)
    if not able or (isinstance(layers, list | range) and able != chosen):
        raise InputError(
            f"layers: {layers} names layers without an attention to the image; those with one are "
            f"{', '.join(map(str, sorted(with_attention)))}"
        )
    return able


def _chosen(layers: LayerSelection, n_layers: int) -> tuple[int, ...]:
    if layers is None:
        return tuple(range(n_layers))
    if isinstance(layers, SupportsIndex):
        return tuple(range(_depth(layers, n_layers, layers), n_layers))
    if not isinstance(layers, tuple | list | range):
        raise InputError(f"layers: expected None, an int, a (start, stop) tuple or a list; got {layers!r}")
    if isinstance(layers, tuple):
        if len(layers) != 2:
            raise InputError(f"layers: expected a band (start, stop); got {layers}. Pass a list for single layers.")
        start = _depth(layers[0], n_layers, layers)
        stop = n_layers if layers[1] == n_layers else _depth(layers[1], n_layers, layers)
        if start >= stop:
            raise InputError(f"layers: the band {layers} is empty in a model of {n_layers} layers")
        return tuple(range(start, stop))
    chosen = sorted(_depth(layer, n_layers, layers) for layer in layers)
    if not chosen or len(set(chosen)) < len(chosen):
        raise InputError(f"layers: expected at least one layer, each once; got {list(layers)}")
    return tuple(chosen)


def _depth(layer: SupportsIndex, n_layers: int, layers: LayerSelection) -> int:
    if isinstance(layer, bool) or not isinstance(layer, SupportsIndex):
        raise InputError(f"layers: expected integers; got {layers!r}")
    layer = layer.__index__()
    if not -n_layers <= layer < n_layers:
        raise InputError(
            f"layers: {layers} is out of range; the model has layers 0 to {n_layers - 1} (-{n_layers} to -1)"
        )
    return layer % n_layers
