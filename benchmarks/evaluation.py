"""The figures of ``docs/evaluation.md``: ``python -m benchmarks.evaluation [tables] [--out FOLDER]``.

Runs every command that the page documents, keeps what they say in ``benchmarks/results/evaluation-<run>.json``, and
puts the tables and pictures into the page. ``tables`` leaves the runs out and makes the tables anew from the kept
results. An interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dexar_fast.demo.scenes import draw_scene
from dexar_fast.evaluate.records import RECORDS, Record, read_records
from dexar_fast.evaluate.report import TABLES
from dexar_fast.evaluate.summary import SNR, interval
from dexar_fast.evaluate.tables import Table, shown

from .files import RESULTS, ROOT, put_between_markers, write_results
from .timing import environment

PAGE = ROOT / "docs" / "evaluation.md"
FOLDER = ROOT / "dexar-fast-evaluation"

OURS = "dexar,dexar-scores,dexar-contribution,dexar-attention"
RUNS = {
    "scenes": "--model demo --methods all --n 200",
    "words": "--model demo --methods dexar,dexar-attention,attention-contrast --word-curves --steps 5 --n 24",
    "questions": "--data demo-questions --n 200 --no-perturbation",
    "ablations": "--model demo --ablations --methods dexar --no-perturbation --n 200",
    "grounding": "--model demo --grounding --methods dexar --no-perturbation --n 200",
    "sanity": f"--model demo --sanity --methods {OURS},attention,attention-contrast,tam --no-perturbation --n 20",
}
"""What `dexar-fast evaluate` is called with; what is not named is its default, 200 drawn scenes."""

PICTURES = {"curves.svg": "scenes", "median.png": "scenes", "worst.png": "scenes"}
"""File of a run's folder to the run; it goes to ``docs/images/evaluation-<file>``."""

BY_OBJECTS = "Answer maps by number of objects"
COUNTED = ("dexar", "dexar-contribution", "dexar-attention", "attention")
KINDS = ("colour", "shape", "size", "place", "number")

Results = dict[str, dict[str, Table]]
"""Run to title to table."""


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=__doc__)
    parser.add_argument("part", nargs="?", choices=["all", "tables"], default="all")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for what the runs write")
    chosen = parser.parse_args(arguments)
    folder = chosen.out.resolve()
    if chosen.part == "all":
        for name in RUNS:
            run(name, folder / name)
        for file, name in PICTURES.items():
            shutil.copyfile(folder / name / file, PAGE.parent / "images" / f"evaluation-{file}")
    write_page()
    print(f"Written: {PAGE}")


def run(name: str, folder: Path) -> None:
    """Run one command and keep its tables, with the processor time that it took if it started from nothing."""
    fresh = not folder.exists()
    before = _processor_seconds()
    command = [sys.executable, "-m", "dexar_fast", "evaluate", *RUNS[name].split(), "--out", str(folder)]
    print(called(name), flush=True)
    subprocess.run([*command, "--quiet"], check=True, cwd=ROOT)
    seconds = _processor_seconds() - before
    keep(name, folder, {"processor_seconds": round(seconds) if fresh else None, "environment": environment("cpu")})


def called(name: str) -> str:
    """A run as a user types it."""
    return f"dexar-fast evaluate {RUNS[name]}".rstrip()


def keep(name: str, folder: Path, facts: dict[str, Any]) -> None:
    """Write the tables of a finished run, and those that only its records have, to the results."""
    tables = json.loads((folder / TABLES).read_text(encoding="utf-8"))
    if name == "scenes":
        tables.append(asdict(by_number_of_objects(list(read_records(folder / RECORDS)))))
    document = {"command": called(name), **facts, "tables": tables}
    write_results(RESULTS / f"evaluation-{name}.json", document)


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def by_number_of_objects(records: Sequence[Record]) -> Table:
    """SNR of the answer maps of drawn scenes, a row per number of objects."""
    groups: dict[int, list[Record]] = {}
    for record in records:
        if record.target == "answer" and not record.control and record.error is None:
            seed = int(record.sample.removeprefix("scene-"))
            groups.setdefault(len(draw_scene(seed).objects), []).append(record)
    body = []
    for n_objects in sorted(groups):
        group = groups[n_objects]
        cells = [(str(n_objects), False), (str(len({record.sample for record in group})), False)]
        for method in COUNTED:
            value = interval([record for record in group if record.method == method], SNR)
            cells.append((shown(value, SNR.decimals), False))
        body.append(tuple(cells))
    return Table(BY_OBJECTS, ("objects", "scenes", *COUNTED), tuple(body), "SNR in dB.")


def read_results(folder: Path = RESULTS) -> Results:
    """The kept tables of every run.

    Raises:
        FileNotFoundError: a run was not kept.
    """
    results: Results = {}
    for name in RUNS:
        document = json.loads((folder / f"evaluation-{name}.json").read_text(encoding="utf-8"))
        results[name] = {each["title"]: _table(each) for each in document["tables"]}
    return results


def _table(document: dict[str, Any]) -> Table:
    body = tuple(tuple((text, strong) for text, strong in row) for row in document["body"])
    return Table(document["title"], tuple(document["head"]), body, document["note"])


def write_page(page: Path = PAGE, results: Path = RESULTS) -> None:
    """Put all tables of the results between the page's markers."""
    known = read_results(results)
    for name, make in ON_PAGE.items():
        put_between_markers(page, name, make(known))


def whole(run: str, title: str, *, note: bool = False) -> Callable[[Results], str]:
    """A table as it is."""

    def make(results: Results) -> str:
        table = results[run][title]
        return markdown(table.head, table.body) + (f"\n\n{table.note}" if note else "")

    return make


def columns(run: str, title: str, *names: str) -> Callable[[Results], str]:
    """Some columns of a table, behind its first one."""

    def make(results: Results) -> str:
        table = results[run][title]
        wanted = [0, *(table.head.index(name) for name in names)]
        return markdown([table.head[at] for at in wanted], [[row[at] for at in wanted] for row in table.body])

    return make


def words(run: str, kinds: Sequence[str] = KINDS) -> Callable[[Results], str]:
    """A column per kind of words: SNR with its interval, AUROC and pointing without."""

    def make(results: Results) -> str:
        tables = [results[run][f"Words: {kind}"] for kind in kinds]
        body = []
        for rows in zip(*(table.body for table in tables), strict=True):
            assert len({row[0] for row in rows}) == 1, "the tables of kinds have the same methods"
            cells = [rows[0][0]]
            for _, (snr, strong), (auroc, _), (pointing, _), *_ in rows:
                cells.append((f"{snr} / {_mean(auroc)} / {_mean(pointing)}", strong))
            body.append(cells)
        return markdown(("method", *kinds), body)

    return make


def word_curves(results: Results) -> str:
    """Areas of the curves of single words, positive and negative, by kind."""
    kinds = KINDS[:-1]
    tables = [results["words"][f"Words: {kind}"] for kind in kinds]
    head = tables[0].head
    positive, negative = head.index("positive (nats)"), head.index("negative (nats)")
    body = []
    for rows in zip(*(table.body for table in tables), strict=True):
        if rows[0][positive][0] != "–":  # not measured
            both = [f"{_emphasised(row[positive])} / {_emphasised(row[negative])}" for row in rows]
            body.append([rows[0][0], *((text, False) for text in both)])
    return markdown(("method", *(f"{kind}: positive / negative (nats)" for kind in kinds)), body)


def options(results: Results) -> str:
    """SNR and AUROC of the varied options, without intervals."""
    table = results["ablations"]["Options"]
    kinds = ("answer", "place", "size", "colour", "shape")
    at = {kind: (table.head.index(f"{kind}: SNR (dB)"), table.head.index(f"{kind}: AUROC (%)")) for kind in kinds}
    body = [
        [row[0], *((f"{_mean(row[snr][0])} / {_mean(row[auroc][0])}", False) for snr, auroc in at.values())]
        for row in table.body
    ]
    return markdown(("variant", *kinds), body)


def markdown(head: Sequence[str], body: Sequence[Sequence[tuple[str, bool]]]) -> str:
    """A table of cells, each with whether it is bold; intervals in the page's short form."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *([_emphasised(cell) for cell in row] for row in body)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines).replace(" to ", "…")


def _emphasised(cell: tuple[str, bool]) -> str:
    text, strong = cell
    return f"**{text}**" if strong else text


def _mean(text: str) -> str:
    """Of "mean (low to high)" the mean."""
    return text.partition(" (")[0]


LOCALISED = ("SNR (dB)", "AUROC (%)", "pointing (%)")
REMOVED = "Removing the image piece by piece"
ON_PAGE: dict[str, Callable[[Results], str]] = {
    "answers": whole("scenes", "Answer maps"),
    "removal": whole("scenes", REMOVED),
    "words": words("scenes"),
    "word-curves": word_curves,
    "questions": columns("questions", "Answer maps", *LOCALISED),
    "question-words": words("questions", ("colour", "shape", "place", "number")),
    "options": options,
    "combinations": whole("ablations", "Combining words into the answer map"),
    "grounding": whole("grounding", "Grounding", note=True),
    "sanity": whole("sanity", "Sanity checks"),
    "objects": whole("scenes", BY_OBJECTS),
}
"""Marker of the page to what stands there."""


if __name__ == "__main__":
    main(sys.argv[1:])
