"""Compile a launch for a GPU that is not there, and read what the compiler made of it."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from dexar_fast.kernels.launch import Launch

POINTERS = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.uint8: "*u8",
}
WARP, AMD_WARP = 32, 64


@dataclass(frozen=True)
class Compiled:
    """What one program of a kernel takes, in registers a thread and bytes, and its machine code.

    Attributes:
        registers: of AMD's the vector registers.
        local: bytes a thread that registers could not hold (spills and stack).
        shared: bytes of shared memory.
        ptx: of AMD's the assembly.
    """

    name: str
    warps: int
    registers: int
    local: int
    shared: int
    ptx: str
    cubin: bytes

    def sass(self) -> str:
        """The disassembly."""
        return _cuobjdump("-sass", self.cubin)


def compile_offline(launch: Launch, capability: int) -> Compiled:
    """What this launch would run on a GPU of this compute capability (90 for sm_90); its tensors may be meta tensors.

    Raises:
        RuntimeError: Triton's interpreter is on (TRITON_INTERPRET=1): there is nothing to compile then.
    """
    if triton.knobs.runtime.interpret:
        raise RuntimeError("TRITON_INTERPRET: expected 0, for kernels are to be compiled; got 1")
    signature, constants, attributes = _specialize(launch)
    source = ASTSource(launch.kernel, signature, constants, attributes)
    options = {"num_warps": launch.warps, "num_stages": launch.stages}
    kernel = triton.compile(source, target=GPUTarget("cuda", capability, WARP), options=options)
    cubin = kernel.asm["cubin"]
    usage = dict(re.findall(r"\b(REG|STACK|LOCAL):(\d+)", _cuobjdump("--dump-resource-usage", cubin)))
    return Compiled(
        launch.kernel.__name__,
        launch.warps,
        int(usage["REG"]),
        int(usage["STACK"]) + int(usage["LOCAL"]),
        kernel.metadata.shared,
        kernel.asm["ptx"],
        cubin,
    )


def compile_for_amd(launch: Launch, architecture: str) -> Compiled:
    """As `compile_offline`, for a GPU of AMD's ("gfx942"). A Triton that was built without that backend cannot."""
    signature, constants, attributes = _specialize(launch)
    source = ASTSource(launch.kernel, signature, constants, attributes)
    options = {"num_warps": launch.warps, "num_stages": launch.stages}
    kernel = triton.compile(source, target=GPUTarget("hip", architecture, AMD_WARP), options=options)
    assembly = kernel.asm["amdgcn"]
    usage = {
        name: int(number) for name, number in re.findall(r"\.(vgpr_count|private_segment_fixed_size): +(\d+)", assembly)
    }
    return Compiled(
        launch.kernel.__name__,
        launch.warps,
        usage["vgpr_count"],
        usage["private_segment_fixed_size"],
        kernel.metadata.shared,
        assembly,
        kernel.asm["hsaco"],
    )


def _specialize(launch: Launch) -> tuple[dict[str, Any], dict[str, Any], dict[tuple[int, ...], Any]]:
    """Types, compile-time constants and known divisibility of the arguments, as a launch on a GPU derives them."""
    signature: dict[str, Any] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}
    for index, parameter in enumerate(launch.kernel.params):
        value, name = launch.arguments[parameter.name], parameter.name
        if parameter.is_constexpr:
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, tuple):
            kinds = [_type_of(each, special=not parameter.do_not_specialize) for each in value]
            signature[name] = tuple(kind for kind, _ in kinds)
            attributes |= {(index, i): [["tt.divisibility", 16]] for i, (_, divisible) in enumerate(kinds) if divisible}
        else:
            signature[name], divisible = _type_of(value, special=not parameter.do_not_specialize)
            if signature[name] == "constexpr":
                constants[name] = value
            elif divisible:
                attributes[(index,)] = [["tt.divisibility", 16]]
    return signature, constants, attributes


def _type_of(value: Any, *, special: bool) -> tuple[str, bool]:
    """Type of one argument, and whether it is known to be a multiple of 16."""
    if value is None or (special and isinstance(value, int) and value == 1):
        return "constexpr", False
    if isinstance(value, Tensor):
        return POINTERS[value.dtype], special
    if isinstance(value, float):
        return "fp32", False
    return "i32" if -(2**31) <= value < 2**31 else "i64", special and value % 16 == 0


def _cuobjdump(flag: str, cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([_tool(), flag, file.name], capture_output=True, text=True, check=True)
    return done.stdout


@cache
def _tool() -> str:
    """The cuobjdump that Triton carries."""
    return str(Path(nvidia.__file__).parent / "bin" / "cuobjdump")
