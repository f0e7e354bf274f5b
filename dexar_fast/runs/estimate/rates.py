"""Operations a second on this machine, measured when they are asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count
from transformers.pytorch_utils import Conv1D

from ...inputs.methods import METHODS, Method
from ...models.decoder import Decoder
from ...models.state import main_device
from ...ops import Attention, KeySets, MapSums, accumulator, causal_rows, score_and_accumulate_all
from .result import StageEstimate
from .sizes import Shape, products_of, weights_of, width_in

_MEASURING = 0.1  # seconds that one measurement may take
_FEW, _MANY = 16, 512  # rows
_STREAMED = 1 << 28  # bytes: more than caches hold


class Counter(TorchDispatchMode):
    """Operations that run inside, by the formulas of torch's `FlopCounterMode`, which itself trips over some models.

    Attributes:
        operations: counted so far; a C++ or Triton kernel of this package is none that torch knows.
    """

    operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.operations += formula(*args, **(kwargs or {}), out_val=out)
        elif "scaled_dot_product" in str(func._overloadpacket):  # of a CPU
            self.operations += sdpa_flop_count(*(each.shape for each in args[:3]))
        return out


class Rates:
    """Operations a second of the layers' own products, measured when they are asked for."""

    def __init__(self, decoder: Decoder) -> None:
        self.device, self.dtype = main_device(decoder.model), decoder.model.dtype
        self.products = _products(decoder, self.device)
        self._measured: dict[int, float] = {}

    def stage(self, name: str, operations: int, rows: int, streamed: int) -> StageEstimate:
        """A stage of so many rows at once, which reads so many weights from memory."""
        few = streamed * self.per_weight(1)
        many = operations * self.per_weight(_MANY) / (2 * _MANY)
        rows = min(rows, _MANY)
        seconds = operations * self.per_weight(rows) / (2 * rows)
        return StageEstimate(name, operations, seconds, "weights" if few > many else "operations")

    def per_weight(self, rows: int) -> float:
        """Seconds that so many rows take for each weight that they are multiplied with."""
        if rows not in self._measured:
            self._measured[rows] = self._measure(rows)
        return self._measured[rows]

    def _measure(self, rows: int) -> float:
        """Product after product, for `_MEASURING` seconds; on a GPU, which is only asked in the end, all of them."""
        inputs = {
            width: torch.randn(rows, width, device=self.device, dtype=self.dtype)
            for width in map(width_in, self.products)
        }
        of_each = [(product.forward, inputs[width_in(product)], weights_of(product)) for product in self.products]
        forward, x, _ = of_each[0]
        forward(x[:_FEW])  # warms up
        _wait(self.device)
        begin, weights, elapsed = time.perf_counter(), 0, 0.0
        while elapsed < _MEASURING:
            for forward, x, size in of_each:
                forward(x)  # past hooks, which are the user's
                weights += size
                elapsed = time.perf_counter() - begin
                if self.device.type == "cpu" and elapsed >= _MEASURING:
                    break
            _wait(self.device)
            elapsed = time.perf_counter() - begin
        return elapsed / weights


def _products(decoder: Decoder, device: torch.device) -> list[nn.Module]:
    """Modules of the first layers, more than caches hold: those that are but a product with a matrix."""
    chosen: list[nn.Module] = []
    size = 0
    for layer in decoder.layers:
        for module in layer.modules():
            if isinstance(module, nn.Linear | Conv1D) and module.weight.device in (device, torch.device("meta")):
                chosen.append(module)
                size += module.weight.numel() * module.weight.element_size()
        if size > _STREAMED:
            break
    return chosen


def seconds_of_ops(decoder: Decoder, backend: str, shape: Shape, chunk: int, methods: Sequence[str]) -> float:
    """What scores and maps of all layers take, from those of one layer, method by method."""
    return sum(
        shape.ops(chunk, [name]) / _rate_of_ops(decoder, backend, shape, chunk, METHODS[name]) for name in methods
    )


def _rate_of_ops(decoder: Decoder, backend: str, shape: Shape, chunk: int, method: Method) -> float:
    """Operations a second."""
    device, dtype = main_device(decoder.model), decoder.model.dtype
    layer, H = shape.explained[0], shape.heads
    D = layer.explained_width // H
    K, N = shape.crossed or shape.sequence, shape.N
    value = torch.randn(max(1, layer.kv_width // D), K, D, device=device, dtype=dtype)
    image = torch.arange(N, device=device)
    key = torch.randn_like(value)
    text = torch.arange(K, device=device) >= (N if method.filters_heads else K)

    def seconds(rows: int) -> float:
        d_out, query, out = torch.randn(3, rows, H, D, device=device, dtype=dtype)
        attention = None if method.score_signal == "gradient" else Attention(query, key, out, D**-0.5)
        keys = KeySets(image, text, causal_rows(torch.arange(K - rows, K, device=device).clamp(min=0)))
        sums = [MapSums(*pair, d_out.new_zeros(rows, N, dtype=accumulator(d_out))) for pair in method.pairs]
        return seconds_of(
            lambda: score_and_accumulate_all(d_out, value, keys, sums, attention=attention, backend=backend), device
        )

    rows = _affordable(chunk, seconds)
    return 2 * H * rows * (D * products_of(method, K, N) + N * len(method.pairs)) / seconds(rows)


def _affordable(rows: int, seconds: Callable[[int], float]) -> int:
    """As many of the rows as can be measured in `_MEASURING` seconds."""
    if rows <= _FEW:
        return rows
    return max(_FEW, min(rows, _MANY, int(_FEW * _MEASURING / seconds(_FEW))))


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """Of one call, from as many as `_MEASURING` seconds hold; the first one warms up."""
    run()
    _wait(device)
    begin, n, elapsed = time.perf_counter(), 0, 0.0
    while elapsed < _MEASURING:
        run()
        _wait(device)
        elapsed, n = time.perf_counter() - begin, n + 1
    return elapsed / n


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
