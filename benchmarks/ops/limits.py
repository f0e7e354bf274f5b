"""What the device can do, measured in the same run: the two rates that bound every op."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..timing import device_seconds, on_gpu, side_by_side
from .counts import Counts

REPETITIONS, BUDGET_S = 20, 5.0


@dataclass(frozen=True)
class Limits:
    """Rates of one device and dtype.

    Attributes:
        operations_per_s: of a large square matrix product.
        bytes_per_s: of a large copy, bytes read and bytes written counted.
    """

    operations_per_s: float
    bytes_per_s: float

    def floor(self, counts: Counts) -> tuple[float, str]:
        """Seconds that the counted work takes at least, and which of the two limits binds: "product" or "copy"."""
        product, copy = counts.operations / self.operations_per_s, counts.bytes / self.bytes_per_s
        return (product, "product") if product >= copy else (copy, "copy")


def measure_limits(dtype: torch.dtype, device: str, *, tiny: bool = False) -> Limits:
    """Both rates; ``tiny`` problems only rehearse."""
    n, size = (8192, 1 << 30) if on_gpu(device) else (2048, 1 << 27)
    if tiny:
        n, size = 64, 1 << 16
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product, copy = side_by_side(
        [lambda: a @ b, lambda: target.copy_(source)], REPETITIONS, device, clock=device_seconds, budget=BUDGET_S
    )
    return Limits(2 * n**3 / product.median, 2 * size / copy.median)
