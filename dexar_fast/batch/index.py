"""What is made of the parts at the end: the table of words, the index page, and reports."""

from __future__ import annotations

import heapq
import html
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from ..render.languages import fill, for_script, labels
from ..render.payload import to_script
from ..result.atomic import write_atomically
from .keys import safe_name
from .parts import part_paths
from .results import open_results

MOST_LINES = 100_000
"""Of the page: the answers of lowest grounding, and at most a tenth of it those that failed."""

WORDS = pa.schema(
    [
        ("id", pa.string()),
        ("word", pa.string()),
        ("grounding", pa.float32()),
        ("weight", pa.float32()),
        ("peak", pa.float32()),
        ("box", pa.list_(pa.float64())),
    ]
)

Line = list[Any]
"""Id, prompt, answer, lowest grounding, error, occurrence, and the path of the report or None."""


def write_index(
    folder: Path, reports: str | int, most: int = MOST_LINES, *, lang: str | Mapping[str, str] = "en"
) -> None:
    """Write words.parquet, index.html, and the reports that are asked for into ``reports/``.

    The parts are read one by one; of their rows only the lines of the page are held. ``lang`` is of the pages: see
    `dexar_fast.render.languages.labels`.
    """
    write_words(folder)
    failed = heapq.nsmallest(most // 10, (line for line in _lines(folder) if line[4] is not None), key=_place)
    n_shown = most - len(failed) if reports != "all" else None
    explained = heapq.nsmallest(n_shown or 1 << 62, (line for line in _lines(folder) if line[4] is None), key=_place)
    chosen = [] if reports == "none" else explained if reports == "all" else explained[: int(reports)]
    if chosen:
        (folder / "reports").mkdir(exist_ok=True)
        results = open_results(folder)
        for line in chosen:
            line[6] = f"reports/{safe_name(line[0])}.html"
            results[line[0]].to_html(folder / line[6], lang=lang)
    n_rows = sum(pq.read_metadata(path).num_rows for path in part_paths(folder))
    write_page(folder, explained[: most - len(failed)] + failed, n_rows, lang)


def write_words(folder: Path) -> None:
    """Write words.parquet, a row for each word of each answer."""
    path = folder / "words.parquet"
    temporary = path.with_name(f".{uuid4().hex}")  # as `write_atomically` does, for what is too large for the memory
    with pq.ParquetWriter(temporary, WORDS, compression="zstd") as writer:
        for part in part_paths(folder):
            rows = pq.read_table(part, columns=["id", "words"]).to_pylist()
            words = [{**{name: word.get(name) for name in WORDS.names}, "id": row["id"]}
                     for row in rows for word in row["words"] or ()]  # fmt: skip
            writer.write_table(pa.Table.from_pylist(words, schema=WORDS))
    os.replace(temporary, path)


def write_page(
    folder: Path, lines: Sequence[Line], n_rows: int | None = None, lang: str | Mapping[str, str] = "en"
) -> None:
    """Write index.html.

    Args:
        folder: of the results.
        lines: shown by the page.
        n_rows: how many answers there are; the page says if it does not show all.
        lang: of the page.
    """
    template = resources.files("dexar_fast.batch").joinpath("index.html").read_text(encoding="ascii")
    whole = n_rows in (None, len(lines))
    said = labels(lang)
    parts = {
        "title": html.escape(folder.name),
        "note": "" if whole else html.escape(said["index_part"].format(shown=len(lines), count=n_rows)),
        "data": to_script({"rows": list(lines), "labels": for_script(template, said, index=True)}),
    }
    page = fill(template, parts, said)
    write_atomically(folder / "index.html", page.encode("ascii", "xmlcharrefreplace"))


def _lines(folder: Path) -> Iterator[Line]:
    columns = ["id", "occurrence", "prompt", "answer", "grounding", "error"]
    for path in part_paths(folder):
        for row in pq.read_table(path, columns=columns).to_pylist():
            grounding = min(row["grounding"], default=None) if row["grounding"] else None
            yield [row["id"], row["prompt"], row["answer"], grounding, row["error"], row["occurrence"], None]


def _place(line: Line) -> tuple[bool, float, str, int]:
    """Lowest grounding first; answers without one by id."""
    return line[3] is None, line[3] or 0.0, line[0], line[5]
