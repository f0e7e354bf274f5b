"""The compiled C++ kernels of ``csrc/``, as ctypes sees them."""

from __future__ import annotations

import ctypes
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

ABI_VERSION = 2


class Block(ctypes.Structure):
    """``dexar::Block`` of ``csrc/block.h``."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("n_heads", "n_rows", "n_keys", "first_key")),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "gradient",
                "logits",
                "kinds",
                "visible",
                "d_dot_out",
                "lse",
                "image",
                "text",
                "image_min",
                "weights",
                "maps",
                "unfiltered",
                "columns",
            )
        ),
        *((name, ctypes.c_int64) for name in ("head_stride", "n_image_keys")),
        *((name, ctypes.c_int32) for name in ("lse_is_known", "score_signal", "map_signal")),
    )


def _load_library() -> ctypes.CDLL:
    """The compiled kernels.

    They are linked to no OpenMP of their own: torch has loaded one already, and two thread pools would get in each
    other's way.
    """
    # Beside this package, not by import: another copy of it may be installed as well.
    package = Path(__file__).resolve().parent.parent
    found = [package / f"_cpu{suffix}" for suffix in EXTENSION_SUFFIXES if (package / f"_cpu{suffix}").exists()]
    if not found:
        raise ImportError("the C++ kernels were not built; install a C++ compiler, then dexar-fast again")
    try:
        library = ctypes.CDLL(str(found[0]))
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


def run_block(block: Block, n_threads: int, instruction_set: int = 0) -> None:
    """Do everything that there is to do on one block of products; `instruction_set` is an index."""
    _LIBRARY.dexar_run_block(block, instruction_set, n_threads)
