"""A run over a data set: part by part, each written whole, so that it goes on wherever it was stopped."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, Unpack

from ..errors import InputError, check_count
from ..explainer import Explainer
from ..inputs.options import AskedOptions
from ..progress import ProgressCallback, silent
from ..render.languages import labels
from .index import write_index
from .lock import locked
from .parts import clear_unfinished, done_in, drop_failed, part_name, write_part
from .readers.choose import count, read
from .schema import Keep
from .settings import explaining, keep_settings, of_folder, row_chunk
from .work import Counts, Part, Work, in_parts


@dataclass
class Summary(Counts):
    """What a run did.

    Attributes:
        explained, failed: answers of this run.
        done_before: answers that were found done.
        errors: each kind of error of this run with its number, without the details behind the second colon.
        folder: of the results.
        seconds: of this run, without loading the model.
        stopped: whether it was interrupted; the same call goes on.
    """

    folder: Path = Path()
    seconds: float = 0.0
    stopped: bool = False


def run(
    explainer: Explainer,
    source: str | PathLike[str],
    out: str | PathLike[str],
    *,
    prompt: str | None = None,
    questions: str | PathLike[str] | None = None,
    batch_size: int | str = 8,
    part_size: int = 64,
    keep: str = "tokens",
    maps: str = "uint8",
    exact: bool = False,
    pictures: bool = False,
    limit: int | None = None,
    shard: tuple[int, int] = (0, 1),
    max_errors: int | None = None,
    retry_errors: bool = False,
    reports: str | int = "none",
    lang: str | Mapping[str, str] = "en",
    progress: ProgressCallback = silent,
    **asked: Unpack[AskedOptions],
) -> Summary:
    """Explain every answer of a data set and write one Parquet row for each, also for those that fail.

    Stopped at any moment and called again, it goes on; the parts are then those of an undisturbed run, byte for byte.

    Args:
        explainer: the model.
        source: a .jsonl, .csv, .tsv, .xlsx or .parquet file, a folder that `datasets` saved, or a folder of pictures
            (docs/batch.md).
        out: folder for the results; it is made.
        prompt: for rows that have none.
        questions: another such input, with images and prompts for answers that come without, by id.
        batch_size: answers that run together, as for `Explainer.explain_many`; "auto" takes as many as their lengths
            and the memory that is free when the folder is begun allow.
        part_size: rows of the input per part file, the most that is lost when a run is killed. Rows of like length run
            together within a part.
        keep: "answer", "words", "tokens" or "scores": whose maps are kept, the last with the scores of the heads.
        maps: "uint8", "float16" or "float32".
        exact: also write the file of `Explanation.save` of each answer, bit for bit.
        pictures: also keep the bytes of the pictures, and the answer map as PNG, in the rows.
        limit: only the first rows of the input.
        shard: ``(i, n)``: every n-th part, from the i-th on, i from 0. Each shard has a folder of its own.
        max_errors: stop when more rows than this fail.
        retry_errors: make the parts again that hold an error.
        reports: "none", "all", or the number of answers with the lowest grounding that get a report.
        lang: the language of index and reports, as for `Explanation.to_html`.
        progress: called with "explaining", the answers that are done, and how many there are, if that is known.
        asked: options of `Explainer.explain`, the same for all. Without a method, its first default alone.

    Raises:
        InputError: an argument is not usable, the folder holds other results or a row that has changed, another run
            writes into it, or there were more errors than `max_errors`.
        OSError: the disk is full, or the folder cannot be written; what is finished stays.
    """
    check(batch_size, part_size, limit, shard, keep, reports)
    labels(lang)  # an unknown language is told now
    kept = Keep(keep, maps, exact, pictures)
    folder, started = Path(out), time.monotonic()
    if asked.get("method") is None:
        asked["method"] = explainer.options(**asked).method
    rows = read(Path(source), prompt, None if questions is None else Path(questions))
    total = count(Path(source))
    if total is not None:
        total = min(total, limit or total) // shard[1] if shard[1] > 1 else min(total, limit or total)
    with begun(folder, kept, retry_errors):
        asked["row_chunk"] = row_chunk(explainer, folder, batch_size, asked)
        settings = explaining(explainer, asked)
        keep_settings(folder, of_folder(settings, kept, batch_size, part_size, shard))
        summary = Summary(folder=folder)
        work = Work(explainer, folder, settings, kept, batch_size, asked, done_in(folder), progress, summary)
        _go(
            work, in_parts(rows if limit is None else islice(rows, limit), part_size, shard), summary, max_errors, total
        )
        if not summary.stopped:
            write_index(folder, reports, lang=lang)
        summary.seconds = time.monotonic() - started
    return summary


def check(
    batch_size: int | str, part_size: int, limit: int | None, shard: tuple[int, int], keep: str, reports: Any
) -> None:
    """Refuse arguments of `run` that are not usable.

    Raises:
        InputError: names the argument.
    """
    if batch_size != "auto":
        if isinstance(batch_size, str):
            raise InputError(f'batch_size: expected a number of answers, or "auto"; got {batch_size!r}')
        check_count("batch_size", batch_size, "answers")
    check_count("part_size", part_size, "rows")
    if limit is not None:
        check_count("limit", limit, "rows")
    if not 0 <= shard[0] < shard[1]:
        raise InputError(f"shard: expected (i, n) with 0 <= i < n; got {shard}")
    if reports not in ("none", "all"):
        check_count("reports", reports, "answers, or none, or all,")
    if reports != "none" and keep in ("answer", "words"):
        raise InputError(f"reports: they show the maps of tokens; got keep={keep!r}. Keep tokens, or write no reports")


@contextmanager
def begun(folder: Path, keep: Keep, retry_errors: bool) -> Iterator[None]:
    """The folder, made and held, without what a killed run left half written."""
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    if keep.exact:
        (folder / "exact").mkdir(exist_ok=True)
    with locked(folder):
        clear_unfinished(folder)
        if retry_errors:
            drop_failed(folder)
        yield


def check_errors(counts: Counts, max_errors: int | None) -> None:
    """Refuse to go on after too many errors.

    Raises:
        InputError: there were more than ``max_errors``.
    """
    if max_errors is not None and counts.failed > max_errors:
        raise InputError(
            f"max_errors: {counts.failed} rows failed ({counts.errors}), more than {max_errors}. What is done is kept; "
            "see the column error"
        )


def _go(work: Work, parts: Iterable[Part], summary: Summary, max_errors: int | None, total: int | None) -> None:
    """Write part after part, each while the next one is explained."""
    with ThreadPoolExecutor(1, thread_name_prefix="dexar-fast-write") as writer, _interrupts() as interrupted:
        writing: Future[None] | None = None
        with closing(work.parts(parts, total)) as made:
            for number, records in made:
                if writing is not None:
                    writing.result()  # one part waits for the disk, never more; and its error is told
                path = work.folder / "parts" / part_name(number, records)
                writing = writer.submit(write_part, path, records)
                if max_errors is not None and summary.failed > max_errors:
                    writing.result()
                    check_errors(summary, max_errors)
                if interrupted.is_set():
                    summary.stopped = True
                    break
        if writing is not None:
            writing.result()


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
