"""The ops as one writes them in plain torch: every (H, T, K) tensor goes through memory. The definition to compile.

The keys of a case lie side by side and its masks are given, so nothing is gathered.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .cases import Inputs

Outputs = dict[str, Tensor]


def product(rows: Tensor, per_key: Tensor) -> Tensor:
    """``(H, T, keys)``: the bare product of ``(T, H, D)`` and ``(H_kv, keys, D)``, in their dtype."""
    T, H, D = rows.shape
    grouped = rows.transpose(0, 1).reshape(len(per_key), -1, D)  # [H_kv, G * T, D]
    return torch.bmm(grouped, per_key.transpose(1, 2)).view(H, T, -1)


def head_scores(x: Inputs, image: slice, signal: str) -> Outputs:
    lse = None if signal == "gradient" else attention_lse(x)["lse"]
    outputs = _scores(_signal(x, slice(None), signal, lse), x, image)
    return outputs if lse is None else {**outputs, "lse": lse}


def accumulate_maps(x: Inputs, image: slice, signal: str) -> Outputs:
    x.maps.add_(_maps(_signal(x, image, signal, x.lse), x.weights, x.hidden[:, image]))
    return {"maps": x.maps}


def score_and_accumulate(x: Inputs, image: slice, score_signal: str, map_signal: str) -> Outputs:
    lse = None if score_signal == map_signal == "gradient" else attention_lse(x)["lse"]
    of_scores = _signal(x, slice(None), score_signal, lse)
    outputs = _scores(of_scores, x, image)
    weights = (outputs["image"] - outputs["text"]).clamp(min=0)
    same = score_signal == map_signal
    of_maps = of_scores[..., image] if same else _signal(x, image, map_signal, lse)
    x.maps.add_(_maps(of_maps, weights, x.hidden[:, image]))
    outputs["maps"] = x.maps
    return outputs if lse is None else {**outputs, "lse": lse}


def score_and_accumulate_all(x: Inputs, image: slice, pairs: list[tuple[str, str]]) -> Outputs:
    outputs = attention_lse(x)
    signals = dict.fromkeys(signal for pair in pairs for signal in pair)
    found = {signal: _signal(x, slice(None), signal, outputs["lse"]) for signal in signals}
    for i, (of_scores, of_maps) in enumerate(pairs):
        scores = _scores(found[of_scores], x, image)
        weights = (scores["image"] - scores["text"]).clamp(min=0)
        x.maps[:, i] += _maps(found[of_maps][..., image], weights, x.hidden[:, image])
        outputs |= {f"{name} of {of_scores}": tensor for name, tensor in scores.items()}
    return {**outputs, "maps": x.maps}


def attention_lse(x: Inputs) -> Outputs:
    logits = product(x.query, x.key).to(x.maps.dtype) * x.scale
    return {"lse": logits.masked_fill(x.hidden, -math.inf).logsumexp(-1).T}


def attention_columns(x: Inputs, image: slice) -> Outputs:
    columns = _probabilities(x, image, x.lse).masked_fill(x.hidden[:, image], 0)
    return {"columns": columns.transpose(0, 1)}


def _signal(x: Inputs, keys: slice, signal: str, lse: Tensor | None) -> Tensor:
    """The signal ``(H, T, keys)``, sums in the dtype of the results."""
    if signal == "attention":
        assert lse is not None
        return _probabilities(x, keys, lse)
    g = product(x.d_out, x.value[:, keys]).to(x.maps.dtype)
    if signal == "gradient":
        return g
    if signal == "score_gradient":
        g = g - (x.d_out.to(g.dtype) * x.out.to(g.dtype)).sum(-1).T[..., None]
    assert lse is not None
    return _probabilities(x, keys, lse) * g


def _probabilities(x: Inputs, keys: slice, lse: Tensor) -> Tensor:
    logits = product(x.query, x.key[:, keys]).to(x.maps.dtype) * x.scale
    return (logits - lse.T[..., None]).exp()


def _scores(g: Tensor, x: Inputs, image: slice) -> Outputs:
    on_image, hidden = g[..., image], x.hidden[:, image]
    return {
        "image": on_image.masked_fill(hidden, 0).amax(-1).clamp(min=0).T,
        "text": g.masked_fill(x.hidden | ~x.text, 0).amax(-1).clamp(min=0).T,
        "image_min": on_image.masked_fill(hidden, math.inf).amin(-1).T,
    }


def _maps(g: Tensor, weights: Tensor, hidden: Tensor) -> Tensor:
    """``sum_i w[t, i] * relu(G)[i, t]`` on the image keys ``(T, N)``."""
    return (weights.T[..., None] * g.clamp(min=0).masked_fill(hidden, 0)).sum(0)
