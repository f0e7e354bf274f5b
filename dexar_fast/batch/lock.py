"""One run at a time in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import InputError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder. The system lets go of it when the process ends, however it ends.

    Raises:
        InputError: another run holds it, or this system has no such locks.
    """
    try:
        import fcntl
    except ImportError as error:
        raise InputError("out: a batch needs file locks as on Linux and macOS, which this system lacks") from error
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"out: another run writes into {folder}; wait for it, or name another folder") from error
        yield
