"""The figures of docs/evaluation.md and docs/method.md are those of the kept results, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.evaluation import ON_PAGES, PAGE, RUNS, called, write_page
from benchmarks.files import RESULTS, put_between_markers


@pytest.fixture(params=ON_PAGES, ids=lambda page: page.name)
def page(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


def test_tables_are_made_from_the_kept_results(page: Path, tmp_path: Path) -> None:
    copy = tmp_path / "page.md"
    copy.write_text(page.read_text())
    for name in ON_PAGES[page]:
        put_between_markers(copy, name, "")
    assert copy.read_text() != page.read_text()
    write_page(copy, like=page)
    assert copy.read_text() == page.read_text(), "run: make evaluation ARGS=tables"


def test_no_table_stands_outside_the_markers(page: Path) -> None:
    """But those of definitions, in which a figure with an interval would be one that nothing regenerates."""
    inside = None
    for line in page.read_text().splitlines():
        if line.startswith("<!-- "):
            inside = None if line.startswith("<!-- /") else line
        assert inside or not (line.startswith("|") and "\u2026" in line), line


@pytest.mark.parametrize("name", RUNS)
def test_results_are_of_the_documented_command(name: str) -> None:
    document = json.loads((RESULTS / f"evaluation-{name}.json").read_text())
    assert document["command"] == called(name)
    assert RUNS[name] in PAGE.read_text()
