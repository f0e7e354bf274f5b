"""Which reader reads an input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..rows import Row, picture, to_row
from .formats import QUESTION, translated
from .pictures import pictures
from .tables import Record, delimited, excel, jsonl, parquet, saved_data_set, tabbed

Reader = Callable[[Path], Iterator[Record | InputError]]
READERS: dict[str, Reader] = {
    ".jsonl": jsonl,
    ".ndjson": jsonl,
    ".csv": delimited,
    ".tsv": tabbed,
    ".xlsx": excel,
    ".parquet": parquet,
}


def read(path: Path, prompt: str | None = None, questions: Path | None = None) -> Iterator[Row]:
    """The rows of an input, in its order.

    Args:
        path: a .jsonl, .csv, .tsv, .xlsx or .parquet file, a folder that `datasets` saved, or a folder of pictures.
        prompt: for rows that have none.
        questions: another such input, with image and prompt for answers that come without, by id. It is held in memory.

    Raises:
        InputError: no such file, or none of these.
    """
    records, folder = _records(path)
    asked = {} if questions is None else _by_id(*_records(questions))
    return _rows(records, folder, prompt, asked if questions is not None else None)


def count(path: Path) -> int | None:
    """How many rows an input has, where that is told without reading it all as a table; else None."""
    if path.suffix in (".jsonl", ".ndjson"):
        with path.open("rb") as lines:
            return sum(1 for line in lines if line.strip())
    if path.suffix == ".parquet":
        from pyarrow.parquet import ParquetFile

        with ParquetFile(path) as file:
            return int(file.metadata.num_rows)
    if path.is_dir() and not (path / "state.json").exists():
        return sum(1 for _ in pictures(path))
    return None


def _records(path: Path) -> tuple[Iterator[Record | InputError], Path]:
    """What a reader makes of an input, and the folder that its paths start from."""
    if not path.exists():
        raise InputError(f"input: no file or folder {path}")
    if path.is_file():
        if path.suffix not in READERS:
            raise InputError(f"input: expected a folder or one of {', '.join(READERS)}; got {path}")
        return READERS[path.suffix](path), path.parent
    if (path / "dataset_dict.json").exists():
        raise InputError(f"input: {path} holds several splits; name the folder of one")
    reader = saved_data_set if (path / "state.json").exists() else pictures
    return reader(path), path


def _by_id(records: Iterator[Record | InputError], folder: Path) -> dict[str, Record]:
    """The questions of an input; their paths as they are from everywhere."""
    found: dict[str, Record] = {}
    for index, record in enumerate(records):
        if isinstance(record, InputError):
            raise InputError(f"questions: {record}")
        values = translated(record)
        name = values.get("id")
        question = {name: values[name] for name in QUESTION if values.get(name) is not None}
        for column in {"image", "images"} & question.keys():
            # VLMEvalKit may name the row that holds the same picture.
            same = found.get(question[column], {}).get(column) if isinstance(question[column], str) else None
            question[column] = same or _pictures(question[column], folder)
        found[str(index if name is None else name)] = question
    return found


def _pictures(cell: Any, folder: Path) -> Any:
    """A cell with its paths as they are from everywhere."""
    return [picture(image, folder) for image in cell] if isinstance(cell, list) else picture(cell, folder)


def _rows(
    records: Iterator[Record | InputError],
    folder: Path,
    prompt: str | None,
    questions: Mapping[str, Record] | None,
) -> Iterator[Row]:
    seen: Counter[str] = Counter()
    for index, record in enumerate(records):
        try:
            if isinstance(record, InputError):
                raise record
            row = to_row(index, _with_question(index, translated(record), questions), folder, prompt)
        except InputError as error:
            row = Row(index, str(index), error=f"InputError: {error}")
        occurrence, seen[row.id] = seen[row.id], seen[row.id] + 1
        if occurrence:
            error_text = f"InputError: id: {row.id!r} is the id of an earlier row; ids must differ"
            row = replace(row, occurrence=occurrence, error=row.error or error_text)
        yield row


def _with_question(index: int, values: Record, questions: Mapping[str, Record] | None) -> Record:
    """The row with what it lacks of its question; a prompt of the questions goes before that of a log."""
    if questions is None:
        return values
    name = values.get("id")
    asked = questions.get(str(index if name is None else name))
    if asked is None:
        return {**values, "error": values.get("error") or f"questions: there is none of id {name!r}"}
    if "messages" in asked:
        values = {**values, "prompt": None}
    return {**values, **asked}
