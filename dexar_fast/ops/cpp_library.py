"""The compiled C++ kernels of ``csrc/``, as ctypes sees them."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .signals import SIGNALS

ABI_VERSION = 6
WIDTH = 8
STRIP = 16
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
INSTRUCTION_SET = 0
"""Index into `instruction_sets`, of what the kernels take."""


def _fields(kind: Any, names: str) -> tuple[tuple[str, Any], ...]:
    return tuple((name, kind) for name in names.split())


class Scores(ctypes.Structure):
    """``dexar::Scores`` of ``csrc/block.h``, and so on."""

    _fields_ = _fields(ctypes.c_void_p, "image text image_min")


class Matrix(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), *_fields(ctypes.c_int64, "row_stride column_stride"))


class Sums(ctypes.Structure):
    _fields_ = (
        ("weights", ctypes.c_void_p),
        *_fields(Matrix, "maps unfiltered token_sums"),
        *_fields(ctypes.c_void_p, "lane_weights panels unfiltered_panels row_sums"),
        *_fields(ctypes.c_int32, "score_signal map_signal"),
    )


class Factors(ctypes.Structure):
    _fields_ = (
        *_fields(ctypes.c_void_p, "rows keys"),
        *_fields(ctypes.c_int64, "row_stride row_head_stride head_stride key_stride depth"),
        ("dtype", ctypes.c_int32),
        ("scale", ctypes.c_float),
    )


class Block(ctypes.Structure):
    _fields_ = (
        *_fields(ctypes.c_int64, "n_rows n_heads n_keys first_key n_image_keys"),
        *_fields(ctypes.c_int64, "n_chunks strips_at_once n_key_heads"),
        *_fields(ctypes.c_void_p, "gradient logits packed kinds image_keys visible d_dot_out lse columns"),
        ("column_stride", ctypes.c_int64),
        ("scores", Scores * len(SIGNALS)),
        ("sums", ctypes.POINTER(Sums)),
        ("n_sums", ctypes.c_int64),
        *_fields(Factors, "value key"),
        ("softcap", ctypes.c_float),
        *_fields(ctypes.c_int32, "lse_is_known heads_are_lanes"),
    )


def pointer(tensor: Tensor | None, offset: int = 0) -> int | None:
    """Of the number at an offset; None for none."""
    return None if tensor is None else tensor.data_ptr() + offset * tensor.itemsize


def _load_library() -> ctypes.CDLL:
    """The compiled kernels.

    They are linked to no OpenMP of their own: torch has loaded one already, and two thread pools would get in each
    other's way.
    """
    # Beside this package, not by import: another copy of it may be installed as well.
    package = Path(__file__).resolve().parent.parent
    path = package / "_cpu.so"
    if not path.exists():
        raise ImportError("the C++ kernels were not built; install a C++ compiler, then dexar-fast again")
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise ImportError(f"the C++ kernels do not load: {error}") from error
    library.dexar_abi_version.restype = ctypes.c_int32
    version = library.dexar_abi_version()
    if version != ABI_VERSION:
        raise ImportError(f"the C++ kernels are of another version ({version}, not {ABI_VERSION}); install again")
    library.dexar_instruction_set.restype = ctypes.c_char_p
    library.dexar_instruction_set.argtypes = [ctypes.c_int32]
    library.dexar_run_block.restype = None
    library.dexar_run_block.argtypes = [ctypes.POINTER(Block), ctypes.c_int32, ctypes.c_int32]
    return library


_LIBRARY = _load_library()


def instruction_sets() -> list[str]:
    """What the kernels were compiled for and this processor has, the widest, which is taken, first."""
    names: list[str] = []
    while (name := _LIBRARY.dexar_instruction_set(len(names))) is not None:
        names.append(name.decode())
    return names


def run_block(block: Block) -> None:
    """Do everything that there is to do on one block of products, on as many threads as torch has."""
    _LIBRARY.dexar_run_block(block, INSTRUCTION_SET, torch.get_num_threads())
