"""Paths as people write them."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from .errors import InputError


def home_written_out(argument: str, path: str | PathLike[str]) -> Path:
    """The path with ``~`` as the home that it stands for.

    Raises:
        InputError: ``~name`` names nobody; the message begins with ``argument``.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{argument}: there is no user as in {str(path)[:100]}. Write the folder out.") from error
