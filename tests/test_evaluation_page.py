"""The figures of docs/evaluation.md are those of the kept results, and nothing else."""

from __future__ import annotations

import json

import pytest

from benchmarks.evaluation import COUNTED, ON_PAGE, PAGE, RUNS, by_number_of_objects, called, write_page
from benchmarks.files import RESULTS, put_between_markers
from dexar_fast.demo.scenes import draw_scene
from dexar_fast.evaluate.records import Record


def test_tables_are_made_from_the_kept_results(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text())
    for name in ON_PAGE:
        put_between_markers(page, name, "")
    assert page.read_text() != PAGE.read_text()
    write_page(page)
    assert page.read_text() == PAGE.read_text(), "run: make evaluation ARGS=tables"


def test_no_table_stands_outside_the_markers():
    """But those of definitions, in which a figure with an interval would be one that nothing regenerates."""
    inside = None
    for line in PAGE.read_text().split("\n## Against our goals")[0].splitlines():
        if line.startswith("<!-- "):
            inside = None if line.startswith("<!-- /") else line
        assert inside or not (line.startswith("|") and "…" in line), line


@pytest.mark.parametrize("name", RUNS)
def test_results_are_of_the_documented_command(name):
    document = json.loads((RESULTS / f"evaluation-{name}.json").read_text())
    assert document["command"] == called(name)
    assert RUNS[name] in " ".join(PAGE.read_text().split())


def test_by_number_of_objects():
    seeds = range(6)
    records = [Record(f"scene-{seed}", method, snr=float(seed)) for seed in seeds for method in COUNTED]
    records.append(Record("scene-0", COUNTED[0], control="another image", snr=100.0))
    records.append(Record("scene-0", COUNTED[0], target="word", snr=100.0))
    rows = by_number_of_objects(records).body
    counts = {seed: len(draw_scene(seed).objects) for seed in seeds}
    assert [int(row[0][0]) for row in rows] == sorted(set(counts.values()))
    for row in rows:
        members = [seed for seed in seeds if counts[seed] == int(row[0][0])]
        assert int(row[1][0]) == len(members)
        assert row[2][0].startswith(f"{sum(members) / len(members):.1f} (")
