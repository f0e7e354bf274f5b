"""A run over a data set: part by part, each written whole, so that it goes on wherever it was stopped."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby, islice
from os import PathLike
from pathlib import Path
from typing import Any, Unpack

from .. import __version__
from ..errors import DexarFastError, InputError, check_count
from ..explainer import Explainer
from ..inputs.methods import FOCUS
from ..inputs.options import AskedOptions
from ..progress import ProgressCallback, silent
from ..result.atomic import write_atomically
from ..runs.many import explain_many
from ..runs.requests import ExplainIdsRequest, ExplainRequest
from .ahead import ahead
from .index import write_index
from .keys import key_of
from .lock import locked
from .parts import Done, clear_unfinished, done_in, drop_failed, part_name, write_part
from .readers.choose import read
from .rows import Row, decode, read_image
from .schema import DTYPES, SCHEMA_VERSION, explained, failed


@dataclass
class Summary:
    """What a run did.

    Attributes:
        folder: of the results.
        explained, failed: answers of this run.
        done_before: answers that were found done.
        seconds: of this run, without loading the model.
        stopped: whether it was interrupted; the same call goes on.
        errors: each kind of error of this run with its number, without the details behind the first colon.
    """

    folder: Path
    explained: int = 0
    failed: int = 0
    done_before: int = 0
    seconds: float = 0.0
    stopped: bool = False
    errors: dict[str, int] = field(default_factory=dict)


def run(
    explainer: Explainer,
    source: str | PathLike[str],
    out: str | PathLike[str],
    *,
    prompt: str | None = None,
    batch_size: int = 8,
    part_size: int = 64,
    maps: str = "uint8",
    limit: int | None = None,
    shard: tuple[int, int] = (0, 1),
    max_errors: int | None = None,
    retry_errors: bool = False,
    reports: str | int = "none",
    progress: ProgressCallback = silent,
    **asked: Unpack[AskedOptions],
) -> Summary:
    """Explain every answer of a data set and write one Parquet row for each, also for those that fail.

    Stopped at any moment and called again, it goes on; the parts are then those of an undisturbed run, byte for byte.

    Args:
        explainer: the model.
        source: see `readers.choose.read`.
        out: folder for the results; it is made.
        prompt: for rows that have none.
        batch_size: answers that run together, as for `Explainer.explain_many`.
        part_size: rows of the input per part file, the most that is lost when a run is killed.
        maps: "uint8", "float16" or "float32".
        limit: only the first rows of the input.
        shard: ``(i, n)``: every n-th part, from the i-th on, i from 0. Each shard has a folder of its own.
        max_errors: stop when more rows than this fail.
        retry_errors: make the parts again that hold an error.
        reports: "none", "all", or the number of answers with the lowest grounding that get a report.
        progress: called with "explaining", the answers done in this run, and None.
        asked: options of `Explainer.explain`, the same for all.

    Raises:
        InputError: an argument is not usable, the folder holds other results or a row that has changed, another run
            writes into it, or there were more errors than `max_errors`.
        OSError: the disk is full, or the folder cannot be written; what is finished stays.
    """
    _check(batch_size, part_size, maps, limit, shard, reports)
    folder, started = Path(out), time.monotonic()
    asked.setdefault("method", FOCUS)  # a row holds the maps of one method
    settings = _settings(explainer, batch_size, part_size, maps, shard, asked)
    rows = read(Path(source), prompt)
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    with locked(folder):
        _keep_settings(folder, settings)
        clear_unfinished(folder)
        if retry_errors:
            drop_failed(folder)
        work = _Run(explainer, folder, settings, maps, batch_size, asked, progress)
        if max_errors is not None:
            work.max_errors = max_errors
        work.go(rows if limit is None else islice(rows, limit), part_size, shard)
        if not work.summary.stopped:
            write_index(folder, reports)
        work.summary.seconds = time.monotonic() - started
    return work.summary


def _check(batch_size: int, part_size: int, maps: str, limit: int | None, shard: tuple[int, int], reports: Any) -> None:
    check_count("batch_size", batch_size, "answers")
    check_count("part_size", part_size, "rows")
    if limit is not None:
        check_count("limit", limit, "rows")
    if maps not in DTYPES:
        raise InputError(f"maps: expected one of {', '.join(DTYPES)}; got {maps!r}")
    if not 0 <= shard[0] < shard[1]:
        raise InputError(f"shard: expected (i, n) with 0 <= i < n; got {shard}")
    if reports not in ("none", "all"):
        check_count("reports", reports, "answers, or none, or all,")


def _settings(
    explainer: Explainer, batch_size: int, part_size: int, maps: str, shard: tuple[int, int], asked: AskedOptions
) -> dict[str, Any]:
    """All that the bytes of the parts depend on besides the input, as JSON values."""
    import torch
    import transformers

    options = explainer.options(**asked)
    if not isinstance(options.text_set, str):
        raise InputError("text_set: expected a name; got a mask, which is of one prompt and answer")
    return {
        "schema_version": SCHEMA_VERSION,
        "model": getattr(explainer, "model_name", None) or explainer.model.config.name_or_path,
        "revision": getattr(explainer.model.config, "_commit_hash", None),
        "dtype": str(explainer.model.dtype),
        "versions": {"dexar_fast": __version__, "torch": torch.__version__, "transformers": transformers.__version__},
        "options": {
            **options.asked,
            "text_set": options.text_set,
            "grounding": options.grounding,
            "max_new_tokens": options.max_new_tokens,
        },
        "batch_size": batch_size,
        "part_size": part_size,
        "maps": maps,
        "shard": list(shard),
    }


def _keep_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write the settings, or refuse a folder whose settings are others.

    Raises:
        InputError: says which differ.
    """
    path = folder / "settings.json"
    if not path.exists():
        write_atomically(path, json.dumps(settings, indent=2).encode())
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    if differences := list(_differences(before, settings)):
        raise InputError(
            f"out: {folder} was made with other settings ({'; '.join(differences)}). "
            "Pass these again, or name another folder"
        )


def _differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            yield from _differences(before.get(key), now.get(key), f"{name}.{key}".lstrip("."))
    elif before != now:
        yield f"{name}: then {before!r}, now {now!r}"


@dataclass
class _Run:
    """Explains the parts that are not done."""

    explainer: Explainer
    folder: Path
    settings: dict[str, Any]
    maps: str
    batch_size: int
    asked: AskedOptions
    progress: ProgressCallback
    max_errors: float = float("inf")

    def __post_init__(self) -> None:
        self.summary = Summary(self.folder)

    def go(self, rows: Iterator[Row], part_size: int, shard: tuple[int, int]) -> None:
        done = done_in(self.folder)
        groups = (
            (group, list(members))
            for group, members in groupby(rows, lambda row: row.index // part_size)
            if group % shard[1] == shard[0]
        )
        writing: Future[None] | None = None
        with ThreadPoolExecutor(1, thread_name_prefix="dexar-fast-write") as writer, _interrupts() as interrupted:
            for group, members in groups:
                if interrupted.is_set():
                    self.summary.stopped = True
                    break
                if not (waiting := self._waiting(members, done)):
                    continue
                records = self._explain(waiting)
                if writing is not None:
                    writing.result()  # one part waits for the disk, never more; and its error is told
                path = self.folder / "parts" / part_name(group, [row for row, *_ in waiting])
                writing = writer.submit(write_part, path, records)
                if self.summary.failed > self.max_errors:
                    writing.result()
                    raise InputError(
                        f"max_errors: {self.summary.failed} rows failed ({self.summary.errors}), more than "
                        f"{self.max_errors}. What is done is kept; see the column error"
                    )
            if writing is not None:
                writing.result()

    def _waiting(self, members: list[Row], done: Done) -> list[tuple[Row, list[bytes], str]]:
        """The rows of a part that are not done, with the bytes of their pictures and their keys."""
        waiting = []
        for row in members:
            files: list[bytes] = []
            try:
                files = [read_image(image) for image in row.images]
                reason = row.error
            except InputError as error:
                reason = row.error or f"InputError: {error}"
            key = key_of(row, files, self.settings)
            before = done.get((row.id, row.occurrence))
            if before is None:
                waiting.append((Row(**{**vars(row), "error": reason}), files, key))
            elif before == key:
                self.summary.done_before += 1
            else:
                raise InputError(
                    f"input: the row of id {row.id!r} is another than the one that was done. Name another folder; "
                    "or, if it failed before, pass retry_errors"
                )
        return waiting

    def _explain(self, waiting: list[tuple[Row, list[bytes], str]]) -> list[dict[str, Any]]:
        """A record for each row, in their order."""
        records: dict[tuple[str, int], dict[str, Any]] = {}
        asked_for: deque[tuple[Row, str]] = deque()

        def fail(row: Row, key: str, error: str) -> None:
            records[row.id, row.occurrence] = failed(row, key, error)
            self.summary.failed += 1
            kind = ":".join(error.split(":")[:2])[:80]
            self.summary.errors[kind] = self.summary.errors.get(kind, 0) + 1

        def requests() -> Iterator[ExplainRequest | ExplainIdsRequest]:
            for (row, _, key), request in zip(waiting, ahead(self._request, waiting, 2 * self.batch_size)):
                if isinstance(request, str):
                    fail(row, key, request)
                else:
                    asked_for.append((row, key))
                    yield request

        for result in explain_many(
            self.explainer, requests(), batch_size=self.batch_size, return_exceptions=True, **self.asked
        ):
            row, key = asked_for.popleft()
            if isinstance(result, Exception):
                fail(row, key, _told(result))
            else:
                records[row.id, row.occurrence] = explained(row, key, result, self.maps)
                self.summary.explained += 1
            self.progress("explaining", self.summary.explained + self.summary.failed, None)
        return [records[row.id, row.occurrence] for row, *_ in waiting]

    def _request(self, item: tuple[Row, list[bytes], str]) -> ExplainRequest | ExplainIdsRequest | str:
        """The pictures decoded and what to ask; or why not. Runs in the thread that reads ahead."""
        row, files, _ = item
        if row.error is not None:
            return row.error
        try:
            images = [decode(data) for data in files]
            if row.answer_ids is None:
                return ExplainRequest(images, row.prompt, row.answer)
            inputs = self.explainer.prompt_encoder.encode(images, row.prompt)
            return ExplainIdsRequest(inputs, row.answer_ids, images, row.prompt)
        except Exception as error:
            return _told(error)


def _told(error: Exception) -> str:
    """An error as the column says it, without the number that a request has in its part."""
    if isinstance(error, DexarFastError) and isinstance(error.__cause__, DexarFastError):
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """The first Ctrl-C sets the event, for the part to be finished; the second one interrupts."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def note(number: int, frame: Any) -> None:
        event.set()
        signal.signal(number, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
