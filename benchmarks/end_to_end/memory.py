"""Peak memory of one way above the model: ``python -m benchmarks.end_to_end.memory WAY SHAPE IMAGE_TOKENS LENGTH``.

Prints MiB. On a CPU this is a process of its own, in which freed memory goes back to the system at once.
"""

from __future__ import annotations

import argparse
import sys

from ..memory import output_of, peak_of
from ..timing import on_gpu
from .calls import Calls
from .cases import SHAPES, Case

PEAKS = ("plain", "explain", "naive_last_token")


def in_fresh_process(case: Case, way: str) -> float:
    """MiB at most in use on the CPU, less what was in use before."""
    arguments = (way, case.shape, case.image_tokens, case.answer_tokens)
    return float(output_of([sys.executable, "-m", "benchmarks.end_to_end.memory", *map(str, arguments)]).split()[-1])


def peak(calls: Calls, way: str, length: int) -> float:
    """MiB at most in use, less what was in use before."""
    call = getattr(calls, way)
    # A short answer pays for threads and lazily loaded code; a GPU's kernels are loaded for the size that is run.
    return peak_of(lambda: call(length), lambda: call(length if on_gpu(calls.device) else 2), calls.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=PEAKS)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("image_tokens", type=int)
    parser.add_argument("length", type=int)
    options = parser.parse_args()
    print(peak(Calls.prepare(options.shape, options.image_tokens, "cpu"), options.way, options.length))


if __name__ == "__main__":
    main()
