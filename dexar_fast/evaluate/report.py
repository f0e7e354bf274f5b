"""The report of a run: Markdown and HTML with tables, curves and pictures; the tables also as JSON."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..result.atomic import write_atomically
from .records import Record
from .summary import constant_maps, failures
from .tables import Table, tables

TABLES = "tables.json"
SHOWN_FAILURES = 10

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #1a1a1a }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px;
  display: block; overflow-x: auto }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left }
img { max-width: 100% }
pre { white-space: pre-wrap }
"""


def write_report(
    records: Sequence[Record],
    settings: Mapping[str, Any],
    folder: Path,
    *,
    curves: Sequence[Path] = (),
    pictures: Mapping[str, Path] = {},
    panels: Sequence[str] = (),
    extra: Sequence[Table] = (),
) -> tuple[Path, Path]:
    """Write `report.md` and `report.html`, and the tables for programs: `tables.json`, a list of `Table` objects.

    Args:
        records: of the run.
        settings: what was run; shown.
        folder: where to.
        curves: the plot, SVG first.
        pictures: by name, with what their panels show.
        extra: tables besides those of the records, such as sanity checks.
    """
    shown = [*tables(records), *extra]
    remarks = _remarks(records)
    facts = [f"{name}: {value}" for name, value in settings.items() if value not in (None, {}, "")]
    markdown = ["# Evaluation", "", *(f"- {fact}" for fact in facts), ""]
    parts = ["<h1>Evaluation</h1>", "<ul>", *(f"<li>{html.escape(fact)}</li>" for fact in facts), "</ul>"]
    for table in shown:
        markdown.append(table.markdown())
        parts.append(table.html())
    if curves:
        markdown += ["### Curves", "", f"![Perturbation curves]({curves[0].name})", ""]
        parts.append(f'<h2>Curves</h2><img src="{html.escape(curves[0].name)}" alt="Perturbation curves">')
    for name, path in pictures.items():
        caption = f"{name} of the first method; from the left: {', '.join(panels)}"
        markdown += [f"### {name.capitalize()}", "", f"![{caption}]({path.name})", "", caption, ""]
        parts.append(f"<h2>{html.escape(name)}</h2>")
        parts.append(f'<img src="{html.escape(path.name)}" alt=""><p>{html.escape(caption)}</p>')
    markdown += [f"- {remark}" for remark in remarks]
    parts += [f"<p>{html.escape(remark)}</p>" for remark in remarks]
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Evaluation</title>'
        f"<style>{_STYLE}</style><body>" + "\n".join(parts) + "</body></html>"
    )
    write_atomically(folder / TABLES, (json.dumps([asdict(table) for table in shown], indent=1) + "\n").encode())
    return (
        write_atomically(folder / "report.md", ("\n".join(markdown).rstrip() + "\n").encode()),
        write_atomically(folder / "report.html", page.encode()),
    )


def _remarks(records: Sequence[Record]) -> list[str]:
    """What went wrong, counted and named."""
    remarks = [
        f"{method}: {count} constant maps, counted as failures at chance level"
        for method, count in constant_maps(records).items()
    ]
    failed = failures(records)
    if failed:
        remarks.append(f"{len(failed)} failures, left out of the tables:")
    for record in failed[:SHOWN_FAILURES]:
        remarks.append(f"{record.sample} {record.method}: {record.error}")
    if len(failed) > SHOWN_FAILURES:
        remarks.append(f"and {len(failed) - SHOWN_FAILURES} more, in records.parquet")
    return remarks
