"""Block sizes, warps and pipeline stages. No tuning at run time: a small table per architecture."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import torch

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
    """What block sizes depend on: the compute capability (90 is sm_90, 0 the interpreter) and the number of SMs."""

    capability: int
    processors: int


INTERPRETER = Machine(capability=0, processors=3)


@cache
def machine_of(device: torch.device) -> Machine:
    """The GPU that holds the tensors; of CPU tensors the interpreter, which is given few SMs and small blocks."""
    if device.type != "cuda":
        return INTERPRETER
    properties = torch.cuda.get_device_properties(device)
    return Machine(10 * properties.major + properties.minor, properties.multi_processor_count)


def head_scores_blocks(x: Operands, signal: str) -> Blocks:
    return Blocks(32, 64, 4, 2) if x.machine == INTERPRETER else Blocks(64, 64, 4, 2)


def maps_blocks(x: Operands, signal: str, unfiltered: bool) -> Blocks:
    return Blocks(32, 64, 4, 2) if x.machine == INTERPRETER else Blocks(64, 64, 4, 2)


def columns_blocks(x: Operands) -> Blocks:
    return Blocks(32, 64, 4, 2) if x.machine == INTERPRETER else Blocks(64, 64, 4, 2)


def splits_to_fill(machine: Machine, programs: int, most: int) -> int:
    """Into how many parts to cut the work of each program, so that a small grid still has two programs an SM."""
    return max(1, min(most, 2 * machine.processors // max(programs, 1)))
