"""The benchmark of the two maps of one pass, and of grounding."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.end_to_end import lenses
from benchmarks.run import main


def test_both_methods_and_grounding_are_measured_against_one(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before <!-- lenses --><!-- /lenses --> behind")
    out = tmp_path / "results"
    main(f"lenses --shapes tiny --lengths 3 5 --repetitions 1 --page {page} --out {out}".split())
    (path,) = out.iterdir()
    rows = json.loads(path.read_text())["rows"]
    assert [row["answer_tokens"] for row in rows] == [3, 5]
    for row in rows:
        assert 0 <= row["largest_difference"] < 1e-3
        seconds = {name: row[f"{name}_s"]["median"] for name in ("plain", "dexar", "focus", "both", "grounding")}
        assert row["both_over_dexar"] == pytest.approx(seconds["both"] / seconds["dexar"])
        assert row["focus_over_dexar"] == pytest.approx(seconds["focus"] / seconds["dexar"])
        added = (seconds["grounding"] - seconds["dexar"]) / seconds["plain"]
        assert row["grounding_over_plain"] == pytest.approx(added)
        assert f"| tiny | {row['answer_tokens']} |" in page.read_text()


def test_maps_of_both_that_differ_have_no_speed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(lenses, "largest_difference", lambda *_: float("nan"))
    with pytest.raises(SystemExit, match="tiny, 2 tokens: both methods differ from one by nan"):
        main(f"lenses --shapes tiny --lengths 2 --repetitions 1 --out {tmp_path}".split())
    (path,) = tmp_path.iterdir()
    (row,) = json.loads(path.read_text())["rows"]
    assert "both_s" not in row
