"""What an earlier run has measured: with ``--resume`` a section that was cut off goes on where it ended."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# What makes two measurements comparable; the date does not.
SAME = ("device", "dexar_fast", "python", "packages", "threads", "backends")


def add_resume(parser: ArgumentParser) -> None:
    """The option itself."""
    parser.add_argument(
        "--resume", action="store_true", help="keep what the file of results has, if device and packages are the same"
    )


def earlier(path: Path, where: dict[str, Any], *, resume: bool) -> dict[str, Any]:
    """The document at ``path`` if it is to be gone on with and its environment is this one, else an empty one."""
    if not resume or not path.exists():
        return {}
    document: dict[str, Any] = json.loads(path.read_text())
    theirs = document["environment"]
    different = [name for name in SAME if theirs.get(name) != where.get(name)]
    if different:
        print(f"Measured anew, for {', '.join(different)} of {path} differ from what is here.", flush=True)
        return {}
    return document


def row_of(document: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """What an earlier run measured of these facts; None if it did not, or the case failed or was left out."""
    wanted = json.loads(json.dumps(facts))
    for row in document.get("rows", ()):
        if all(row.get(name) == value for name, value in wanted.items()):
            return None if "failure" in row or isinstance(row.get("left_out"), str) else dict(row)
    return None
