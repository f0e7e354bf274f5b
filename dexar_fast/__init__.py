"""Shows which part of an image made a vision-language model write each word of its answer."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import DexarFastError, InputError, NotFiniteError, SelfCheckError, UnsupportedModelError

if TYPE_CHECKING:
    from .environment import info
    from .explainer import Explainer
    from .models.family import Family
    from .models.registry import register_family
    from .render.compare import compare
    from .result.explanation import Explanation
    from .runs.estimate.result import Estimate
    from .runs.profiling import Profile
    from .runs.requests import ExplainIdsRequest, ExplainRequest

__version__ = "0.2.0"

__all__ = [
    "DexarFastError",
    "Estimate",
    "ExplainIdsRequest",
    "ExplainRequest",
    "Explainer",
    "Explanation",
    "Family",
    "InputError",
    "NotFiniteError",
    "Profile",
    "SelfCheckError",
    "UnsupportedModelError",
    "__version__",
    "compare",
    "info",
    "register_family",
]

# Loaded on first use, so that `import dexar_fast` and `dexar-fast --help` do not wait for torch.
_HOMES = {
    "Estimate": ".runs.estimate.result",
    "ExplainIdsRequest": ".runs.requests",
    "ExplainRequest": ".runs.requests",
    "Explainer": ".explainer",
    "Explanation": ".result.explanation",
    "Family": ".models.family",
    "Profile": ".runs.profiling",
    "compare": ".render.compare",
    "info": ".environment",
    "register_family": ".models.registry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
