"""Write a file whole or not at all."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path
from uuid import uuid4

from ..errors import InputError


def write_atomically(path: str | PathLike[str], data: bytes) -> Path:
    """Write ``data`` to ``path``; if anything fails, an existing file stays as it was and nothing is left behind.

    Raises:
        InputError: its folder does not exist.
        OSError: it cannot be written there, or the disk is full.
    """
    target = Path(path).expanduser()
    if not target.absolute().parent.is_dir():
        raise InputError(f"path: expected a file in a folder that exists; got {target}. Make the folder first.")
    # In the same folder, because a rename is atomic only within one file system.
    temporary = target.with_name(f".{target.name}.{uuid4().hex}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target
