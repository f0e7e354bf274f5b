"""The figures of ``docs/evaluation.md`` and ``docs/method.md``: ``python -m benchmarks.evaluation [PART ...]``.

Runs every command that the pages document (or those that are named), keeps what they say in
``benchmarks/results/evaluation-<run>.json``, and
puts the tables and pictures into the pages. ``tables`` leaves the runs out and makes the tables anew from the kept
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
from pathlib import Path
from typing import Any

from dexar_fast.evaluate.report import TABLES
from dexar_fast.evaluate.tables import Table

from .files import RESULTS, ROOT, put_between_markers, write_results
from .timing import environment

PAGE = ROOT / "docs" / "evaluation.md"
FOLDER = ROOT / "dexar-fast-evaluation"

OURS = "dexar-focus,dexar,dexar-scores,dexar-attention"
WORDS = {
    "words-demo": "--model demo --skip 300 --n 500 --no-perturbation",
    "words-paligemma": "--model demo-paligemma --skip 300 --n 500 --no-perturbation",
    "words-qwen": "--model demo-qwen --skip 300 --n 500 --no-perturbation",
    "words-deep": "--model demo-deep --skip 300 --n 500 --no-perturbation",
    "words-reader": "--model demo-reader --skip 300 --n 500 --no-perturbation",
}
"""Maps of words, on samples that no method was made on."""
_ANSWERS = f"--methods {OURS},attention,attention-contrast --no-perturbation --answers --n 50"
RUNS = {
    **WORDS,
    "scenes": "--model demo --methods all --n 60",
    "curves": "--model demo --methods dexar-focus,dexar,dexar-attention,attention-contrast --word-curves "
    "--steps 5 --n 24",
    "questions": "--model demo --data demo-questions --n 60 --no-perturbation",
    "answers-demo": f"--model demo --data demo-locations {_ANSWERS}",
    "superpixels": "--model demo --methods dexar-focus,dexar,attention-contrast --no-perturbation --superpixels --n 20",
    "answers-qwen": f"--model demo-qwen --data demo-qwen-locations {_ANSWERS}",
    "ablations": "--model demo --skip 300 --ablations --methods dexar-focus --no-perturbation --n 30",
    "ablations-deep": "--model demo-deep --skip 300 --ablations --methods dexar-focus --no-perturbation --n 30",
    "grounding": "--model demo --grounding --methods dexar --no-perturbation --n 40",
    "sanity": "--model demo --sanity --methods "
    "dexar,dexar-scores,dexar-contribution,dexar-attention,attention,attention-contrast,tam"
    " --no-perturbation --n 20",
}
"""What `dexar-fast evaluate` is called with."""

PICTURES = {"curves.svg": "scenes", "median.png": "scenes", "worst.png": "scenes"}
"""File of a run's folder to the run; it goes to ``docs/images/evaluation-<file>``."""

KINDS = ("colour", "shape", "size", "place", "number")
DEEP_KINDS = (*KINDS, "pattern", "several tokens", "relation")

Results = dict[str, dict[str, Table]]
"""Run to title to table."""


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(RUNS), help=f"tables alone, or of {', '.join(RUNS)}")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for what the runs write")
    chosen = parser.parse_args(arguments)
    folder = chosen.out.resolve()
    if chosen.parts != ["tables"]:
        for name in chosen.parts:
            if name not in RUNS:
                parser.error(f"parts: expected tables, or some of {', '.join(RUNS)}; got {name!r}")
        for name in chosen.parts:
            run(name, folder / name)
        for file, name in PICTURES.items():
            if name in chosen.parts:
                shutil.copyfile(folder / name / file, PAGE.parent / "images" / f"evaluation-{file}")
    for page in ON_PAGES:
        write_page(page)
        print(f"Written: {page}")


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
    document = {"command": called(name), **facts, "tables": tables}
    write_results(RESULTS / f"evaluation-{name}.json", document)


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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


def write_page(page: Path = PAGE, results: Path = RESULTS, *, like: Path | None = None) -> None:
    """Put all tables of the results between the page's markers; of a copy, those of the page that it is like."""
    known = read_results(results)
    for name, make in ON_PAGES[like or page].items():
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
    """A column per kind of words: SNR with its interval / AUROC with its / peak."""

    def make(results: Results) -> str:
        tables = [results[run][f"Words: {kind}"] for kind in kinds]
        names = list(dict.fromkeys(row[0][0] for table in tables for row in table.body))
        body = []
        for name in names:
            cells = [(name, False)]
            for table in tables:
                at = [table.head.index(title) for title in WORD_FIGURES]
                row = next((row for row in table.body if row[0][0] == name), None)
                if row is None:
                    cells.append(("–", False))
                    continue
                snr, auroc, peak = (row[each] for each in at)
                cells.append((f"{_emphasised(snr)} / {_emphasised(auroc)} / {_mean(peak[0])}", False))
            body.append(cells)
        return markdown(("map of a word", *kinds), body)

    return make


def parts(run: str, kinds: Sequence[str] = KINDS) -> Callable[[Results], str]:
    """What the word map owes to each of its parts, as `words`."""

    def make(results: Results) -> str:
        table = results[run][PARTS]
        body = []
        for row in table.body:
            cells = [row[0]]
            for kind in kinds:
                snr, auroc, peak = (row[table.head.index(f"{kind}: {title}")][0] for title in WORD_FIGURES)
                cells.append((f"{snr} / {_mean(auroc)} / {_mean(peak)}", False))
            body.append(cells)
        return markdown(("variant", *kinds), body)

    return make


def many_models(results: Results) -> str:
    """SNR / AUROC / peak of all words of every model."""
    tables = [results[run][_all_words(results[run])] for run in WORDS]
    names = list(dict.fromkeys(row[0][0] for table in tables for row in table.body))
    body = []
    for name in names:
        cells = [(name, False)]
        for table in tables:
            row = next((row for row in table.body if row[0][0] == name), None)
            at = [table.head.index(title) for title in WORD_FIGURES]
            found = ["–"] if row is None else [_emphasised((_mean(row[each][0]), row[each][1])) for each in at]
            cells.append((" / ".join(found), False))
        body.append(cells)
    return markdown(("map of a word", *(run.replace("words-", "") for run in WORDS)), body)


def _all_words(tables: dict[str, Table]) -> str:
    return next(title for title in tables if title.startswith("Words, all"))


def answers(results: Results) -> str:
    """Pointing and flips of every model."""
    runs = [run for run in RUNS if run.startswith("answers-")]
    tables = [results[run]["The model's own answers"] for run in runs]
    body = []
    for rows in zip(*(table.body for table in tables), strict=True):
        body.append([rows[0][0], *(cell for row in rows for cell in row[1:])])
    heads = [f"{run.removeprefix('answers-')}: {title}" for run in runs for title in tables[0].head[1:]]
    return markdown(("method", *heads), body)


def word_curves(results: Results) -> str:
    """Areas of the curves of single words, positive and negative, by kind."""
    kinds = KINDS[:-1]
    tables = [results["curves"][f"Words: {kind}"] for kind in kinds]
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


LOCALISED = ("SNR (dB)", "AUROC (%)", "pointing (%)", "peak (%)")
WORD_FIGURES = ("SNR (dB)", "AUROC (%)", "peak (%)")
PARTS = "Parts of dexar-focus"
METHOD_PAGE = ROOT / "docs" / "method.md"
ON_PAGES: dict[Path, dict[str, Callable[[Results], str]]] = {
    PAGE: {
        "models": many_models,
        "answers": whole("scenes", "Answer maps"),
        "removal": whole("scenes", "Removing the image piece by piece"),
        "word-curves": word_curves,
        "questions": columns("questions", "Answer maps", *LOCALISED),
        "question-words": words("questions", ("colour", "shape", "place", "number")),
        "own-answers": answers,
        "superpixels": whole("superpixels", "Insertion and deletion of superpixels", note=True),
        "options": options,
        "combinations": whole("ablations", "Combining words into the answer map"),
        "grounding": whole("grounding", "Grounding", note=True),
        "sanity": whole("sanity", "Sanity checks"),
    },
    METHOD_PAGE: {
        "words-demo": words("words-demo"),
        "words-paligemma": words("words-paligemma"),
        "words-qwen": words("words-qwen"),
        "words-deep": words("words-deep", DEEP_KINDS),
        "words-reader": words("words-reader", ("text", "number")),
        "parts": parts("ablations"),
        "parts-deep": parts("ablations-deep", DEEP_KINDS),
    },
}
"""Page, and markers in it, to what stands there."""


if __name__ == "__main__":
    main(sys.argv[1:])
