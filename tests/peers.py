"""Other people's tools, which tests of their adapters run."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest


def peer(name: str, target: str) -> Any:
    """A module of a tool; the test is skipped where the tool is not there, and fails where it is there and broken.

    Args:
        name: of the module, with that of its package before a dot.
        target: what installs it, as a command.
    """
    package = name.split(".")[0]
    if find_spec(package) is None:
        pytest.skip(f"needs {package}: {target}")
    return import_module(name)
