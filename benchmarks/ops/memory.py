"""Peak memory of each contender besides its inputs and outputs.

``python -m benchmarks.ops.memory --set cpu [--only TEXT]`` prints one JSON line per case and contender. On a CPU this
is a process of its own, in which freed memory goes back to the system at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..memory import output_of, peak_of
from ..timing import on_gpu
from .cases import SETS, Inputs, make_inputs
from .contenders import Run, contenders


def in_fresh_process(arguments: Sequence[str]) -> dict[str, dict[str, float]]:
    """MiB by case and contender, on the CPU."""
    found: dict[str, dict[str, float]] = {}
    for line in output_of([sys.executable, "-m", "benchmarks.ops.memory", *arguments]).splitlines():
        case, name, mib = json.loads(line)
        found.setdefault(case, {})[name] = mib
    return found


def extra_mib(run: Run, x: Inputs, device: str) -> float:
    """MiB at most in use while ``run`` works on ``x``, less what was there before and what it returned."""
    outputs: dict[str, Tensor] = {}
    # Two rows pay for threads and lazily loaded code; a GPU's kernels are loaded for the size that is run.
    warm = x if on_gpu(device) else x.rows(torch.arange(min(2, len(x.d_out))))
    peak = peak_of(lambda: outputs.update(run(x)), lambda: run(warm), device)
    returned = [value for value in outputs.values() if value.data_ptr() != x.maps.data_ptr()]
    return max(0.0, peak - sum(value.nbytes for value in returned) / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=SETS, default="cpu")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    for case in SETS[options.set]:
        if options.only not in case.id:
            continue
        # To compile takes long, and much memory of its own.
        found, _ = contenders(replace(case, compiled=False), "cpu")
        x = make_inputs(case, "cpu")
        for name, run in found.items():
            print(json.dumps((case.id, name, extra_mib(run, x, "cpu"))), flush=True)


if __name__ == "__main__":
    main()
