"""What the launchers take for a benchmark's case: to compile, predict and tune the kernels, without memory or with."""

from __future__ import annotations

import torch
from torch import Tensor

from dexar_fast.kernels.config import Machine
from dexar_fast.kernels.launch import Operands

from .ops.cases import DTYPES, Case

KIB = 1024
# Compute capability to SMs and shared memory of a program, of A100, H100 (SXM) and B200.
MACHINES = {
    80: Machine(80, processors=108, shared=163 * KIB),
    90: Machine(90, processors=132, shared=227 * KIB),
    100: Machine(100, processors=148, shared=227 * KIB),
}
# MI300X and MI355X, by architecture.
AMD_MACHINES = {
    "gfx942": Machine(94, processors=304, shared=64 * KIB, amd=True),
    "gfx950": Machine(95, processors=256, shared=160 * KIB, amd=True),
}


def operands(
    case: Case,
    machine: Machine | None,
    *,
    device: str = "meta",
    gathered: bool = False,
    rows: tuple[int, ...] | None = None,
    softcap: float | None = None,
) -> Operands:
    """What the launchers take, of one sample or of as many as there are `rows`; random where the device has memory.

    The rows are the last T of K, image keys a span (or, gathered, not known to be one) behind 35 tokens of prompt.
    """
    generator = torch.Generator(device).manual_seed(0) if device != "meta" else None

    def random(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=DTYPES[case.dtype], device=device)

    rows = (case.T,) if rows is None else rows
    B, first = len(rows), min(35, case.K - case.N)
    image = first + torch.arange(case.N, device=device).expand(B, -1)
    kinds = torch.full((B, case.K), 2, dtype=torch.uint8, device=device)
    kinds[:, first : first + case.N] = 1
    stop = torch.cat([torch.arange(case.K - count, case.K, device=device) for count in rows]) + 1
    visible = torch.stack((torch.zeros_like(stop), stop), dim=-1)
    has_g = case.signal != "attention"
    has_p = case.signal != "gradient"
    row_dot = torch.empty(case.T, case.H, device=device).zero_() if case.signal in ("score_gradient", "every") else None
    per_row, per_key = (case.T, case.H, case.D), (B, case.H_kv, case.K, case.D)
    return Operands(
        kinds,
        image,
        visible,
        rows,
        first if B == 1 and not gathered else -1,
        random(*per_row) if has_g else None,
        random(*per_key) if has_g else None,
        random(*per_row) if has_p else None,
        random(*per_key) if has_p else None,
        row_dot,
        case.D**-0.5,
        softcap,
        machine,
    )
