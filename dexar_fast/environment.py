"""What a result depends on: versions, processor, devices, backends. For bug reports and for rows of benchmarks."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from . import __version__

PACKAGES = ("torch", "transformers", "triton", "safetensors", "tokenizers", "numpy", "pillow")


def info() -> dict[str, Any]:
    """Versions, processor, devices and backends of this machine, as JSON values.

    Returns:
        `dexar_fast`, `python`, `packages` (name to version, None where not installed), `system`, `cpu`, `cores`,
        `threads` (that torch uses), `devices` (a list of GPUs with `name`, `memory_gib` and `capability`),
        `cuda` (the version torch was built for, or None), `backends` (names for `backend=`), `missing_backends` (name
        to the reason), `auto_backend` (device type to what "auto" takes there in float32) and `cpu_instructions` (what
        the C++ kernels run with, or None without them).
    """
    import torch

    from .ops import available_backends, missing_backends, resolve_backend

    return {
        "dexar_fast": __version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "system": platform.platform(),
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "devices": [_device(index) for index in range(torch.cuda.device_count())],
        "backends": available_backends(),
        "missing_backends": missing_backends(),
        "auto_backend": {
            device: resolve_backend("auto", torch.device(device), torch.float32)
            for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else []))
        },
        "cpu_instructions": _cpu_instructions(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_instructions() -> str | None:
    from .ops import available_backends

    if "cpp" not in available_backends():
        return None
    from .ops.cpp_library import instruction_sets

    return instruction_sets()[0]


def _processor() -> str:
    """The processor's name as people know it; `platform` knows only its architecture on Linux."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _device(index: int) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(index)
    return {
        "name": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "capability": f"{properties.major}.{properties.minor}",
    }
