"""Block sizes, warps and pipeline stages. Nothing is tuned at run time: a table per architecture, cut to what fits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import torch
import triton

if TYPE_CHECKING:
    from .launch import Operands


class Blocks(NamedTuple):
    """Rows M and keys N of a tile, warps of a program, stages of the load pipeline."""

    M: int
    N: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Machine:
    """What block sizes depend on.

    Attributes:
        capability: 90 for sm_90; 0 for the interpreter.
        processors: number of SMs.
        shared: bytes of shared memory that one program may have.
        amd: whether it is a GPU of AMD's.
    """

    capability: int
    processors: int
    shared: int
    amd: bool = False


INTERPRETER = Machine(capability=0, processors=3, shared=1 << 20)  # few SMs, so that small tests split their work too


class Limits(NamedTuple):
    """What an architecture holds in registers, at D = 128 in half precision.

    Attributes:
        head_scores, maps: the largest blocks for one matrix product a tile (G or P alone), and for two (both).
        width: the widest rows that are held in whole; wider ones are streamed.
    """

    head_scores: tuple[Blocks, Blocks]
    maps: tuple[Blocks, Blocks]
    width: int


# Found by compiling: the largest without spills, which tests/test_kernels_compile.py watches. Capability 0 is the
# interpreter. None has been timed on a GPU yet.
LIMITS = {
    0: Limits(2 * (Blocks(32, 64, 4, 2),), 2 * (Blocks(32, 64, 4, 2),), width=256),
    80: Limits(
        (Blocks(128, 64, 8, 3), Blocks(128, 32, 8, 3)), (Blocks(128, 64, 8, 3), Blocks(64, 32, 8, 2)), width=128
    ),
    90: Limits(
        (Blocks(256, 64, 8, 3), Blocks(128, 64, 8, 3)), (Blocks(128, 128, 8, 3), Blocks(128, 32, 8, 2)), width=256
    ),
    100: Limits(
        (Blocks(128, 64, 8, 3), Blocks(128, 32, 8, 3)), (Blocks(128, 64, 8, 2), Blocks(64, 64, 8, 1)), width=128
    ),
}
AMD_LIMITS = Limits(
    (Blocks(64, 64, 8, 2), Blocks(64, 32, 8, 2)), (Blocks(64, 64, 8, 2), Blocks(64, 32, 8, 2)), width=128
)
"""Found likewise on gfx942 (MI300); gfx950 (MI350) compiles with them without spills, too."""
WRITTEN_BYTES = 20 << 20
"""G and logits of few rows that are written rather than computed twice: they stay in the L2 cache."""
KEPT_BYTES = 64 << 20
"""What G and logits of all keys may take, of which those of the image keys are written."""
ROWS_HELD = 64 << 10
"""Bytes of one operand's rows that stay in shared memory, for all those keys that pass."""
FEW_ROWS = (16, 64)
"""Rows of smaller tiles, for fewer rows: not every power of two, for each is compiled."""
FEW = 32 * 32
"""Elements of a tile that four warps have enough to do with."""


@cache
def machine_of(device: torch.device) -> Machine:
    """The GPU that holds the tensors; of CPU tensors the interpreter."""
    if device.type != "cuda":
        return INTERPRETER
    properties = torch.cuda.get_device_properties(device)
    capability = 10 * properties.major + properties.minor
    index = torch.cuda.current_device() if device.index is None else device.index
    of_driver = triton.runtime.driver.active.utils.get_device_properties(index)
    amd = torch.version.hip is not None
    return Machine(capability, properties.multi_processor_count, of_driver["max_shared_mem"], amd)


@cache
def limits_of(machine: Machine) -> Limits:
    """Of the newest known architecture that is not newer than this one."""
    if machine.amd:
        return AMD_LIMITS
    return LIMITS[max(known for known in LIMITS if known <= machine.capability)]


@cache
def width_of_tiles(machine: Machine, D: int, dtype: torch.dtype) -> int:
    """Columns of a tile: all D, up to a power of two that matrix units take, or some of them where D is too wide.

    Float32 is, sooner: its three TF32 products hold their operands in registers.
    """
    whole = max(16, triton.next_power_of_2(D))
    widest, part = (32, 32) if dtype == torch.float32 else (limits_of(machine).width, 64)
    return whole if whole <= widest else part


def products_of(signals: tuple[str, ...]) -> int:
    """Matrix products a tile: G, P or both."""
    return any(signal != "attention" for signal in signals) + any(signal != "gradient" for signal in signals)


def head_scores_blocks(x: Operands, signals: tuple[str, ...], *, writes: bool = False) -> Blocks:
    """Of `head_scores_kernel`: its rows are pairs of row and query head of one GQA group, and stay while keys pass.

    Registers of a kernel that writes G hold its cells besides.
    """
    products = (x.d_out is not None) + (x.query is not None)
    largest = limits_of(x.machine).head_scores[products - 1]
    halvings = (len(signals) > 1) + writes * (1 + _is_streamed(x))
    return _fit(largest, x, x.most_rows * x.G, products, halvings, rows_stay=True)


def maps_blocks(x: Operands, outs: int, token_sums: int = 0) -> Blocks:
    """Of `accumulate_maps_kernel`, which adds up so many outs: rows and, at worst, keys pass for every head."""
    products = (x.d_out is not None) + (x.query is not None)
    largest = limits_of(x.machine).maps[products - 1]
    halvings = int(outs + token_sums > 1) + (outs > 1 and _is_streamed(x))
    halvings += token_sums > 0 and x.of_rows.dtype == torch.float32
    return _fit(largest, x, x.most_rows, products, halvings, rows_stay=False)


def columns_blocks(x: Operands) -> Blocks:
    """Of `attention_columns_kernel`: one product a program."""
    return _fit(limits_of(x.machine).maps[0], x, x.most_rows * x.G, products=1, halvings=1, rows_stay=False)


@cache
def splits_in_waves(machine: Machine, blocks: Blocks, programs: int, most: int) -> int:
    """Into how many parts to cut the work of each program, so that as few SMs as possible idle in the last wave.

    A part costs its own start, so two per cent of time have to be gained by each.
    """
    at_once = machine.processors * (1 if blocks.warps > 4 else 2)

    def time(splits: int) -> float:
        return math.ceil(programs * splits / at_once) / splits * (1 + 0.02 * splits)

    return min(range(1, max(1, min(most, 4 * at_once // max(programs, 1))) + 1), key=time)


def _is_streamed(x: Operands) -> bool:
    """Whether rows are too wide to be held in whole."""
    D = max(x.D_v, x.D_qk)
    return width_of_tiles(x.machine, D, x.of_rows.dtype) < D


def _fit(largest: Blocks, x: Operands, rows: int, products: int, halvings: int, rows_stay: bool) -> Blocks:
    """The largest blocks, halved until they fit the rows, the registers and the shared memory.

    Args:
        products: matrix products a tile.
        halvings: how often to halve the tile for what else the kernel keeps in registers.
        rows_stay: rows are loaded once, not in every stage of the pipeline.
    """
    M = next(size for size in (*FEW_ROWS, largest.M) if size >= min(rows, largest.M))
    return _fitted(
        largest, M, x.machine, x.of_rows.dtype, max(x.D_v, x.D_qk), products, halvings + x.softcap, rows_stay
    )


@cache
def _fitted(
    largest: Blocks,
    most_rows: int,
    machine: Machine,
    dtype: torch.dtype,
    D: int,
    products: int,
    halvings: int,
    rows_stay: bool,
) -> Blocks:
    """`_fit`, of what it depends on: the same for every layer."""
    M, N, warps, stages = largest
    width = width_of_tiles(machine, D, dtype)
    is_streamed = width < D
    halvings += 2 if dtype == torch.float32 else is_streamed * products  # three TF32 products, and parts of operands
    halvings += not rows_stay and width > 128  # operands of both sides pass, and are wide
    halvings += rows_stay and is_streamed and products == 2 and dtype != torch.float32  # the softmax beside two sums
    for _ in range(halvings):
        if N > 16 and M <= 2 * N:
            N //= 2
        elif (16 if dtype == torch.float32 else 64) < M:  # of half precision, warp groups multiply 64 rows
            M //= 2
    M = min(M, most_rows)
    rows_held = rows_stay and not is_streamed
    if rows_held and M * width * dtype.itemsize > ROWS_HELD:
        M //= 2

    def shared() -> int:
        return (stages * N + M * (1 if rows_held else stages)) * products * width * dtype.itemsize

    while shared() > machine.shared and (M, N, stages) != (16, 16, 1):
        if stages > 2 or (M, N) == (16, 16):
            stages -= 1
        elif M > N:
            M //= 2
        else:
            N //= 2
    return Blocks(M, N, 4 if M * N <= FEW else warps, stages)
