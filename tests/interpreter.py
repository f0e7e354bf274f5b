"""Triton's interpreter, at a pace that tests can keep and with every NumPy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import triton.language as tl
from triton.runtime import interpreter


def prepare() -> None:
    """Swap the language's functions for the interpreter's once a module, not again at every call of a device function.

    Half of the interpreter's time goes into that otherwise. It undoes the swap behind each launch, which only matters
    where kernels are compiled in the same process. Another third goes into checking each sum of integers for overflow,
    which compiled kernels do not do either. Loop bounds are read in a way that NumPy 2.4 takes; Triton 3.6 does not.
    """
    swap = interpreter._patch_lang
    swapped: set[str] = set()

    def swap_once(function: Callable[..., Any]) -> SimpleNamespace:
        if function.__module__ not in swapped:
            swapped.add(function.__module__)
            swap(function)
            tl.tensor.__index__ = lambda scalar: int(scalar.handle.data.item())
        return SimpleNamespace(restore=lambda: None)

    interpreter._patch_lang = swap_once
    builder = interpreter.interpreter_builder
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)
