"""Which reader reads an input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from ...errors import InputError
from ..rows import Row, to_row
from .pictures import pictures
from .tables import Record, delimited, jsonl, parquet, saved_data_set

Reader = Callable[[Path], Iterator[Record | InputError]]
READERS: dict[str, Reader] = {".jsonl": jsonl, ".ndjson": jsonl, ".csv": delimited, ".parquet": parquet}


def read(path: Path, prompt: str | None = None) -> Iterator[Row]:
    """The rows of an input, in its order.

    Args:
        path: a .jsonl, .csv or .parquet file, a folder that `datasets` saved, or a folder of pictures.
        prompt: for rows that have none.

    Raises:
        InputError: no such file, or none of these.
    """
    if not path.exists():
        raise InputError(f"input: no file or folder {path}")
    if path.is_file():
        if path.suffix not in READERS:
            raise InputError(f"input: expected a folder or one of {', '.join(READERS)}; got {path}")
        return _rows(READERS[path.suffix](path), path.parent, prompt)
    if (path / "dataset_dict.json").exists():
        raise InputError(f"input: {path} holds several splits; name the folder of one")
    reader = saved_data_set if (path / "state.json").exists() else pictures
    return _rows(reader(path), path, prompt)


def _rows(records: Iterator[Record | InputError], folder: Path, prompt: str | None) -> Iterator[Row]:
    seen: Counter[str] = Counter()
    for index, record in enumerate(records):
        if isinstance(record, InputError):
            row = Row(index, str(index), error=f"InputError: {record}")
        else:
            row = to_row(index, record, folder, prompt)
        occurrence, seen[row.id] = seen[row.id], seen[row.id] + 1
        if occurrence:
            error = f"InputError: id: {row.id!r} is the id of an earlier row; ids must differ"
            row = replace(row, occurrence=occurrence, error=row.error or error)
        yield row
