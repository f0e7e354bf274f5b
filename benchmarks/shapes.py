"""Shapes of real models that the kernels are compiled, predicted and tuned for; tensors without memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dexar_fast.kernels.config import Machine
from dexar_fast.kernels.launch import Operands

KIB = 1024
# Compute capability to SMs and shared memory of a program, of A100, H100 (SXM) and B200.
MACHINES = {
    80: Machine(80, processors=108, shared=163 * KIB),
    90: Machine(90, processors=132, shared=227 * KIB),
    100: Machine(100, processors=148, shared=227 * KIB),
}


@dataclass(frozen=True)
class Shape:
    """One layer's op: T rows, H query and H_kv key/value heads of width D, N image keys among K."""

    name: str
    T: int
    H: int
    H_kv: int
    D: int
    N: int
    K: int


SHAPES = (
    Shape("LLaVA-1.5-7B", T=512, H=32, H_kv=32, D=128, N=576, K=1152),
    Shape("Qwen2.5-VL-7B", T=2048, H=28, H_kv=4, D=128, N=16384, K=18496),
    Shape("Qwen2.5-VL-7B, long answer", T=8192, H=28, H_kv=4, D=128, N=16384, K=24640),
)


def operands(
    shape: Shape,
    signal: str,
    machine: Machine | None,
    dtype: torch.dtype = torch.bfloat16,
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
        return torch.randn(size, generator=generator, dtype=dtype, device=device)

    rows = (shape.T,) if rows is None else rows
    B, first = len(rows), min(35, shape.K - shape.N)
    image = first + torch.arange(shape.N, device=device).expand(B, -1)
    kinds = torch.full((B, shape.K), 2, dtype=torch.uint8, device=device)
    kinds[:, first : first + shape.N] = 1
    stop = torch.cat([torch.arange(shape.K - count, shape.K, device=device) for count in rows]) + 1
    visible = torch.stack((torch.zeros_like(stop), stop), dim=-1)
    has_p = signal != "gradient"
    row_dot = torch.empty(shape.T, shape.H, device=device).zero_() if signal == "score_gradient" else None
    per_row, per_key = (shape.T, shape.H, shape.D), (B, shape.H_kv, shape.K, shape.D)
    return Operands(
        kinds,
        image,
        visible,
        rows,
        first if B == 1 and not gathered else -1,
        random(*per_row),
        random(*per_key),
        random(*per_row) if has_p else None,
        random(*per_key) if has_p else None,
        row_dot,
        shape.D**-0.5,
        softcap,
        machine,
    )
