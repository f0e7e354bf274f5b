"""A layer on the CPU alone, and beside another program on the same cores: ``python -m benchmarks.ops.beside``.

Prints a table of plain torch over the C++ kernels and puts it into ``docs/benchmarks.md``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from ..files import put_between_markers
from ..timing import described, environment, side_by_side
from .cases import LLAVA, TEXT_BEFORE, TEXT_BEHIND, Case, make_inputs
from .contenders import by_backend, by_plain_torch
from .tables import PAGE

ROWS, RUNS = (1, 8, 64, 512), 3
BUSY = "while True: pass"


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """So many other processes that compute all the time."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def ratio(T: int, repetitions: int, budget: float) -> float:
    """Median of plain torch over that of the C++ kernels."""
    K = TEXT_BEFORE + LLAVA["N"] + TEXT_BEHIND + T
    case = Case("score_and_accumulate", "gradient", T=T, K=K, dtype="float32", **LLAVA)
    x = make_inputs(case, "cpu")
    calls = [partial(by_backend, case, "cpp", x), partial(by_plain_torch, case, x)]
    ours, plain = side_by_side(calls, repetitions, "cpu", budget=budget)
    return plain.median / ours.median


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.ops.beside", description=__doc__)
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--budget", type=float, default=5.0, help="seconds for each contender of a run")
    parser.add_argument("--docs", type=Path, default=PAGE)
    options = parser.parse_args()
    lines = ["| T | unfused / C++, alone | beside as many busy processes as threads |", "|---:|---:|---:|"]
    for T in ROWS:
        cells = []
        for count in (0, torch.get_num_threads()):
            with busy_processes(count):
                found = [ratio(T, options.repetitions, options.budget) for _ in range(RUNS)]
            cells.append(", ".join(f"{each:.2f}x" for each in sorted(found)))
        lines.append(f"| {T} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    text = "\n".join([*lines, "", f"{RUNS} runs each. {described(environment('cpu'))}."])
    put_between_markers(options.docs, "beside", text)


if __name__ == "__main__":
    main()
