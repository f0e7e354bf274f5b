"""Peak memory of one call above what was there before it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import torch

from .timing import on_gpu

# Every tensor of size goes back to the system when it is freed, so that what is resident is what is in use.
LITTLE_HOARDING = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def output_of(command: list[str]) -> str:
    """What a command prints, run with `LITTLE_HOARDING`.

    Raises:
        RuntimeError: it failed.
    """
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **LITTLE_HOARDING})
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


def _status(field: str) -> float:
    """A field of Linux's account of this process, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def peak_of(call: Callable[[], object], warm_up: Callable[[], object], device: str) -> float:
    """MiB at most in use during ``call``, less what was in use before it and what ``warm_up`` left behind.

    On a CPU right only in a process with `LITTLE_HOARDING` in its environment.
    """
    warm_up()
    if on_gpu(device):
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    resident = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    call()
    return _status("VmHWM") - resident
