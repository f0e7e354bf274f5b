"""Time calls side by side, and say where it was."""

from __future__ import annotations

import datetime
import math
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from dexar_fast import info

T = TypeVar("T")
Clock = Callable[[Callable[[], Any], str], tuple[float, Any]]

_FLUSHED_BYTES = 1 << 29  # written before each GPU timing: more than any cache holds
# What the device waits before each GPU timing, some 10 ms: the host has queued all launches when it begins.
_WAITED_CYCLES = 15_000_000


@dataclass(frozen=True)
class Quantiles:
    """Seconds of one call over several repetitions; ``low`` and ``high`` hold 20 % and 80 % of them."""

    minimum: float
    low: float
    median: float
    high: float
    maximum: float
    repetitions: int


def timed(call: Callable[[], T], device: str) -> tuple[float, T]:
    """Wall-clock seconds of one call, and what it returned."""
    synchronize(device)
    start = time.perf_counter()
    result = call()
    synchronize(device)
    return time.perf_counter() - start, result


def device_seconds(call: Callable[[], T], device: str) -> tuple[float, T]:
    """Seconds that a GPU worked on one call, its cache cold; on a CPU the same as `timed`.

    The device sleeps while the host queues the launches, so that no gap between them is the host's.
    """
    if not on_gpu(device):
        return timed(call, device)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    _flushed(device).zero_()
    torch.cuda._sleep(_WAITED_CYCLES)
    start.record()
    result = call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3, result


@cache
def _flushed(device: str) -> Tensor:
    return torch.empty(_FLUSHED_BYTES, dtype=torch.uint8, device=device)


def side_by_side(
    calls: Sequence[Callable[[], object]],
    repetitions: int,
    device: str,
    *,
    clock: Clock = timed,
    budget: float = math.inf,
    warm_up: bool = True,
) -> list[Quantiles]:
    """Time several calls in turn, over and over, so that whatever else the machine does falls on all of them alike.

    The order is shuffled each time, or some would always find the caches as a slow one leaves them.

    Args:
        calls: what is timed.
        repetitions: of each call.
        device: that the calls run on.
        clock: `timed` or `device_seconds`.
        budget: seconds after which a slow call is not repeated any more, measured at least once.
        warm_up: call each once before, because the first call pays for caches and compilation.
    """
    seconds: list[list[float]] = [[] for _ in calls]
    for call in calls if warm_up else ():
        call()
    turns, generator = list(zip(calls, seconds, strict=True)), random.Random(0)
    for _ in range(repetitions):
        generator.shuffle(turns)
        for call, taken in turns:
            if not taken or sum(taken) + taken[-1] <= budget:
                taken.append(clock(call, device)[0])
    return [_quantiles(each) for each in seconds]


def _quantiles(seconds: list[float]) -> Quantiles:
    minimum, low, median, high, maximum = np.quantile(seconds, (0, 0.2, 0.5, 0.8, 1)).tolist()
    return Quantiles(minimum, low, median, high, maximum, len(seconds))


def environment(device: str) -> dict[str, Any]:
    """Device, versions and date, for every set of results."""
    facts = info()
    return {
        "device": facts["devices"][torch.device(device).index or 0]["name"] if on_gpu(device) else facts["cpu"],
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        **facts,
    }


def described(where: dict[str, Any]) -> str:
    """An `environment` in one line."""
    versions = ", ".join(f"{name} {where['packages'][name]}" for name in ("torch", "transformers"))
    return f"{where['device']}, {where['threads']} threads, {versions}, {where['date']}"


def slug(where: dict[str, Any]) -> str:
    """The device's name for file names."""
    return re.sub(r"[^a-z0-9]+", "-", str(where["device"]).lower()).strip("-")


def synchronize(device: str) -> None:
    """Wait until the device has done what was asked of it."""
    if on_gpu(device):
        torch.cuda.synchronize(device)


def on_gpu(device: str) -> bool:
    return device.startswith("cuda")
