"""The same run on a Ray cluster: each worker has the model, and writes whole parts into a folder that all see."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
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
from .parts import Done, done_in, part_name, write_part
from .readers.choose import count, read
from .runner import Summary, begun, check, check_errors
from .schema import Keep
from .settings import explaining, keep_settings, of_folder, row_chunk
from .work import Counts, Part, Work, in_parts


@dataclass(frozen=True)
class _Task:
    """A part of the input, and what of it is done."""

    part: Part
    done: Done


@dataclass(frozen=True)
class _Job:
    """What a worker is told once.

    Attributes:
        model, how: of `Explainer.from_pretrained`.
    """

    model: str
    how: Mapping[str, Any]
    folder: Path
    keep: Keep
    batch_size: int | str
    part_size: int
    asked: AskedOptions


class Worker:
    """An actor of Ray Data: holds the model, explains parts and writes them."""

    def __init__(self, job: _Job) -> None:
        self.job = job
        self.explainer = Explainer.from_pretrained(job.model, **job.how)
        asked: AskedOptions = {**job.asked}
        if asked.get("method") is None:
            asked["method"] = self.explainer.options(**asked).method
        asked["row_chunk"] = row_chunk(self.explainer, job.folder, job.batch_size, asked)
        self.asked, self.settings = asked, explaining(self.explainer, asked)
        of_all = of_folder(self.settings, job.keep, job.batch_size, job.part_size, (0, 1))
        for _ in range(2):  # what another worker wrote at the same moment is compared, too
            keep_settings(job.folder, of_all)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Explain the one part of a batch; gives what was done as JSON."""
        (task,) = batch["task"]
        job, (number, rows) = self.job, task.part
        left = [row for row in rows if (row.id, row.occurrence) not in task.done]
        path = job.folder / "parts" / part_name(number, [vars(row) for row in left])
        counts = Counts()
        if left and path.exists():  # of a worker that was lost behind it
            counts.done_before = len(rows)
        else:
            work = Work(
                self.explainer,
                job.folder,
                self.settings,
                job.keep,
                job.batch_size,
                self.asked,
                task.done,
                counts=counts,
            )
            for _, records in work.parts([task.part]):
                write_part(path, records)
        return {"counts": [json.dumps(vars(counts))]}


def run_on_ray(
    model: str,
    source: str | PathLike[str],
    out: str | PathLike[str],
    *,
    how: Mapping[str, Any] | None = None,
    workers: tuple[int, int] = (1, 1),
    gpus: float = 0,
    cpus: float = 1,
    prompt: str | None = None,
    questions: str | PathLike[str] | None = None,
    batch_size: int | str = 8,
    part_size: int = 64,
    keep: str = "tokens",
    maps: str = "uint8",
    exact: bool = False,
    pictures: bool = False,
    limit: int | None = None,
    max_errors: int | None = None,
    retry_errors: bool = False,
    reports: str | int = "none",
    lang: str | Mapping[str, str] = "en",
    progress: ProgressCallback = silent,
    **asked: Unpack[AskedOptions],
) -> Summary:
    """As `run`, on the cluster that `ray.init` connects to; rows and keys are the same.

    A part is the unit: where a worker is lost, Ray gives its part to another one. The input is read here; its rows wait
    in Ray's object store, so name pictures by path, in a folder that all machines see, as they see ``out``.

    Args:
        model: what each worker loads.
        how: with which options of `Explainer.from_pretrained`.
        workers: the fewest and the most at a time.
        gpus, cpus: of one worker.
        source, out, prompt, questions: see `run`, as for all others.

    Raises:
        InputError: as for `run`, or Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing goes out unless the user asks for it
    try:
        import ray
        from ray.data import ActorPoolStrategy
    except ImportError as error:
        raise InputError('engine: "ray" needs Ray. pip install "dexar-fast[ray]"') from error
    check(batch_size, part_size, limit, (0, 1), keep, reports)
    labels(lang)  # an unknown language is told now
    check_count("workers", workers[0], "workers")
    if workers[1] < workers[0]:
        raise InputError(f"workers: expected (fewest, most); got {workers}")
    folder, started, kept = Path(out).absolute(), time.monotonic(), Keep(keep, maps, exact, pictures)
    path = Path(source).absolute()
    rows = read(path, prompt, None if questions is None else Path(questions).absolute())
    total = count(path)
    total = total if limit is None or total is None else min(total, limit)
    summary = Summary(folder=folder)
    with begun(folder, kept, retry_errors):
        tasks = list(_tasks(in_parts(rows if limit is None else islice(rows, limit), part_size, (0, 1)), folder))
        if tasks:
            job = _Job(model, dict(how or {}), folder, kept, batch_size, part_size, asked)
            made = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
                Worker,
                fn_constructor_args=(job,),
                batch_size=1,
                batch_format="numpy",
                compute=ActorPoolStrategy(min_size=workers[0], max_size=workers[1]),
                num_gpus=gpus,
                num_cpus=cpus,
            )
            for line in made.iter_rows():
                summary.add(Counts(**json.loads(line["counts"])))
                progress("explaining", summary.explained + summary.failed + summary.done_before, total)
                check_errors(summary, max_errors)
        write_index(folder, reports, lang=lang)
    summary.seconds = time.monotonic() - started
    return summary


def _tasks(parts: Iterator[Part], folder: Path) -> Iterator[dict[str, _Task]]:
    done = done_in(folder)
    for number, rows in parts:
        names = [(row.id, row.occurrence) for row in rows]
        yield {"task": _Task((number, rows), {name: done[name] for name in names if name in done})}
