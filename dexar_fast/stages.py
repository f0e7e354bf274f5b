"""Named stages of a run, so that a profile can say where time and memory go. Without a recorder nothing is measured."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from .interrupts import check

OTHER = "other"
"""What is in no stage."""


class Recorder:
    """Seconds and peak memory of each stage, nested stages apart: each moment belongs to the innermost open stage.

    Attributes:
        seconds: of each stage, in the order in which they were first met; they sum up to the whole recording.
        peaks: most GPU memory in use in each stage above what was in use at the start, in bytes; empty on a CPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, int] = {}
        self._open: list[tuple[str, torch.profiler.record_function]] = []
        self._memory_before = torch.cuda.memory_allocated(device) if self._on_gpu else 0
        self._since = self._now()

    def enter(self, name: str) -> None:
        """Open a stage within the innermost one."""
        self._account()
        named_range = torch.profiler.record_function(name)  # what a trace shows
        named_range.__enter__()
        self._open.append((name, named_range))

    def leave(self) -> None:
        """Close the innermost stage."""
        self._account()
        _, named_range = self._open.pop()
        named_range.__exit__(None, None, None)

    def go_on(self, name: str, after: str) -> None:
        """Where the innermost stage is ``after``, let ``name`` take its place."""
        if self._open and self._open[-1][0] == after:
            self.leave()
            self.enter(name)

    def _account(self) -> None:
        """Charge what has passed since the last call to the innermost stage."""
        name = self._open[-1][0] if self._open else OTHER
        now = self._now()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now
        if self._on_gpu:
            peak = torch.cuda.max_memory_allocated(self.device) - self._memory_before
            self.peaks[name] = max(peak, self.peaks.get(name, 0))
            torch.cuda.reset_peak_memory_stats(self.device)

    def _now(self) -> float:
        if self._on_gpu:
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @property
    def _on_gpu(self) -> bool:
        return self.device.type == "cuda"


_ACTIVE: ContextVar[Recorder | None] = ContextVar("recorder", default=None)


@contextmanager
def recording(device: torch.device) -> Iterator[Recorder]:
    """Record the stages that this thread runs through inside."""
    recorder = Recorder(device)
    before = _ACTIVE.set(recorder)
    try:
        yield recorder
    finally:
        recorder._account()
        _ACTIVE.reset(before)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """What runs inside is the stage ``name``; also a decorator, for a function that is one."""
    check()
    recorder = _ACTIVE.get()
    if recorder is None:
        yield
        return
    recorder.enter(name)
    try:
        yield
    finally:
        recorder.leave()
