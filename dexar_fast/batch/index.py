"""What is made of the parts at the end: the table of words, the index page, and reports."""

from __future__ import annotations

import html
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..render.payload import to_script
from ..result.atomic import write_atomically
from .keys import safe_name
from .parts import parquet_bytes, records_of
from .results import open_results

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


def write_index(folder: Path, reports: str | int) -> None:
    """Write words.parquet, index.html, and the reports that are asked for into ``reports/``."""
    words: list[dict[str, Any]] = []
    lines: list[list[Any]] = []
    for row in records_of(folder, ["id", "occurrence", "prompt", "answer", "words", "grounding", "error"]):
        words += [{"id": row["id"], **{name: word[name] for name in WORDS.names[1:]}} for word in row["words"] or ()]
        grounding = min(row["grounding"], default=None) if row["grounding"] else None
        lines.append([row["id"], row["prompt"], row["answer"], grounding, row["error"], row["occurrence"], None])
    write_atomically(folder / "words.parquet", parquet_bytes(pa.Table.from_pylist(words, schema=WORDS)))
    lines.sort(key=lambda line: (line[3] is None, line[3] or 0.0, line[0]))
    explained = [line for line in lines if line[4] is None]
    chosen = [] if reports == "none" else explained if reports == "all" else explained[: int(reports)]
    if chosen:
        (folder / "reports").mkdir(exist_ok=True)
        results = open_results(folder)
        for line in chosen:
            line[6] = f"reports/{safe_name(line[0])}.html"
            results[line[0]].to_html(folder / line[6])
    write_atomically(folder / "index.html", _page(folder.name, lines).encode("ascii", "xmlcharrefreplace"))


def _page(title: str, lines: list[list[Any]]) -> str:
    template = resources.files("dexar_fast.batch").joinpath("index.html").read_text(encoding="ascii")
    return template.replace("{{title}}", html.escape(title)).replace("{{data}}", to_script({"rows": lines}))
