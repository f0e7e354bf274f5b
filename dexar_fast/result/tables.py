"""The rows of an explanation as text and in the tables of other libraries."""

from __future__ import annotations

import csv
import json
from io import StringIO
from os import PathLike
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .atomic import write_atomically
from .rows import table, to_dict

if TYPE_CHECKING:
    from .explanation import Explanation

_PARTS = {"peak": ("peak_x", "peak_y"), "box": ("left", "top", "right", "bottom")}
"""What is in several columns."""
_BOTH = {
    "grounding": float,
    "weight": float,
    "place": str,
    **dict.fromkeys(_PARTS["peak"], float),
    **dict.fromkeys(_PARTS["box"], int),
    "image": int,
    "rather_than": str,
}
COLUMNS: dict[str, dict[str, type]] = {
    "words": {"word": str, "start": int, "stop": int, **_BOTH, "probability": float},
    "tokens": {
        "token": str,
        "token_id": int,
        "word": int,
        **_BOTH,
        "log_probability": float,
        "log_probability_blank": float,
    },
}
"""By what the rows are: the columns and what they hold, which may be missing."""


def to_json(explanation: Explanation, path: str | PathLike[str] | None = None, *, maps: str | None = None) -> str:
    """`to_dict` as JSON text in ASCII; also written to ``path``, if given.

    Args:
        maps: as for `to_dict`.

    Raises:
        InputError: as `to_dict`; or a number is NaN or infinite, or the folder of ``path`` does not exist.
    """
    try:
        text = json.dumps(to_dict(explanation, maps=maps), allow_nan=False)
    except (ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"explanation: expected finite numbers and JSON settings ({error})") from error
    if path is not None:
        write_atomically(path, text.encode("ascii"))
    return text


def to_csv(explanation: Explanation, path: str | PathLike[str] | None = None, *, rows: str = "words") -> str:
    """The columns of `to_pandas` as CSV text; also written to ``path`` in UTF-8, if given.

    Raises:
        InputError: ``rows`` is neither "words" nor "tokens", or the folder of ``path`` does not exist.
    """
    found = columns(explanation, rows)
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(found)
    writer.writerows(zip(*found.values()))
    if path is not None:
        write_atomically(path, text.getvalue().encode())
    return text.getvalue()


def to_pandas(explanation: Explanation, rows: str = "words") -> Any:
    """A ``pandas.DataFrame`` with a row for each of `words()`, or for each token (``rows="tokens"``).

    The columns are the keys of `to_table`; the peak is in ``peak_x`` and ``peak_y``, the box in ``left``, ``top``,
    ``right`` and ``bottom``. They are the same for every answer, so that tables can be put one below the other.

    Raises:
        ImportError: pandas is not installed.
        InputError: ``rows`` is neither "words" nor "tokens".
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError("to_pandas() needs pandas: pip install pandas") from error
    dtypes = {str: "string", int: "Int64", float: "float64"}  # those that have a place for what is missing
    found = columns(explanation, rows)
    return pandas.DataFrame(found).astype({name: dtypes[kind] for name, kind in COLUMNS[rows].items()})


def to_arrow(explanation: Explanation, rows: str = "words") -> Any:
    """The same columns as a ``pyarrow.Table``.

    Raises:
        ImportError: pyarrow is not installed.
        InputError: as `to_pandas`.
    """
    try:
        import pyarrow as arrow
    except ImportError as error:
        raise ImportError("to_arrow() needs pyarrow: pip install pyarrow") from error
    types = {str: arrow.string(), int: arrow.int64(), float: arrow.float64()}
    found = columns(explanation, rows)
    return arrow.table(found, schema=arrow.schema([(name, types[kind]) for name, kind in COLUMNS[rows].items()]))


def columns(explanation: Explanation, rows: str) -> dict[str, list[Any]]:
    """The rows of `to_table` as the columns of `COLUMNS`, None where there is no value."""
    found = [_flat(row) for row in table(explanation, rows)]
    return {name: [row[name] for row in found] for name in COLUMNS[rows]}


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    for whole, names in _PARTS.items():
        values = row[whole]
        row = {**row, **dict(zip(names, [None] * len(names) if values is None else values))}
    return row
