"""Who computes an op: every backend that is here, plain torch, and torch.compile of the same definition."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from dexar_fast import InputError, ops
from dexar_fast.ops import reference

from ..timing import on_gpu
from . import unfused
from .cases import DTYPES, EVERY, SIGNALS_OF_LAYER, Case, Inputs
from .counts import reads_value

Run = Callable[[Inputs], dict[str, Tensor]]
BASELINES = ("unfused", "compiled")
# Of plain torch: the gradients, their relu, both masked copies and the probabilities exist at the same time.
UNFUSED_COPIES = 6
# Of the definition on a GPU: what a block's launches take, and what repeating a call may.
BLOCK_SECONDS, MOST_SECONDS = 0.3e-3, 0.1


def contenders(case: Case, device: str) -> tuple[dict[str, Run], dict[str, str]]:
    """Ways to compute a case, backends first; and who is left out, with the reason."""
    found: dict[str, Run] = {}
    left_out: dict[str, str] = dict(ops.missing_backends())
    for name in ops.available_backends():
        try:
            ops.resolve_backend(name, torch.device(device), DTYPES[case.dtype])
        except InputError as error:
            left_out[name] = str(error)
            continue
        if name == "triton" and not on_gpu(device):
            left_out[name] = "its interpreter is not timed"
        elif name == "reference" and on_gpu(device) and (seconds := reference_seconds(case)) > MOST_SECONDS:
            left_out[name] = f"the definition, in small blocks: some {seconds:.1f} s of launches alone"
        else:
            found[name] = partial(by_backend, case, name)
    copies = UNFUSED_COPIES + len(case.signals) - 1
    needed, free = copies * case.T * case.H * case.K * 4, free_memory(device)
    if needed > free:
        reason = f"writes (T, H, K): about {needed / 2**30:.0f} GiB, {free / 2**30:.0f} GiB are free"
        return found, {**left_out, **dict.fromkeys(BASELINES, reason)}
    found["unfused"] = partial(by_plain_torch, case)
    if not case.compiled:
        left_out["compiled"] = "not asked for on this shape"
    elif (missing := no_compiler(device)) is not None:
        left_out["compiled"] = missing
    else:
        found["compiled"] = torch.compile(partial(by_plain_torch, case), dynamic=False, fullgraph=True)
    return found, left_out


def by_backend(case: Case, backend: str, x: Inputs) -> dict[str, Tensor]:
    """All results of one op of `dexar_fast.ops` by name."""
    if case.op in ("attention_lse", "attention_columns"):
        if case.op == "attention_lse":
            return {"lse": ops.attention_lse(x.query, x.key, x.keys, scale=x.scale, backend=backend)}
        columns = ops.attention_columns(x.query, x.key, x.keys, scale=x.scale, lse=x.lse, backend=backend)
        return {"columns": columns}
    attention = x.attention(with_lse=case.op == "accumulate_maps") if case.needs_attention else None
    if case.op == "accumulate_maps":
        ops.accumulate_maps(
            x.d_out, x.value, x.weights, x.keys, x.maps, signal=case.signal, attention=attention, backend=backend
        )
        return {"maps": x.maps}
    if case.signal == EVERY:
        sums = [ops.MapSums(*pair, x.maps[:, i]) for i, pair in enumerate(SIGNALS_OF_LAYER.values())]
        of_all = ops.score_and_accumulate_all(x.d_out, x.value, x.keys, sums, attention=attention, backend=backend)
        return {
            **{
                name if name == "lse" else f"{name} of {each.score_signal}": tensor
                for each, scores in zip(sums, of_all, strict=True)
                for name, tensor in _named(scores).items()
            },
            "maps": x.maps,
        }
    if case.op == "head_scores":
        scores = ops.head_scores(x.d_out, x.value, x.keys, signal=case.signal, attention=attention, backend=backend)
        return _named(scores)
    score_signal, map_signal = case.signals
    scores = ops.score_and_accumulate(
        x.d_out,
        x.value,
        x.keys,
        x.maps,
        score_signal=score_signal,
        map_signal=map_signal,
        attention=attention,
        backend=backend,
    )
    return {**_named(scores), "maps": x.maps}


def by_plain_torch(case: Case, x: Inputs) -> dict[str, Tensor]:
    """The same results with every tensor written out."""
    match case.op:
        case "head_scores":
            return unfused.head_scores(x, case.image, case.signal)
        case "accumulate_maps":
            return unfused.accumulate_maps(x, case.image, case.signal)
        case "score_and_accumulate":
            if case.signal == EVERY:
                return unfused.score_and_accumulate_all(x, case.image, list(SIGNALS_OF_LAYER.values()))
            return unfused.score_and_accumulate(x, case.image, *case.signals)
        case "attention_lse":
            return unfused.attention_lse(x)
        case "attention_columns":
            return unfused.attention_columns(x, case.image)
    raise ValueError(f"op: no definition of {case.op!r}")


def bare_product(case: Case, x: Inputs) -> list[Tensor]:
    """The products that the case needs, as `torch.bmm` alone computes and writes them."""
    keys = case.image if case.op in ("accumulate_maps", "attention_columns") else slice(None)
    products = []
    if not case.op.startswith("attention") and reads_value(case.signals):
        products.append(unfused.product(x.d_out, x.value[:, keys]))
    if case.op.startswith("attention") or case.needs_attention:
        products.append(unfused.product(x.query, x.key[:, keys]))
    return products


def reference_seconds(case: Case) -> float:
    """What the host takes at least to launch the definition's blocks on a GPU."""
    rows = max(1, reference.BLOCK_ELEMENTS // (case.H // case.H_kv * case.K))
    return BLOCK_SECONDS * case.H_kv * -(-case.T // rows) * len(case.signals)


def no_compiler(device: str) -> str | None:
    """Why torch.compile cannot work here, or None."""
    if device.startswith("cuda"):
        return None if find_spec("triton") else "torch.compile needs triton"
    names = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    return None if any(map(shutil.which, filter(None, names))) else "torch.compile needs a C++ compiler"


def free_memory(device: str) -> float:
    """Bytes that are free on the device; of a CPU half of them, for other programs run there."""
    if device.startswith("cuda"):
        return float(torch.cuda.mem_get_info(device)[0])
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024 / 2
    raise RuntimeError("/proc/meminfo has no MemAvailable")


def _named(scores: ops.HeadScores) -> dict[str, Tensor]:
    return {name: value for name, value in scores._asdict().items() if value is not None}
