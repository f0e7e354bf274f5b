"""One message for every library that an adapter needs and that is not installed."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def require(module: str, package: str, who: str) -> Any:
    """A module of another library.

    Args:
        module: its dotted name.
        package: what to install for it.
        who: what needs it, for the message.

    Raises:
        ImportError: it is not installed; says how it would be.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{module}.".startswith(f"{error.name}."):
            raise  # it is installed, and lacks something itself
        raise ImportError(f"{who} needs {package}: pip install {package}") from error
