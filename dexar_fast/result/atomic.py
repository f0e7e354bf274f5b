"""Write a file whole or not at all."""

from __future__ import annotations

import os
import stat
from os import PathLike
from pathlib import Path
from uuid import uuid4

from ..errors import InputError
from ..paths import home_written_out


def write_atomically(path: str | PathLike[str], data: bytes, *, durable: bool = False) -> Path:
    """Write ``data`` to ``path``; if anything fails, an existing file stays as it was and nothing is left behind.

    An existing file keeps its mode, and a symbolic link keeps pointing to the file that is written.

    Args:
        path: a file, or the name of one to be.
        data: all of it.
        durable: also be there after the machine itself has stopped.

    Raises:
        InputError: its folder does not exist, or there is something that is no file: a device, a pipe, a socket.
        OSError: it cannot be written there, or the disk is full.
    """
    path = home_written_out("path", path)
    if not path.absolute().parent.is_dir():
        raise InputError(f"path: expected a file in a folder that exists; got {path}. Make the folder first.")
    # In the same folder, because a rename is atomic only within one file system; that of the file, not of a link to it.
    target = Path(os.path.realpath(path))
    before = target.stat() if target.exists() else None
    if before is not None and not (stat.S_ISREG(before.st_mode) or stat.S_ISDIR(before.st_mode)):
        raise InputError(f"path: expected a file, or a name that is free; {path} is a device, a pipe or a socket")
    temporary = target.with_name(f".{uuid4().hex}")  # the name itself may be as long as a name can be
    try:
        with temporary.open("xb") as file:
            file.write(data)
            if before is not None:
                os.chmod(temporary, stat.S_IMODE(before.st_mode))
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    if durable:
        _sync_folder(target.parent)
    return Path(path)


def _sync_folder(folder: Path) -> None:
    """Make names in a folder durable, where that can be asked for (not on Windows)."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
