"""Which kernels live mode, and requests of any length, would compile on a GPU; as JSON.

Run by test_kernels_compile.py in a process of its own: in the tests' own one Triton interprets.
"""

from __future__ import annotations

import json
import random

import torch

from benchmarks.mock_gpu import mock_gpu
from dexar_fast.inputs.methods import METHODS
from dexar_fast.ops import MapSums
from dexar_fast.ops.keys import PackedKeys
from dexar_fast.ops.triton import score_and_accumulate

H, H_KV, D = 28, 4, 128  # Qwen2.5-VL-7B


def run_layer(maps: torch.Tensor, K: int) -> None:
    """One layer of the rows of some maps, as the engine calls the op."""
    T, N = maps.shape

    def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    keys = PackedKeys(
        meta(1, N, dtype=torch.int64), meta(1, K, dtype=torch.uint8), meta(T, 2, dtype=torch.int64), [T], 15
    )
    method = METHODS["dexar"]
    sums = [MapSums(method.score_signal, method.map_signal, maps)]
    score_and_accumulate(meta(T, H, D), meta(1, H_KV, K, D), keys, None, sums)


def main() -> None:
    counts = {}
    with mock_gpu() as gpu:
        maps = torch.empty(512, 1023)  # rows begin at any address
        for token in range(512):
            run_layer(maps[token : token + 1], 1100 + token)
        counts["stream"] = sorted(gpu.compiled)
    with mock_gpu() as gpu:
        generator = random.Random(0)
        for _ in range(40):
            T, N = generator.randint(1, 2048), generator.randint(64, 4096)
            run_layer(torch.empty(T, N, device="meta"), N + 60 + T)
        counts["requests"] = sorted(gpu.compiled)
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
