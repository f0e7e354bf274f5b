"""What the host does for one layer on a GPU, without the GPU: ``TRITON_INTERPRET=0 python -m benchmarks.ops.host``.

Kernels are specialised and launched on a device that is not there (`benchmarks.mock_gpu`), so the time is Python's and
that of Triton's launcher, up to the driver. Prints a table and puts it into ``docs/kernels.md``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from dexar_fast.ops import MapSums
from dexar_fast.ops.keys import PackedKeys
from dexar_fast.ops.signals import Attention
from dexar_fast.ops.triton import score_and_accumulate

from ..files import ROOT, put_between_markers
from ..mock_gpu import mock_gpu
from .cases import LLAVA, QWEN, SIGNALS_OF_LAYER, TEXT_BEFORE, TEXT_BEHIND

CALLS = 200
SHAPES = {"LLaVA-1.5-7B": LLAVA, "Qwen2.5-VL-7B": {**QWEN, "N": 1024}}


def layer(shape: dict[str, int], T: int, map_signal: str) -> Callable[[], object]:
    """A call of the op as the engine makes it for every layer, of tensors without memory."""
    H, H_kv, D, N = (shape[name] for name in ("H", "H_kv", "D", "N"))
    K = TEXT_BEFORE + N + TEXT_BEHIND + T

    def meta(*size: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.empty(size, dtype=dtype, device="meta")

    kinds, visible = meta(1, K, dtype=torch.uint8), meta(T, 2, dtype=torch.int64)
    keys = PackedKeys(meta(1, N, dtype=torch.int64), kinds, visible, [T], TEXT_BEFORE)
    rows, per_key = meta(T, H, D), meta(1, H_kv, K, D)
    attention = None if map_signal == "gradient" else Attention(rows, per_key, rows, D**-0.5)
    sums = [MapSums(*SIGNALS_OF_LAYER[map_signal], meta(T, N, dtype=torch.float32))]
    return lambda: score_and_accumulate(rows, per_key, keys, attention, sums)


def seconds(call: Callable[[], object]) -> float:
    """Median of many calls, the first, which compile, left out."""
    call()
    taken = []
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.ops.host", description=__doc__)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs" / "kernels.md")
    options = parser.parse_args()
    lines = ["| shape of | T | signal of the maps | launches | host, ms a layer |", "|---|---:|---|---:|---:|"]
    for model, shape in SHAPES.items():
        for T in (1, 512):
            for signal in ("gradient", "score_gradient"):
                with mock_gpu() as gpu:
                    call = layer(shape, T, signal)
                    call()
                    launches = gpu.launches
                    lines.append(f"| {model} | {T} | `{signal}` | {launches} | {seconds(call) * 1e3:.2f} |")
    text = "\n".join(lines)
    print(text)
    put_between_markers(options.docs, "host", text)


if __name__ == "__main__":
    main()
