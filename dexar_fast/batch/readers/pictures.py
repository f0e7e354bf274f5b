"""A folder of pictures, all with one prompt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...errors import InputError
from .tables import Record

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def pictures(folder: Path) -> Iterator[Record | InputError]:
    """A row for each picture below the folder, by name; its id is its path in the folder."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            name = path.relative_to(folder).as_posix()
            yield {"id": name, "image": name}
