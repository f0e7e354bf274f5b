"""The files of a folder of results: parts, each whole or absent, and what they hold."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..result.atomic import write_atomically
from .schema import SCHEMA

Done = dict[tuple[str, int], str]
"""The key of each answer that is done, by id and occurrence."""


def part_paths(folder: Path) -> list[Path]:
    """The finished parts, by name."""
    return sorted((folder / "parts").glob("part-*.parquet"))


def part_name(number: int, records: Sequence[dict[str, Any]]) -> str:
    """The same rows of the input have the same name, whoever writes them."""
    rows = "\0".join(f"{record['id']}\0{record['occurrence']}" for record in records)
    return f"part-{number:08d}-{hashlib.sha256(rows.encode('utf-8', 'backslashreplace')).hexdigest()[:12]}.parquet"


def write_part(path: Path, records: list[dict[str, Any]]) -> None:
    """Write beside and rename: a part that exists is complete."""
    write_atomically(path, parquet_bytes(pa.Table.from_pylist(records, schema=SCHEMA)))


def parquet_bytes(table: pa.Table) -> bytes:
    """The file of a table, compressed with zstd; the same table gives the same bytes."""
    buffer = BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def clear_unfinished(folder: Path) -> None:
    """Remove what a killed run left half written. Only while the folder is locked."""
    for path in folder.rglob(".*"):  # as `write_atomically` names what it has not finished
        if re.fullmatch(r"\.[0-9a-f]{32}", path.name):
            path.unlink()


def done_in(folder: Path) -> Done:
    """All answers that the parts hold, also those with an error."""
    return {
        (row["id"], row["occurrence"]): row["key"]
        for path in part_paths(folder)
        for row in pq.read_table(path, columns=["id", "occurrence", "key"]).to_pylist()
    }


def drop_failed(folder: Path) -> None:
    """Remove the parts that hold an error, so that they are made again."""
    for path in part_paths(folder):
        column = pq.read_table(path, columns=["error"])["error"]
        if column.null_count < len(column):
            path.unlink()
