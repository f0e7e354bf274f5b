"""What is measured: ops, signals and shapes, and random inputs for them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dexar_fast.inputs.methods import METHODS
from dexar_fast.ops import Attention, KeySets, attention_lse, causal_rows

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.float16, torch.bfloat16)}
# A layer's scores and maps need not read the same: both signals of the method that reads this one off for its maps.
SIGNALS_OF_LAYER = {method.map_signal: method.pairs[0] for method in METHODS.values() if method.filters_heads}
EVERY = "every"  # all these in one call of `score_and_accumulate_all`
TEXT_BEFORE, TEXT_BEHIND = 8, 24  # prompt tokens around the image


@dataclass(frozen=True)
class Case:
    """One op on one shape. Symbols as in `dexar_fast.ops`.

    Attributes:
        op: name of an op of `dexar_fast.ops`.
        signal: what is read off a key, or `EVERY`; "" for the ops on attention alone, which read nothing off.
        model: whose shape it is.
        T, H, H_kv, D, N, K: the shape; the last T of the K keys are the rows' own.
        dtype: a key of `DTYPES`.
        compiled: whether to run the compiled definition too, which takes a while to compile.
    """

    op: str
    signal: str
    model: str
    T: int
    H: int
    H_kv: int
    D: int
    N: int
    K: int
    dtype: str
    compiled: bool = False

    @property
    def id(self) -> str:
        return "-".join(filter(None, (self.op, self.signal, self.model, f"T{self.T}", f"N{self.N}", self.dtype)))

    @property
    def image(self) -> slice:
        """Positions of the image keys."""
        return slice(TEXT_BEFORE, TEXT_BEFORE + self.N)

    @cached_property
    def signals(self) -> tuple[str, ...]:
        """All signals that the op reads: one for scores and one for maps in `score_and_accumulate`."""
        if self.signal == EVERY:
            return tuple(dict.fromkeys(signal for pair in SIGNALS_OF_LAYER.values() for signal in pair))
        return SIGNALS_OF_LAYER[self.signal] if self.op == "score_and_accumulate" else (self.signal,)

    @cached_property
    def needs_attention(self) -> bool:
        return any(signal != "gradient" for signal in self.signals)

    def facts(self) -> dict[str, Any]:
        """The case as JSON values."""
        facts = asdict(self)
        del facts["compiled"]
        return facts


class Inputs(NamedTuple):
    """Arguments of the ops.

    Attributes:
        d_out, query, out: ``(T, H, D)``; value, key: ``(H_kv, K, D)``; all in the case's dtype.
        keys: which key is what.
        hidden: ``(T, K)`` bool, the keys that a row does not see; text: ``(K,)`` bool. For plain torch.
        weights, lse: ``(T, H)`` float32; maps: ``(T, N)`` float32, which is added to, of `EVERY` ``(T, methods, N)``.
    """

    d_out: Tensor
    value: Tensor
    query: Tensor
    key: Tensor
    out: Tensor
    keys: KeySets
    hidden: Tensor
    text: Tensor
    weights: Tensor
    lse: Tensor
    maps: Tensor

    @property
    def scale(self) -> float:
        return float(self.query.shape[-1] ** -0.5)

    def attention(self, *, with_lse: bool) -> Attention:
        return Attention(self.query, self.key, self.out, self.scale, lse=self.lse if with_lse else None)

    def rows(self, rows: Tensor) -> Inputs:
        """Some of the rows, with maps of their own."""
        keys = replace(self.keys, visible=self.keys.visible[rows])
        per_row = ("d_out", "query", "out", "hidden", "weights", "lse")
        return self._replace(
            **{name: getattr(self, name)[rows] for name in per_row}, keys=keys, maps=torch.zeros_like(self.maps[rows])
        )

    def to(self, dtype: torch.dtype) -> Inputs:
        """The same numbers in another dtype; sums in that of the ops' results."""
        per_key = ("d_out", "value", "query", "key", "out")
        sums = torch.float64 if dtype == torch.float64 else torch.float32
        moved = {name: getattr(self, name).to(dtype) for name in per_key}
        return self._replace(**moved, **{name: getattr(self, name).to(sums) for name in ("weights", "lse", "maps")})


def make_inputs(case: Case, device: str) -> Inputs:
    """Random inputs; query, key and value lie as a model's projections and cache leave them."""
    generator = torch.Generator(device).manual_seed(0)
    dtype = DTYPES[case.dtype]

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device, dtype=torch.float32).to(dtype)

    T, H, H_kv, D, K = case.T, case.H, case.H_kv, case.D, case.K
    position = torch.arange(K, device=device)
    text = (position < case.image.start) | (position >= case.image.stop)
    visible = causal_rows(torch.arange(K - T, K, device=device))
    keys = KeySets(position[case.image], text, visible)
    query, key = random(H, T, D).transpose(0, 1), random(H_kv, K, D)
    return Inputs(
        d_out=random(T, H, D),
        value=random(H_kv, K, D),
        query=query,
        key=key,
        out=random(T, H, D),
        keys=keys,
        hidden=position >= visible[:, 1:],
        text=text,
        weights=random(T, H).float().abs(),
        lse=attention_lse(query, key, keys, scale=D**-0.5, backend="reference"),
        maps=torch.zeros(*((T, len(SIGNALS_OF_LAYER)) if case.signal == EVERY else (T,)), case.N, device=device),
    )


LLAVA: dict[str, Any] = {"model": "LLaVA-1.5-7B", "H": 32, "H_kv": 32, "D": 128, "N": 576}
QWEN: dict[str, Any] = {"model": "Qwen2.5-VL-7B", "H": 28, "H_kv": 4, "D": 128}
GEMMA: dict[str, Any] = {"model": "Gemma-3-4B", "H": 8, "H_kv": 4, "D": 256, "N": 256}
PALIGEMMA: dict[str, Any] = {"model": "PaliGemma-3B", "H": 8, "H_kv": 1, "D": 256, "N": 1024}
OF_GRADIENT = ("head_scores", "accumulate_maps", "score_and_accumulate")
OF_ATTENTION = ("attention_lse", "attention_columns")


def _case(op: str, signal: str = "gradient", *, T: int, dtype: str, compiled: bool = False, **shape: Any) -> Case:
    shape.setdefault("K", TEXT_BEFORE + shape["N"] + TEXT_BEHIND + T)
    return Case(op, "" if op in OF_ATTENTION else signal, T=T, dtype=dtype, compiled=compiled, **shape)


def _layer(signal: str = "gradient", **shape: Any) -> Case:
    return _case("score_and_accumulate", signal, **shape)


def _every_signal(**shape: Any) -> list[Case]:
    """All signals of the whole layer but "gradient", all methods at once, and the ops on attention alone."""
    signals = [_layer(signal, **shape) for signal in (*SIGNALS_OF_LAYER, EVERY) if signal != "gradient"]
    return [*signals, *(_case(op, **shape) for op in OF_ATTENTION)]


def _cpu() -> list[Case]:
    usual: dict[str, Any] = {**LLAVA, "T": 256, "K": 900}
    cases = [
        _case(op, **usual, dtype=dtype, compiled=op == "score_and_accumulate")
        for dtype in ("float32", "bfloat16")
        for op in OF_GRADIENT
    ]
    cases += _every_signal(**usual, dtype="float32")
    lengths = (1, 2, 4, 8, 16, 64, 512, 2048)
    cases += [_layer(**LLAVA, T=T, dtype=dtype) for dtype in ("float32", "bfloat16") for T in lengths]
    cases += [_layer(**QWEN, N=N, T=128, dtype="float32") for N in (1024, 4096)]
    return [*cases, _layer(**GEMMA, T=128, dtype="float32"), _layer(**PALIGEMMA, T=128, dtype="float32")]


def _gpu() -> list[Case]:
    cases = [
        _case(op, **LLAVA, T=T, dtype="bfloat16", compiled=op == "score_and_accumulate" and T in (16, 512, 2048))
        for T in (16, 64, 256, 512, 1024, 2048)
        for op in OF_GRADIENT
    ]
    cases += _every_signal(**LLAVA, T=512, dtype="bfloat16")
    cases += [_layer(**LLAVA, T=512, dtype=dtype) for dtype in ("float16", "float32")]
    cases += [_layer(**QWEN, N=N, T=T, dtype="bfloat16") for N, T in ((1024, 256), (4096, 512), (16384, 512))]
    cases += [_case(op, **QWEN, N=16384, T=2048, dtype="bfloat16") for op in OF_GRADIENT]
    cases += _every_signal(**QWEN, N=16384, T=2048, dtype="bfloat16")
    cases += [_layer(**shape, T=256, dtype="bfloat16", compiled=True) for shape in (GEMMA, PALIGEMMA)]
    return [*cases, _layer(**QWEN, N=16384, T=8192, dtype="bfloat16")]


def _tiny() -> list[Case]:
    shape: dict[str, Any] = {"model": "tiny", "T": 5, "H": 4, "H_kv": 2, "D": 16, "N": 9}
    cases = [_case(op, **shape, dtype=dtype) for dtype in ("float32", "bfloat16") for op in OF_GRADIENT]
    return [*cases, *_every_signal(**shape, dtype="float32"), _layer(**shape, dtype="float16", compiled=True)]


SETS = {"tiny": _tiny(), "cpu": _cpu(), "gpu": _gpu()}
