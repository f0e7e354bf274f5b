"""Tables in files: JSON lines, CSV, Parquet, and the Arrow files of a saved `datasets` data set."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import InputError

Record = dict[str, Any]

MOST_CHARACTERS = 1 << 28
"""Of a cell: it may be a picture in base64."""


def jsonl(path: Path) -> Iterator[Record | InputError]:
    """An object for each line; a line that is none is an error in its place. Empty lines are left out."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                yield InputError(f"line {number}: not JSON ({error})")
                continue
            yield record if isinstance(record, dict) else InputError(f"line {number}: expected a JSON object")


def delimited(path: Path, delimiter: str = ",") -> Iterator[Record | InputError]:
    """A row for each of a CSV file with a header; an empty cell is an absent value."""
    csv.field_size_limit(max(csv.field_size_limit(), MOST_CHARACTERS))
    with path.open(encoding="utf-8-sig", newline="") as lines:
        for record in csv.DictReader(lines, delimiter=delimiter):
            yield {name: value for name, value in record.items() if name is not None and value not in ("", None)}


def tabbed(path: Path) -> Iterator[Record | InputError]:
    """As `delimited`, with tabs."""
    return delimited(path, "\t")


def excel(path: Path) -> Iterator[Record | InputError]:
    """A row for each of the first sheet of an Excel file; an empty cell is an absent value.

    Raises:
        InputError: openpyxl, which reads it, is not installed.
    """
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise InputError("input: .xlsx needs openpyxl. pip install openpyxl, or save the table as .csv") from error
    book = load_workbook(path, read_only=True, data_only=True)
    try:
        rows = book.worksheets[0].iter_rows(values_only=True)
        names = [str(name) for name in next(rows, ())]
        for cells in rows:
            yield {name: cell for name, cell in zip(names, cells) if cell is not None}
    finally:
        book.close()


def parquet(path: Path) -> Iterator[Record | InputError]:
    """The rows of a Parquet file, some at a time."""
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=64):
            yield from batch.to_pylist()


def saved_data_set(folder: Path) -> Iterator[Record | InputError]:
    """The rows of what `datasets.Dataset.save_to_disk` wrote, without `datasets`: its files are Arrow streams."""
    import pyarrow as pa

    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    if state.get("_indices_data_files"):
        raise InputError("input: the data set has an index over its rows; call flatten_indices() before save_to_disk()")
    for file in state["_data_files"]:
        with pa.memory_map(str(folder / file["filename"])) as source:
            for batch in pa.ipc.open_stream(source):
                yield from batch.to_pylist()
