"""The records of a run: a Parquet table with one row per map, written in parts so that a run can go on."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..result.atomic import write_atomically

if TYPE_CHECKING:
    import pyarrow

SETTINGS = "settings.json"
RECORDS = "records.parquet"
PARTS = "parts"

ANOTHER_IMAGE = "another image"
ANOTHER_TOKEN = "another token"


@dataclass(frozen=True)
class Record:
    """One map of one sample, or a failure.

    Attributes:
        sample: key of the sample.
        method: name of the method, or `summary.CEILING`; empty in a failure that concerns the whole sample.
        control: "", or `ANOTHER_IMAGE` or `ANOTHER_TOKEN` where the map was scored against a mask that is not its own.
        target: "answer" or "word".
        index, text, kind: which word, what it says, and what it is; of the answer: -1, the whole answer, "answer".
        area: share of the image that the mask covers; None without a mask, and then there are no metrics.
        constant: the map was constant: a failure of the method, counted at chance level.
        soft_iou ... average_precision: see `metrics.Localisation`.
        peak: 1 if the strongest cell touches the mask, else 0; the share of them that do where several are strongest.
        weight: of the word.
        seconds, forward_seconds: of the explanation, and of a plain forward pass over prompt and answer.
        positive, negative: fall of the mean log-probability per token as the image is removed, most or least relevant
            first, in nats, at equal fractions from 0 to 1; of a word's own tokens if it is a word.
        error: why there is nothing else.
    """

    sample: str
    method: str = ""
    control: str = ""
    target: str = "answer"
    index: int = -1
    text: str = ""
    kind: str = "answer"
    area: float | None = None
    constant: bool | None = None
    soft_iou: float | None = None
    iou: float | None = None
    epg: float | None = None
    pointing: float | None = None
    snr: float | None = None
    auroc: float | None = None
    average_precision: float | None = None
    peak: float | None = None
    weight: float | None = None
    seconds: float | None = None
    forward_seconds: float | None = None
    positive: tuple[float, ...] | None = None
    negative: tuple[float, ...] | None = None
    error: str | None = None


class RecordStore:
    """The records in a folder. Every part and file is written whole or not at all.

    Args:
        folder: made if it is not there.
        settings: what the run was asked for; a folder with records of another run is refused.

    Raises:
        InputError: pyarrow is missing, or the folder holds another run's records.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        require_pyarrow()
        self.folder = folder
        (folder / PARTS).mkdir(parents=True, exist_ok=True)
        path = folder / SETTINGS
        if path.exists():
            self._require_same(path, settings)
        elif any((folder / PARTS).iterdir()):
            raise InputError(
                f"--out: {folder} holds records, but no {SETTINGS} that says of what. Choose another folder, or remove "
                "this one."
            )
        write_atomically(path, (json.dumps(dict(settings), indent=2) + "\n").encode(), durable=True)

    def _require_same(self, path: Path, settings: Mapping[str, Any]) -> None:
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(before, dict):
                raise ValueError(f"expected an object; got {type(before).__name__}")
        except (OSError, ValueError, RecursionError) as error:
            if not any((self.folder / PARTS).iterdir()):
                return  # nothing is lost: it is written anew
            raise InputError(
                f"--out: {path} is not readable, so it is not known what the records beside it are of ({error}). "
                "Choose another folder, or remove this one."
            ) from error
        now = json.loads(json.dumps(dict(settings)))
        differing = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
        if differing:
            raise InputError(
                f"--out: {self.folder} holds records of another run: "
                + "; ".join(f"{name} was {before.get(name)!r}, is now {now.get(name)!r}" for name in differing)
                + ". Choose another folder, or remove this one."
            )

    def has_part(self, number: int) -> bool:
        """Was this part finished by an earlier run? One that cannot be read is removed, and told in a warning."""
        part = self._part(number)
        if not part.exists():
            return False
        try:
            list(read_records(part))
        except Exception as error:  # pyarrow raises what its readers come across; fields may be another release's
            warnings.warn(f"{part} is damaged ({error}), and its samples run again", stacklevel=2)
            part.unlink()
            return False
        return True

    def write_part(self, number: int, records: Sequence[Record]) -> None:
        """Keep a finished part."""
        write_atomically(self._part(number), _to_parquet(records), durable=True)

    def records(self, n_parts: int) -> list[Record]:
        """All records of the first parts, in order."""
        return [record for number in range(n_parts) for record in read_records(self._part(number))]

    def finish(self, n_parts: int) -> list[Record]:
        """Join the parts into one file; returns what it holds."""
        records = self.records(n_parts)
        write_atomically(self.folder / RECORDS, _to_parquet(records), durable=True)
        return records

    def _part(self, number: int) -> Path:
        return self.folder / PARTS / f"{number:05d}.parquet"


def require_pyarrow() -> None:
    """Raise InputError, with the way out, where pyarrow is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise InputError("evaluation records are Parquet files; pip install dexar-fast[evaluate]") from error


def read_records(path: Path) -> Iterator[Record]:
    """Records of one Parquet file."""
    import pyarrow.parquet

    for row in pyarrow.parquet.read_table(path).to_pylist():
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in row.items()}
        yield Record(**values)


def _to_parquet(records: Sequence[Record]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    rows = [{name: _writable(value) for name, value in asdict(record).items()} for record in records]
    table = pyarrow.Table.from_pylist(rows, schema=_schema())
    buffer = BytesIO()
    pyarrow.parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _writable(value: Any) -> Any:
    """Text as Parquet takes it: halves of a surrogate pair, which are no characters, become escapes."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8") if isinstance(value, str) else value


def _schema() -> pyarrow.Schema:
    import pyarrow

    types = {"str": pyarrow.string(), "int": pyarrow.int32(), "float": pyarrow.float64(), "bool": pyarrow.bool_()}
    types["tuple[float, ...]"] = pyarrow.list_(pyarrow.float64())
    return pyarrow.schema([(field.name, types[str(field.type).removesuffix(" | None")]) for field in fields(Record)])
