"""Triton's interpreter, at a pace that tests can keep."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from triton.runtime import interpreter


def patch_once() -> None:
    """Swap the language's functions for the interpreter's once a module, not again at every call of a device function.

    Half of the interpreter's time goes into that otherwise. It undoes the swap behind each launch, which only matters
    where kernels are compiled in the same process.
    """
    patch = interpreter._patch_lang
    patched: set[str] = set()

    def patch_module_once(function: Callable[..., Any]) -> SimpleNamespace:
        if function.__module__ not in patched:
            patched.add(function.__module__)
            patch(function)
        return SimpleNamespace(restore=lambda: None)

    interpreter._patch_lang = patch_module_once
