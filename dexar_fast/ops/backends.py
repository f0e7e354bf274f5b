"""Which implementations of the ops this machine has, and which one a call takes."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from ..errors import InputError
from .keys import PackedKeys
from .signals import Attention, MapSums


class Backend(Protocol):
    """What an implementation provides. `reference` is the definition; `api` has checked the arguments."""

    def head_scores(
        self, d_out: Tensor, value: Tensor, keys: PackedKeys, signal: str, attention: Attention | None
    ) -> tuple[Tensor, Tensor | None]:
        """S_img, S_text and the smallest image value ``(3, T, H)``, and with attention the log-sum-exp ``(T, H)``."""
        ...

    def accumulate_maps(
        self,
        d_out: Tensor,
        value: Tensor,
        weights: Tensor,
        keys: PackedKeys,
        signal: str,
        attention: Attention | None,
        maps: Tensor,
        unfiltered: Tensor | None,
        token_sums: Tensor | None,
    ) -> None: ...

    def score_and_accumulate(
        self, d_out: Tensor, value: Tensor, keys: PackedKeys, attention: Attention | None, sums: Sequence[MapSums]
    ) -> tuple[Tensor, Tensor | None]:
        """As `head_scores`, of each score signal of `sums` in the order of their first: ``(signals, 3, T, H)``."""
        ...

    def attention_lse(self, attention: Attention, keys: PackedKeys) -> Tensor: ...

    def attention_columns(self, attention: Attention, keys: PackedKeys) -> Tensor: ...


FAST_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
OLDEST_CAPABILITY = (8, 0)  # that Triton compiles products of bfloat16 for

_MODULES = {
    "reference": "dexar_fast.ops.reference",
    "cpp": "dexar_fast.ops.cpp",
    "triton": "dexar_fast.ops.triton",
}


@cache
def load_backend(name: str) -> Backend | str:
    """The implementation, or the reason why this machine does not have it."""
    try:
        backend: Backend = importlib.import_module(_MODULES[name])
    except ImportError as error:
        return str(error)
    return backend


def available_backends() -> list[str]:
    """Names that ``backend=`` takes on this machine, besides "auto"."""
    return [name for name in _MODULES if not isinstance(load_backend(name), str)]


def missing_backends() -> dict[str, str]:
    """Names that ``backend=`` would take elsewhere, and why this machine does not have them."""
    reasons = {name: load_backend(name) for name in _MODULES}
    return {name: reason for name, reason in reasons.items() if isinstance(reason, str)}


def resolve_backend(backend: str, device: torch.device, dtype: torch.dtype) -> str:
    """The backend that ``"auto"`` or an explicit name stands for, for tensors of this device and dtype.

    Raises:
        InputError: the name is unknown or this machine, device or dtype has no such backend. An explicit request never
            falls back to another one.
    """
    if backend == "auto":
        suitable = {"cpu": "cpp", "cuda": "triton"}.get(device.type, "reference")
        # Only the suitable one is loaded: Triton's kernels are for nothing on a CPU.
        fast = not isinstance(load_backend(suitable), str) and dtype in FAST_DTYPES and _is_new_enough(device)
        return suitable if fast else "reference"
    check_backend(backend)
    if backend == "reference":
        return backend
    wanted = ("cpu",) if backend == "cpp" else _triton_devices()
    if device.type not in wanted or dtype not in FAST_DTYPES:
        raise InputError(
            f"backend: {backend!r} expects float16, bfloat16 or float32 on {' or '.join(wanted)}; got {dtype} on "
            f"{device.type}. Use 'reference' or 'auto'."
        )
    if not _is_new_enough(device):
        raise InputError(
            f"backend: {backend!r} expects a GPU of compute capability 8.0 or later; got "
            f"{'.'.join(map(str, torch.cuda.get_device_capability(device)))}. Use 'reference' or 'auto'."
        )
    return backend


def check_backend(backend: str) -> None:
    """Refuse a name that is unknown or that this machine does not have.

    Raises:
        InputError: says which names there are, or why this one is missing.
    """
    if backend == "auto":
        return
    if backend not in _MODULES:
        raise InputError(f"backend: expected one of {', '.join(['auto', *available_backends()])}; got {backend!r}")
    reason = load_backend(backend)
    if isinstance(reason, str):
        raise InputError(f"backend: {backend!r} is not available here: {reason}")


@cache
def _is_new_enough(device: torch.device) -> bool:
    """Whether Triton compiles all dtypes for a GPU; AMD's count otherwise, and those that ROCm supports are."""
    if device.type != "cuda" or torch.version.hip is not None:
        return True
    return torch.cuda.get_device_capability(device) >= OLDEST_CAPABILITY


def _triton_devices() -> tuple[str, ...]:
    """Triton's interpreter also takes CPU tensors."""
    from triton import knobs

    return ("cuda", "cpu") if knobs.runtime.interpret else ("cuda",)
