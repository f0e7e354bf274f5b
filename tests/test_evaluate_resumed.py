"""A run that goes on in a folder: with records of its own rows and model alone, and with whatever a crash has left."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dexar_fast import Explainer, InputError
from dexar_fast.evaluate.data import open_data
from dexar_fast.evaluate.identity import rows_digest
from dexar_fast.evaluate.records import Record, RecordStore
from dexar_fast.evaluate.run import Plan, evaluate
from dexar_fast.models.digest import weights_digest

from .tiny import picture, tiny_llava, tiny_processor

PLAN = Plan(("dexar",), 2, perturbation=False)


@pytest.fixture
def explainer() -> Explainer:
    return Explainer(tiny_llava(dtype=torch.float32), tiny_processor())


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A file of two rows, with a picture and a mask."""
    picture().save(tmp_path / "a.png")
    Image.fromarray(np.eye(30, 40, dtype=np.uint8)).save(tmp_path / "m.png")
    return write(tmp_path / "data.jsonl", "what is it?")


def write(path: Path, prompt: str, **more: Any) -> Path:
    kept = [{"image": "a.png", "prompt": prompt, "answer": "a red square", "mask": "m.png", **more}] * 2
    path.write_text("\n".join(json.dumps(row) for row in kept))
    return path


def run(explainer: Explainer, rows: Path, folder: Path, plan: Plan = PLAN) -> list[Record]:
    return evaluate(explainer, open_data(str(rows)), plan, folder)


def edit_prompts(rows: Path) -> None:
    write(rows, "is it red?")


def edit_answers(rows: Path) -> None:
    write(rows, "what is it?", answer="a blue star")


def edit_words(rows: Path) -> None:
    write(rows, "what is it?", words=[{"index": 1, "kind": "noun"}])


def edit_picture(rows: Path) -> None:
    picture().rotate(180).save(rows.parent / "a.png")


def edit_mask(rows: Path) -> None:
    Image.fromarray(np.ones((30, 40), dtype=np.uint8)).save(rows.parent / "m.png")


@pytest.mark.parametrize("edit", [edit_prompts, edit_answers, edit_words, edit_picture, edit_mask])
def test_other_rows_under_the_same_name(explainer: Explainer, rows: Path, tmp_path: Path, edit) -> None:
    run(explainer, rows, tmp_path / "out")
    run(explainer, rows, tmp_path / "out")
    edit(rows)
    with pytest.raises(InputError, match=r"--out: .* holds records of another run: rows was '.*', is now '"):
        run(explainer, rows, tmp_path / "out")


def test_another_file_of_the_same_name(explainer: Explainer, rows: Path, tmp_path: Path) -> None:
    run(explainer, rows, tmp_path / "out")
    shutil.copytree(tmp_path, tmp_path.parent / "b", ignore=shutil.ignore_patterns("out"))
    other = tmp_path.parent / "b" / "data.jsonl"
    run(explainer, other, tmp_path / "out")  # a copy is the same
    edit_prompts(other)
    with pytest.raises(InputError, match="rows was"):
        run(explainer, other, tmp_path / "out")


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (lambda: tiny_llava(seed=3, dtype=torch.float32), "weights was"),
        (lambda: tiny_llava(dtype=torch.bfloat16), "dtype was 'float32', is now 'bfloat16'"),
        (lambda: tiny_llava(attention="eager", dtype=torch.float32), "attention was 'sdpa', is now 'eager'"),
    ],
    ids=["weights", "dtype", "attention"],
)
def test_another_model_under_the_same_name(explainer: Explainer, rows: Path, tmp_path: Path, other, named) -> None:
    run(explainer, rows, tmp_path / "out")
    with pytest.raises(InputError, match=named):
        run(Explainer(other(), explainer.processor), rows, tmp_path / "out")


def test_other_versions(explainer: Explainer, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(explainer, rows, tmp_path / "out")
    monkeypatch.setattr("dexar_fast.engine.provenance.__version__", "0.0.1")
    with pytest.raises(InputError, match=r"versions was .*, is now .*0\.0\.1"):
        run(explainer, rows, tmp_path / "out")


def test_the_weights_digest_sees_every_weight() -> None:
    model = tiny_llava(dtype=torch.float32)
    seen = {weights_digest(model)}
    for weight in model.parameters():
        with torch.no_grad():
            weight.add_(0.001)
        seen.add(weights_digest(model))
    assert len(seen) == 1 + len(list(model.parameters()))


def test_the_rows_digest_counts_what_cannot_be_read(rows: Path) -> None:
    data = open_data(str(rows))
    before = rows_digest(data, 2)
    (rows.parent / "m.png").unlink()
    assert rows_digest(data, 2) != before


DAMAGES = {"empty": lambda data: b"", "cut off": lambda data: data[:-50], "other bytes": lambda data: b"x" * 100}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_part_runs_again(explainer: Explainer, rows: Path, tmp_path: Path, damage) -> None:
    whole = run(explainer, rows, tmp_path / "out")
    part = tmp_path / "out" / "parts" / "00000.parquet"
    part.write_bytes(damage(part.read_bytes()))
    with pytest.warns(UserWarning, match=r"00000\.parquet is damaged .* its samples run again"):
        again = run(explainer, rows, tmp_path / "out")

    def timeless(records: list[Record]) -> list[Record]:
        return [replace(record, seconds=None, forward_seconds=None) for record in records]

    assert timeless(again) == timeless(whole)
    assert run(explainer, rows, tmp_path / "out") == again


@pytest.mark.parametrize("text", ["", "[]", '{"model": "dem', None], ids=["empty", "a list", "cut off", "gone"])
def test_settings_that_cannot_be_read(explainer: Explainer, rows: Path, tmp_path: Path, text: str | None) -> None:
    """Without records nothing is lost, and they are written anew; with some it is not known what these are of."""
    out = tmp_path / "out"
    run(explainer, rows, out)
    settings = out / "settings.json"
    settings.unlink() if text is None else settings.write_text(text)
    with pytest.raises(InputError, match=r"--out: .*settings\.json"):
        run(explainer, rows, out)
    (out / "parts" / "00000.parquet").unlink()
    run(explainer, rows, out)
    assert json.loads(settings.read_text())["methods"] == ["dexar"]


def test_half_a_character(explainer: Explainer, rows: Path, tmp_path: Path) -> None:
    """In a key it is refused; elsewhere the row fails, and its record can be kept."""
    with pytest.raises(InputError, match=r"data: expected characters in a key; row 0 of .*'k\\ud83d'"):
        open_data(str(write(rows, "what is it?", key="k\ud83d")))
    records = run(explainer, write(rows, "a \ud83d b"), tmp_path / "out")
    assert len(records) == 2
    assert all(record.error for record in records)
    RecordStore(tmp_path / "texts", {}).write_part(0, [Record("s", text="\ud83d", error="of \ud83d")])
    (record,) = RecordStore(tmp_path / "texts", {}).records(1)
    assert (record.text, record.error) == ("\\ud83d", "of \\ud83d")


@pytest.mark.parametrize("name", ["data.jsonl", "data.parquet"])
def test_files_that_are_no_data(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\xff\xfe\x00 nothing of the kind")
    with pytest.raises(InputError, match=f"data: .*{name} is not"):
        open_data(str(tmp_path / name))


def test_a_mask_of_a_format_that_another_program_draws(explainer: Explainer, rows: Path) -> None:
    picture().save(rows.parent / "m.eps")
    (rows.parent / "m.eps").rename(rows.parent / "m.png")
    with pytest.raises(InputError, match=r"m\.png is not a readable mask"):
        open_data(str(rows))[0]
