"""Time calls side by side, and say where it was."""

from __future__ import annotations

import datetime
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from dexar_fast import info

T = TypeVar("T")


@dataclass(frozen=True)
class Quantiles:
    """Seconds of one call over several repetitions."""

    minimum: float
    median: float
    maximum: float


def side_by_side(calls: Sequence[Callable[[], object]], repetitions: int, device: str) -> list[Quantiles]:
    """Time several calls in turn, over and over, so that whatever else the machine does falls on all of them alike."""
    seconds: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()  # the first call pays for caches and compilation
    for _ in range(repetitions):
        for call, taken in zip(calls, seconds, strict=True):
            taken.append(timed(call, device)[0])
    return [Quantiles(min(s), statistics.median(s), max(s)) for s in seconds]


def timed(call: Callable[[], T], device: str) -> tuple[float, T]:
    """Seconds of one call, and what it returned."""
    synchronize(device)
    start = time.perf_counter()
    result = call()
    synchronize(device)
    return time.perf_counter() - start, result


def environment(device: str) -> dict[str, Any]:
    """Device, versions and date, for every set of results."""
    facts = info()
    return {
        "device": facts["devices"][torch.device(device).index or 0]["name"] if on_gpu(device) else facts["cpu"],
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        **facts,
    }


def synchronize(device: str) -> None:
    """Wait until the device has done what was asked of it."""
    if on_gpu(device):
        torch.cuda.synchronize(device)


def on_gpu(device: str) -> bool:
    return device.startswith("cuda")
