"""Inputs for tests of the ops, random rows on awkward shapes, and what is to come out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dexar_fast.inputs.methods import METHODS, Method
from dexar_fast.ops import (
    SIGNALS,
    Attention,
    KeySets,
    MapSums,
    accumulate_maps,
    accumulator,
    attention_columns,
    attention_lse,
    causal_rows,
    head_scores,
    score_and_accumulate,
    score_and_accumulate_all,
)

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]

SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "one row": {"T": 1},
    "MHA": {"H": 3, "H_kv": 3},
    "MQA": {"H": 6, "H_kv": 1},
    "7 heads a group": {"H": 14, "H_kv": 2},
    "head width 60": {"D": 60},
    "head width 1": {"D": 1},
    "values narrower than keys": {"D": 10, "D_qk": 24},
    "one row, values wider than keys": {"T": 1, "D": 24, "D_qk": 10},
    "scattered image keys": {"image": [0, 2, 3, 9, 22]},
    "image keys that are not yet visible": {"image": [1, 20, 21, 22]},
    "one image key": {"image": [5]},
    "no image key": {"image": []},
    "no text key": {"text": []},
    "text subset": {"text": [0, 13, 22]},
    "window 1": {"window": 1},
    "window 9": {"window": 9},
    "111 keys": {"K": 111, "T": 63, "image": range(40, 71)},
}


@dataclass
class Case:
    """Arguments of the ops; `weights` are of no particular meaning."""

    d_out: Tensor
    value: Tensor
    keys: KeySets
    attention: Attention
    weights: Tensor

    def to(self, dtype: torch.dtype, device: str = "cpu") -> Case:
        """Inputs in another dtype or on another device."""

        def move(x: Tensor) -> Tensor:
            return x.to(device, dtype)

        keys = KeySets(
            self.keys.image.to(device), self.keys.text.to(device), self.keys.visible.to(device), self.keys.rows
        )
        query, key, out = (move(x) for x in self.attention[:3])
        attention = self.attention._replace(query=query, key=key, out=out)
        return Case(move(self.d_out), move(self.value), keys, attention, self.weights.to(device))


def make_case(
    T: int = 7,
    H: int = 4,
    H_kv: int = 2,
    D: int = 16,
    K: int = 23,
    image: Any = range(3, 12),
    text: Any = None,
    window: int | None = None,
    softcap: float | None = None,
    visible: Tensor | None = None,
    seed: int = 0,
    D_qk: int | None = None,
) -> Case:
    """Random rows, in float64, that predict the last T tokens of K + 1 unless `visible` says what they see."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    image = torch.tensor(list(image), dtype=torch.int64)
    text_keys = torch.ones(K, dtype=torch.bool)
    text_keys[image] = False
    if text is not None:
        text_keys &= torch.zeros(K, dtype=torch.bool).index_fill(0, torch.tensor(list(text), dtype=torch.int64), True)
    if visible is None:
        visible = causal_rows(torch.arange(K - T, K), window)
    keys = KeySets(image, text_keys, visible)
    d_out, value = random(T, H, D), random(H_kv, K, D)
    D_qk = D_qk or D
    query, key, scale = random(T, H, D_qk), random(H_kv, K, D_qk), D_qk**-0.5
    probabilities = softmax(query, key, keys, scale, softcap)
    out = torch.einsum("thk,hkd->thd", probabilities, value.repeat_interleave(H // H_kv, 0))
    weights = torch.rand(T, H, generator=generator, dtype=torch.float64)
    return Case(d_out, value, keys, Attention(query, key, out, scale, softcap), weights)


def softmax(query: Tensor, key: Tensor, keys: KeySets, scale: float, softcap: float | None = None) -> Tensor:
    """Attention probabilities ``(T, H, K)`` of one sample, all at once; zero for a row that sees nothing."""
    logits = scale * torch.einsum("thd,hkd->thk", query, key.repeat_interleave(query.shape[1] // key.shape[0], 0))
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    position = torch.arange(key.shape[1])
    visible = (position >= keys.visible[:, :1]) & (position < keys.visible[:, 1:])
    return logits.masked_fill(~visible[:, None], -math.inf).softmax(-1).nan_to_num(0)


def by_loops(case: Case, signal: str, weights: Tensor) -> dict[str, Tensor]:
    """S_img, S_text, smallest image value and maps of one sample: one number at a time, in float64."""
    d_out, value, keys = case.d_out, case.value, case.keys
    T, H, _ = d_out.shape
    group = H // value.shape[0]
    P = softmax(*case.attention[:2], keys, case.attention.scale, case.attention.softcap)
    scores = {name: torch.zeros(T, H, dtype=torch.float64) for name in ("image", "text", "image_min")}
    maps = torch.zeros(T, len(keys.image), dtype=torch.float64)
    for t in range(T):
        start, stop = keys.visible[t].tolist()
        for i in range(H):
            G = [float(d_out[t, i] @ v) for v in value[i // group]]
            D = sum(float(P[t, i, j]) * G[j] for j in range(len(G)))
            signed = {j: of_key(signal, float(P[t, i, j]), G[j], D) for j in range(start, stop)}
            x = {j: max(of_signal, 0.0) for j, of_signal in signed.items()}
            seen_image = [j for j in keys.image.tolist() if j in x]
            scores["image"][t, i] = max((x[j] for j in seen_image), default=0.0)
            scores["image_min"][t, i] = min((signed[j] for j in seen_image), default=0.0)
            scores["text"][t, i] = max((x[j] for j in x if keys.text[j]), default=0.0)
            for n, j in enumerate(keys.image.tolist()):
                maps[t, n] += float(weights[t, i]) * x.get(j, 0.0)
    return {**scores, "maps": maps}


PAIRS = [*METHODS.values(), Method("attention", "gradient"), Method("gradient", "contribution")]
"""Signals of scores and of maps: those of every method, and others that share one of theirs."""


def run_all(case: Case, pairs: list[Method], backend: str = "auto") -> dict[str, Tensor]:
    """What one call says of several pairs of signals, by name; every second pair has maps alone."""
    (T, H), (B, N) = case.d_out.shape[:2], case.keys.packed.image.shape
    arguments: dict[str, Any] = {"attention": case.attention, "backend": backend}

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=accumulator(case.d_out), device=case.d_out.device)

    sums = [
        MapSums(pair.score_signal, pair.map_signal, zeros(T, N), *([] if i % 2 else [zeros(T, N), zeros(B, H, N)]))
        for i, pair in enumerate(pairs)
    ]
    scores = score_and_accumulate_all(case.d_out, case.value, case.keys, sums, **arguments)
    named: dict[str, Tensor] = {}
    for each, of_heads in zip(sums, scores, strict=True):
        tensors = {**each._asdict(), **of_heads._asdict()}
        named |= {f"{each[:2]} {name}": tensor for name, tensor in tensors.items() if isinstance(tensor, Tensor)}
    token_sums = zeros(B, H, N)
    accumulate_maps(
        case.d_out, case.value, case.weights, case.keys, zeros(T, N), token_sums=token_sums, backend=backend
    )
    return {**named, "token_sums of maps alone": token_sums}


def of_key(signal: str, P: float, G: float, D: float) -> float:
    """The signal of one key."""
    return {"gradient": G, "score_gradient": P * (G - D), "contribution": P * G, "attention": P}[signal]


def run(case: Case, signal: str, backend: str = "auto") -> dict[str, Tensor]:
    """Everything that the ops say of a case, by name."""
    attention = case.attention
    arguments: dict[str, Any] = {"attention": attention, "backend": backend}
    scores = head_scores(case.d_out, case.value, case.keys, signal=signal, **arguments)
    results = {"image": scores.image, "text": scores.text, "image_min": scores.image_min}
    T, N = len(case.d_out), case.keys.packed.image.shape[1]
    dtype, device = scores.image.dtype, case.d_out.device
    for name in ("maps", "unfiltered", "layer maps", "layer unfiltered"):
        results[name] = torch.zeros(T, N, dtype=dtype, device=device)
    accumulate_maps(
        case.d_out,
        case.value,
        case.weights,
        case.keys,
        results["maps"],
        unfiltered=results["unfiltered"],
        signal=signal,
        **arguments,
    )
    layer = score_and_accumulate(
        case.d_out,
        case.value,
        case.keys,
        results["layer maps"],
        unfiltered=results["layer unfiltered"],
        score_signal=signal,
        map_signal=SIGNALS[SIGNALS.index(signal) - 1],  # the two need not be the same
        **arguments,
    )
    results |= {"layer image": layer.image, "layer text": layer.text, "layer image_min": layer.image_min}
    of_attention: dict[str, Any] = {"scale": attention.scale, "softcap": attention.softcap, "backend": backend}
    results["lse"] = attention_lse(*attention[:2], case.keys, **of_attention)
    results["columns"] = attention_columns(*attention[:2], case.keys, **of_attention)
    return results


def plain_torch_of_all(
    case: Case, pairs: list[Method], dtype: torch.dtype, *, sizes: bool = False
) -> dict[str, Tensor]:
    """What `run_all` says, of one sample; as `plain_torch`."""
    named: dict[str, Tensor] = {}
    for i, pair in enumerate(pairs):
        of_scores = plain_torch(case, pair.score_signal, dtype, sizes=sizes)
        image, text = of_scores["image"], of_scores["text"]
        weights = image + text if sizes else (image - text).clamp(min=0)
        of_maps = plain_torch(replace(case, weights=weights), pair.map_signal, dtype, sizes=sizes)
        found = {name: of_scores[name] for name in ("image", "text", "image_min", "lse")} | {"maps": of_maps["maps"]}
        if i % 2 == 0:
            found |= {name: of_maps[name] for name in ("unfiltered", "token_sums")}
        named |= {f"{(pair.score_signal, pair.map_signal)} {name}": tensor for name, tensor in found.items()}
    return {**named, "token_sums of maps alone": plain_torch(case, "gradient", dtype, sizes=sizes)["token_sums"]}


def plain_torch(case: Case, signal: str, dtype: torch.dtype, *, sizes: bool = False) -> dict[str, Tensor]:
    """What `run` says, of one sample, with every (T, H, K) tensor written out.

    Args:
        case, signal: as for `run`.
        dtype: of all arithmetic.
        sizes: sum up the sizes of all terms instead, differences included: what rounding errors are relative to.
    """
    inputs = (x.to(dtype) for x in (case.d_out, case.value, *case.attention[:3]))
    d_out, value, query, key, out = (x.abs() for x in inputs) if sizes else inputs
    keys, scale, cap = case.keys, case.attention.scale, case.attention.softcap
    group = d_out.shape[1] // len(value)
    G = torch.einsum("thd,hkd->thk", d_out, value.repeat_interleave(group, 0))
    D = (d_out * out).sum(-1, keepdim=True)
    logits = scale * torch.einsum("thd,hkd->thk", query, key.repeat_interleave(group, 0))
    if sizes:
        probabilities = softmax(case.attention.query.to(dtype), case.attention.key.to(dtype), keys, scale, cap)
        P = probabilities * (1 + logits)
    else:
        P = softmax(query, key, keys, scale, cap)
        logits = logits if cap is None else cap * (logits / cap).tanh()
    of = {"gradient": G, "score_gradient": P * (G + D if sizes else G - D), "contribution": P * G, "attention": P}
    position = torch.arange(value.shape[1])
    visible = ((position >= keys.visible[:, :1]) & (position < keys.visible[:, 1:]))[:, None]

    def highest(x: Tensor) -> Tensor:
        return torch.cat((x.new_zeros(*x.shape[:2], 1), x), -1).amax(-1)

    def lowest(x: Tensor) -> Tensor:
        low = x.amin(-1) if x.shape[-1] else x.new_zeros(x.shape[:2])
        return low.where(low.isfinite(), 0)  # infinite where no image key is seen

    def on_image(x: Tensor) -> Tensor:
        return x.clamp(min=0).where(visible, 0)[..., keys.image]

    def maps(x: Tensor, weights: Tensor) -> Tensor:
        return (weights.to(dtype)[..., None] * on_image(x)).sum(1)

    x = of[signal].clamp(min=0)
    image, text = (highest(x.where(visible, 0)[..., columns]) for columns in (keys.image, keys.text))
    image_min = image if sizes else lowest(of[signal].where(visible, math.inf)[..., keys.image])
    other = of[SIGNALS[SIGNALS.index(signal) - 1]]
    ones = torch.ones_like(image)
    return {
        "image": image,
        "text": text,
        "image_min": image_min,
        "maps": maps(of[signal], case.weights),
        "unfiltered": maps(of[signal], ones),
        "token_sums": on_image(of[signal]).sum(0)[None],
        "layer image": image,
        "layer text": text,
        "layer image_min": image_min,
        "layer maps": maps(other, image + text if sizes else (image - text).clamp(min=0)),
        "layer unfiltered": maps(other, ones),
        "lse": 1 + logits.amax(-1) if sizes else logits.where(visible, -math.inf).logsumexp(-1),
        "columns": P[..., keys.image],
    }
