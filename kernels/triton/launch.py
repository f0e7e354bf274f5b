"""Arguments of the kernels, and a launch as a value: run on a device, or compiled for one that is not there."""

from __future__ import annotations

import contextlib
import itertools
import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from .config import Machine, machine_of, width_of_tiles


@dataclass(frozen=True)
class Operands:
    """One layer's tensors and the keys' sets, as all launchers take them.

    Attributes:
        kinds: ``(B, K)`` uint8, 1 for an image key, 2 for a text key, 0 for neither.
        image: ``(B, N)`` int64 positions of the image keys, filled up with -1.
        visible: ``(T, 2)`` int64, the range of keys that a row sees.
        rows: number of rows of each sample.
        image_start: first image key if one sample's image keys follow each other, else -1.
        d_out, value: ``(T, H, D_v)`` and ``(B, H_kv, K, D_v)``, of any strides; None if G is not needed.
        query, key: ``(T, H, D_qk)`` and ``(B, H_kv, K, D_qk)``, of any strides; None if P is not needed.
        row_dot: ``(T, H)`` float32, ``D = <dO, o>`` of each row and head; None if it is not needed.
        scale, cap: logits are ``scale <q, k>``, or ``cap tanh(scale <q, k> / cap)``.
        on: the machine to choose block sizes for; None for the one that holds the tensors.
    """

    kinds: Tensor
    image: Tensor
    visible: Tensor
    rows: tuple[int, ...]
    image_start: int
    d_out: Tensor | None = None
    value: Tensor | None = None
    query: Tensor | None = None
    key: Tensor | None = None
    row_dot: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None
    on: Machine | None = None

    @cached_property
    def of_rows(self) -> Tensor:
        """``(T, H, _)``: d_out or query."""
        tensor = self.query if self.d_out is None else self.d_out
        assert tensor is not None
        return tensor

    @cached_property
    def of_keys(self) -> Tensor:
        """``(B, H_kv, K, _)``: value or key."""
        tensor = self.key if self.value is None else self.value
        assert tensor is not None
        return tensor

    @cached_property
    def T(self) -> int:
        return self.of_rows.shape[0]

    @cached_property
    def H(self) -> int:
        return self.of_rows.shape[1]

    @cached_property
    def B(self) -> int:
        return self.of_keys.shape[0]

    @cached_property
    def H_kv(self) -> int:
        return self.of_keys.shape[1]

    @cached_property
    def K(self) -> int:
        return self.of_keys.shape[2]

    @cached_property
    def N(self) -> int:
        return self.image.shape[1]

    @cached_property
    def G(self) -> int:
        """Query heads of a key/value head."""
        return self.H // self.H_kv

    @property
    def device(self) -> torch.device:
        return self.of_rows.device

    @cached_property
    def machine(self) -> Machine:
        return machine_of(self.device) if self.on is None else self.on

    @cached_property
    def most_rows(self) -> int:
        """Rows of the sample that has most."""
        return max(self.rows)

    @cached_property
    def row_offsets(self) -> Tensor | None:
        """``(B + 1,)`` int32, where each sample's rows begin; None for one sample."""
        return None if self.B == 1 else offsets_of(self.rows, self.device)

    @property
    def softcap(self) -> bool:
        return self.cap is not None

    @property
    def logit_scale(self) -> float:
        """Of `cap_logits`."""
        return (self.scale if self.cap is None else self.cap) / math.log(2)

    @property
    def cap_scale(self) -> float:
        """Of `cap_logits`."""
        return 0.0 if self.cap is None else self.scale / self.cap

    @property
    def precision(self) -> str:
        """How products of float32 are taken: in three TF32 products, for TF32 alone keeps three digits.

        AMD's matrix units multiply float32 itself, and know no TF32 that Triton could take thrice.
        """
        return "tf32x3" if self.of_rows.dtype == torch.float32 and not self.machine.amd else "ieee"

    @property
    def D_v(self) -> int:
        """Head width of values, 0 without."""
        return 0 if self.value is None else self.value.shape[-1]

    @property
    def D_qk(self) -> int:
        """Head width of keys, 0 without."""
        return 0 if self.key is None else self.key.shape[-1]

    def widths(self) -> dict[str, int]:
        """Head widths, and how many columns of them a tile has."""
        return {
            "D_V": self.D_v,
            "D_QK": self.D_qk,
            "BLOCK_D_V": self.width_of_tiles(self.D_v),
            "BLOCK_D_QK": self.width_of_tiles(self.D_qk),
        }

    def width_of_tiles(self, D: int) -> int:
        """Columns of a tile of rows D wide."""
        return width_of_tiles(self.machine, D, self.of_rows.dtype)


@dataclass(frozen=True)
class Launch:
    """A kernel and everything that it is called with; upper-case arguments are compile-time constants."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    warps: int
    stages: int

    def run(self) -> None:
        """Launch it on the device of its tensors; nothing where the grid is empty."""
        if 0 in self.grid:
            return
        tensor = next(x for x in self.arguments.values() if isinstance(x, Tensor))
        with torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext():
            self.kernel[self.grid](**self.arguments, num_warps=self.warps, num_stages=self.stages)


@lru_cache(maxsize=64)
def offsets_of(rows: tuple[int, ...], device: torch.device) -> Tensor:
    """Of every layer the same: copied to the device once."""
    return torch.tensor([0, *itertools.accumulate(rows)], dtype=torch.int32, device=device)


def strided(name: str, tensor: Tensor | None, axes: str) -> dict[str, Any]:
    """Arguments for a tensor: its pointer and a stride for each axis."""
    strides = [0] * len(axes) if tensor is None else tensor.stride()
    return {f"{name}_ptr": tensor, **{f"{name}_stride_{axis}": s for axis, s in zip(axes, strides, strict=True)}}
