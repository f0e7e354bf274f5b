"""A GPU that is not there: kernels are specialised and launched as on one, but neither compiled nor run.

What is left is the host's share: which kernels a run would compile, and how long the host takes to launch them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from dexar_fast.kernels import launch
from dexar_fast.kernels.config import Machine

from .shapes import MACHINES

_DEVICES = itertools.count()  # each mock is a new device, for which nothing is compiled yet


@dataclass
class Counted:
    """Names of the kernels that were compiled, in order, and how many launches there were."""

    compiled: list[str] = field(default_factory=list)
    launches: int = 0

    def launch(self, *_: Any) -> None:
        self.launches += 1


@contextmanager
def mock_gpu(capability: int = 90) -> Iterator[Counted]:
    """Inside, tensors without memory run on a GPU of this compute capability.

    Raises:
        RuntimeError: Triton's interpreter is on (TRITON_INTERPRET=1): it specialises nothing.
    """
    if triton.knobs.runtime.interpret:
        raise RuntimeError("TRITON_INTERPRET: expected 0, for the interpreter compiles nothing; got 1")
    counted = Counted()

    def compile_nothing(source: Any, **_: Any) -> SimpleNamespace:
        counted.compiled.append(source.fn.__name__)
        return SimpleNamespace(
            run=counted.launch, function=0, packed_metadata=(), launch_metadata=lambda *_: None, src=source
        )

    def machine(_: torch.device) -> Machine:
        return MACHINES[capability]

    device = next(_DEVICES)
    gpu = SimpleNamespace(
        get_current_device=lambda: device,
        get_current_stream=lambda device: 0,
        get_current_target=lambda: GPUTarget("cuda", capability, 32),
    )
    with (
        mock.patch.object(triton.compiler, "compile", compile_nothing),
        mock.patch.object(driver, "_active", gpu),
        mock.patch.object(launch, "machine_of", machine),
    ):
        yield counted
