"""Python's garbage collector while models are loaded."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def garbage_left_alone() -> Iterator[None]:
    """For imports and loading: no look for garbage then, and none later among what they made.

    Torch and transformers make a million objects that stay, in thousands of modules. Looking through all of them, again
    at the end of the process, takes a fifth of a short run. For a process of our own only.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
