"""Scripts of the released DEX-AR code, unmodified."""

from __future__ import annotations

import sys
from types import ModuleType

from ..errors import InputError
from . import dexar

_NAMES = "DEFAULT_PROMPT", "DexarResult", "DexarWrapper", "visualize", "visualize_multi"
_OURS = "dexar_fast.compat"


def install() -> None:
    """Make ``import dexar`` and ``from dexar import ...`` mean `dexar_fast.compat`, in this process.

    Raises:
        InputError: another package of that name is imported already.
    """
    before = sys.modules.get("dexar")
    if before is not None and getattr(before, "__wrapped_by__", None) != _OURS:
        raise InputError(
            f"dexar: {getattr(before, '__file__', before)} is imported already. Call install() before the first import."
        )
    module = ModuleType("dexar", "The names of the released DEX-AR code, by dexar_fast.compat.")
    for name in _NAMES:
        setattr(module, name, getattr(dexar, name))
    module.__dict__.update(__all__=list(_NAMES), __wrapped_by__=_OURS)
    sys.modules["dexar"] = module
