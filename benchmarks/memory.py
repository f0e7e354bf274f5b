"""Peak memory of one call above what was there before it, in a process of its own.

``python -m benchmarks.memory plain|explain|naive LENGTH [--device cuda] [--shape tiny]`` prints MiB.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from .timing import on_gpu


def peak_in_fresh_process(what: str, length: int, device: str, shape: str) -> float:
    """MiB at most in use during the call, less what was in use before it."""
    command = [sys.executable, "-m", "benchmarks.memory", what, str(length), "--device", device, "--shape", shape]
    # Every tensor of size goes back to the system when it is freed, so that what is resident is what is in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return float(done.stdout.split()[-1])


def _status(field: str) -> float:
    """A field of Linux's account of this process, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def main() -> None:
    from .end_to_end import arguments, prepare

    options = arguments(extra=("what", "length")).parse_args()
    length = int(options.length)
    calls = prepare(options.shape, options.device)
    call = getattr(calls, options.what)
    if on_gpu(options.device):
        call(length)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call(length)
        print((torch.cuda.max_memory_allocated() - before) / 2**20)
        return
    call(2)  # threads, caches and lazily loaded code are not the call's
    resident = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    call(length)
    print(_status("VmHWM") - resident)


if __name__ == "__main__":
    main()
