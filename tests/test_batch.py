"""Data-set runs: every answer once, whatever happens in between, and readable by others."""

from __future__ import annotations

import base64
import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dexar_fast import Explainer, InputError
from dexar_fast.demo.scenes import draw_scene

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

from dexar_fast import batch  # noqa: E402
from dexar_fast.batch import rows  # noqa: E402
from dexar_fast.batch.lock import locked  # noqa: E402
from dexar_fast.batch.readers.choose import read  # noqa: E402
from dexar_fast.result.atomic import write_atomically  # noqa: E402

PROMPT = "describe the image"


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer.from_pretrained("demo", device="cpu", self_test=False)


def write_input(folder: Path, n: int, **changes: dict[str, Any]) -> Path:
    """A JSONL file of scenes; changes by row, as `row_3={"image": "gone.png"}`."""
    lines = []
    for seed in range(n):
        draw_scene(seed).image.save(folder / f"{seed}.png")
        record = {"id": f"id {seed}", "image": f"{seed}.png", "prompt": PROMPT, "answer": "a red star"}
        lines.append(json.dumps({**record, **changes.get(f"row_{seed}", {})}))
    path = folder / "input.jsonl"
    path.write_text("\n".join(lines))
    return path


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def table(folder: Path) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = [
        row for path in sorted((folder / "parts").iterdir()) for row in pq.read_table(path).to_pylist()
    ]
    return records


def test_a_row_is_what_explain_gives(explainer, tmp_path):
    source = write_input(tmp_path, 3)
    summary = batch.run(explainer, source, tmp_path / "out", batch_size=2, part_size=2, maps="float32", grounding=True)
    assert (summary.explained, summary.failed) == (3, 0)
    results = batch.open(tmp_path / "out")
    assert list(results) == ["id 0", "id 1", "id 2"]
    for seed, row_id in enumerate(results):
        expected = explainer.explain(tmp_path / f"{seed}.png", PROMPT, "a red star", grounding=True)
        found = results[row_id]
        assert found.tokens == expected.tokens
        assert found.grid == expected.grid
        np.testing.assert_allclose(found.token_maps, expected.token_maps, atol=1e-4)
        np.testing.assert_allclose(found.answer_map, expected.answer_map, atol=1e-4)
        assert found.log_probabilities is not None
        assert expected.log_probabilities is not None
        np.testing.assert_allclose(found.log_probabilities, expected.log_probabilities, atol=1e-4)
        assert np.array_equal(np.asarray(found.image), np.asarray(draw_scene(seed).image))


def test_uint8_maps_are_off_by_half_a_step(explainer, tmp_path):
    source = write_input(tmp_path, 1)
    for maps in ("uint8", "float32"):
        batch.run(explainer, source, tmp_path / maps, maps=maps)
    fine, coarse = (batch.open(tmp_path / maps)["id 0"].token_maps for maps in ("float32", "uint8"))
    assert 0 < np.abs(fine - coarse).max() <= 0.5 / 255 + 1e-6


def test_answer_ids_are_taken_as_they_are(explainer, tmp_path):
    ids = explainer.prompt_encoder.encode_answer("a red star").tolist()
    source = write_input(tmp_path, 2, row_1={"answer": "something else", "answer_ids": ids})
    batch.run(explainer, source, tmp_path / "out")
    text, given = table(tmp_path / "out")
    assert given["token_ids"] == text["token_ids"] == ids


BROKEN: dict[str, tuple[dict[str, Any], str | None]] = {
    "row_0": ({"image": "gone.png"}, "cannot read"),
    "row_1": ({"image": "broken.png"}, "not a readable image"),
    "row_2": ({"id": "id 4"}, None),
    "row_3": ({"prompt": None}, "prompt: expected text"),
    "row_4": ({}, "id of an earlier row"),
    "row_5": ({"answer_ids": [1, "x"]}, "whole numbers"),
    "row_6": ({"messages": [], "prompt": None}, "messages"),
    "row_7": ({"answer_ids": [10**9]}, None),
}


def test_what_is_broken_is_a_row_and_not_the_end(explainer, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n no more")
    source = write_input(tmp_path, 9, **{row: change for row, (change, _) in BROKEN.items()})
    source.write_text(source.read_text() + "\n{broken")
    summary = batch.run(explainer, source, tmp_path / "out", batch_size=4, part_size=16)
    found = table(tmp_path / "out")
    assert len(found) == 10
    for record, (_, message) in zip(found, BROKEN.values()):
        assert message is None or message in record["error"]
    assert found[7]["error"]
    assert found[8]["error"] is None
    assert found[8]["answer"] == "a red star"
    assert found[9]["error"].startswith("InputError: line 10")
    assert summary.explained == 2
    assert summary.failed == 8


def test_an_answer_with_the_image_token_is_a_row_with_an_error(explainer, tmp_path):
    image_id = int(explainer.model.config.image_token_id)
    source = write_input(tmp_path, 2, row_0={"answer_ids": [image_id]})
    batch.run(explainer, source, tmp_path / "out")
    bad, good = table(tmp_path / "out")
    assert bad["error"]
    assert good["error"] is None


def test_max_errors_stops_and_keeps(explainer, tmp_path):
    source = write_input(tmp_path, 4, row_1={"image": "gone.png"})
    with pytest.raises(InputError, match="max_errors: 1 rows failed"):
        batch.run(explainer, source, tmp_path / "out", part_size=2, max_errors=0)
    assert [row["id"] for row in table(tmp_path / "out")] == ["id 0", "id 1"]


def test_errors_are_tried_again_when_asked(explainer, tmp_path):
    source = write_input(tmp_path, 4, row_1={"image": "late.png"})
    batch.run(explainer, source, tmp_path / "out", part_size=2)
    draw_scene(1).image.save(tmp_path / "late.png")
    summary = batch.run(explainer, source, tmp_path / "out", part_size=2, retry_errors=True)
    assert (summary.explained, summary.done_before) == (2, 2)
    assert [row["error"] for row in table(tmp_path / "out")] == [None] * 4


def test_shards_are_the_whole(explainer, tmp_path):
    source = write_input(tmp_path, 5)
    batch.run(explainer, source, tmp_path / "all", part_size=2)
    for i in range(2):
        batch.run(explainer, source, tmp_path / str(i), part_size=2, shard=(i, 2))
    whole = {path.name for path in (tmp_path / "all" / "parts").iterdir()}
    apart = [{path.name for path in (tmp_path / str(i) / "parts").iterdir()} for i in range(2)]
    assert len(whole) == 3
    assert apart[0] | apart[1] == whole
    assert not apart[0] & apart[1]


def test_other_settings_are_refused_by_name(explainer, tmp_path):
    source = write_input(tmp_path, 1)
    batch.run(explainer, source, tmp_path / "out")
    with pytest.raises(InputError, match=r"options\.method: then 'dexar-focus', now 'dexar-scores'"):
        batch.run(explainer, source, tmp_path / "out", method="dexar-scores")


def test_a_changed_row_is_refused(explainer, tmp_path):
    batch.run(explainer, write_input(tmp_path, 2), tmp_path / "out")
    changed = write_input(tmp_path, 2, row_1={"answer": "a blue star"})
    with pytest.raises(InputError, match="row of id 'id 1' is another"):
        batch.run(explainer, changed, tmp_path / "out")


def test_another_order_does_nothing_twice(explainer, tmp_path):
    source = write_input(tmp_path, 5)
    batch.run(explainer, source, tmp_path / "out", part_size=2, limit=4)
    source.write_text("\n".join(reversed(source.read_text().splitlines())))
    summary = batch.run(explainer, source, tmp_path / "out", part_size=2)
    assert (summary.explained, summary.done_before) == (1, 4)
    assert sorted(row["id"] for row in table(tmp_path / "out")) == [f"id {n}" for n in range(5)]


def test_two_runs_into_one_folder_are_refused(explainer, tmp_path):
    source, out = write_input(tmp_path, 1), tmp_path / "out"
    out.mkdir()
    with locked(out), pytest.raises(InputError, match="another run writes into"):
        batch.run(explainer, source, out)
    assert batch.run(explainer, source, out).explained == 1


def test_the_first_interrupt_finishes_the_part(explainer, tmp_path):
    source = write_input(tmp_path, 6)

    def interrupt(stage: str, done: int, total: int | None) -> None:
        if done == 1:
            os.kill(os.getpid(), signal.SIGINT)

    summary = batch.run(explainer, source, tmp_path / "out", part_size=2, batch_size=1, progress=interrupt)
    assert summary.stopped
    assert len(table(tmp_path / "out")) == 2
    assert batch.run(explainer, source, tmp_path / "out", part_size=2, batch_size=1).explained == 4


def test_a_full_disk_is_told_and_the_run_goes_on_later(explainer, tmp_path, monkeypatch):
    source = write_input(tmp_path, 4)
    batch.run(explainer, source, tmp_path / "whole", part_size=2)
    replace = os.replace

    def full(temporary: Path, path: Path) -> None:
        if "part-00000001" in path.name:
            raise OSError(28, "No space left on device")
        replace(temporary, path)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        batch.run(explainer, source, tmp_path / "out", part_size=2)
    monkeypatch.undo()
    batch.run(explainer, source, tmp_path / "out", part_size=2)
    assert {name: data for name, data in files_of(tmp_path / "out").items() if name.startswith("parts/")} == {
        name: data for name, data in files_of(tmp_path / "whole").items() if name.startswith("parts/")
    }


@pytest.mark.parametrize("folder", ["parts", ".", "reports"])
def test_what_a_kill_left_half_written_is_removed(folder, explainer, tmp_path, monkeypatch):
    place = tmp_path / "out" / folder
    place.mkdir(parents=True)
    with monkeypatch.context() as killed:
        killed.setattr(Path, "unlink", lambda path, missing_ok: None)  # nothing is tidied up
        killed.setattr(os, "replace", lambda temporary, path: None)
        write_atomically(place / "part.parquet", b"half")
    (half,) = (path for path in place.iterdir() if path.is_file())
    batch.run(explainer, write_input(tmp_path, 1), tmp_path / "out")
    assert not half.exists()


RUN = """
import sys
from dexar_fast import Explainer, batch
explainer = Explainer.from_pretrained("demo", device="cpu", self_test=False)
print("ready", flush=True)
batch.run(explainer, sys.argv[1], sys.argv[2], part_size=2, batch_size=2, grounding=True, reports="all")
"""


def test_killed_at_random_moments_the_bytes_are_those_of_an_undisturbed_run(explainer, tmp_path):
    kills = int(os.environ.get("DEXAR_FAST_KILLS", "3"))
    source = write_input(tmp_path, 48, row_3={"image": "gone.png"}, row_5={"id": "id 1"})
    whole, out = tmp_path / "a" / "results", tmp_path / "b" / "results"
    command = [sys.executable, "-c", RUN, str(source)]
    with subprocess.Popen([*command, str(whole)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        started = time.monotonic()
    assert process.returncode == 0
    took, draw, killed = time.monotonic() - started, random.Random(kills), 0
    for _ in range(kills):
        with subprocess.Popen([*command, str(out)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            try:
                process.wait(draw.uniform(0, 2 * took / kills))
            except subprocess.TimeoutExpired:
                process.kill()
                killed += 1
    assert killed
    subprocess.run([*command, str(out)], check=True, stdout=subprocess.DEVNULL)
    assert files_of(out) == files_of(whole)
    places = [(row["id"], row["occurrence"]) for row in table(out)]
    assert len(places) == len(set(places)) == 48


def as_csv(folder: Path, records: list[dict[str, Any]]) -> Path:
    with (folder / "input.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "image", "prompt"])
        writer.writeheader()
        writer.writerows(records)
    return folder / "input.csv"


def as_parquet(folder: Path, records: list[dict[str, Any]]) -> Path:
    nested = [
        {**record, "image": {"bytes": (folder / record["image"]).read_bytes(), "path": None}} for record in records
    ]
    pq.write_table(pa.Table.from_pylist(nested), folder / "input.parquet")
    return folder / "input.parquet"


def as_data_uris(folder: Path, records: list[dict[str, Any]]) -> Path:
    path = folder / "input.jsonl"
    data = [base64.b64encode((folder / record["image"]).read_bytes()).decode() for record in records]
    path.write_text("\n".join(json.dumps({**r, "image": f"data:image/png;base64,{d}"}) for r, d in zip(records, data)))
    return path


def as_pictures(folder: Path, records: list[dict[str, Any]]) -> Path:
    return folder


def as_data_set(folder: Path, records: list[dict[str, Any]]) -> Path:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(records).save_to_disk(folder / "saved")
    for record in records:
        (folder / "saved" / record["image"]).write_bytes((folder / record["image"]).read_bytes())
    return folder / "saved"


@pytest.mark.parametrize("make", [as_csv, as_parquet, as_data_uris, as_pictures, as_data_set])
def test_all_formats_give_the_same_pictures(make, tmp_path):
    records = []
    for seed in range(3):
        draw_scene(seed).image.save(tmp_path / f"{seed}.png")
        records.append({"id": f"{seed}.png", "image": f"{seed}.png", "prompt": PROMPT})
    found = list(read(make(tmp_path, records), PROMPT))
    assert [(row.id, row.prompt, row.error) for row in found] == [(f"{seed}.png", PROMPT, None) for seed in range(3)]
    for seed, row in enumerate(found):
        picture = rows.decode(rows.read_image(row.images[0]))
        assert np.array_equal(np.asarray(picture), np.asarray(draw_scene(seed).image))


def test_no_format_that_needs_another_program():
    with pytest.raises(InputError, match="not a readable image"):
        rows.decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")


def test_too_many_pixels_are_refused_before_they_are_decoded(monkeypatch):
    monkeypatch.setattr(rows, "MAX_PIXELS", 99)
    data = BytesIO()
    Image.new("RGB", (10, 10)).save(data, "PNG")
    with pytest.raises(InputError, match="at most 99 pixels; got 10 x 10"):
        rows.decode(data.getvalue())


def test_an_id_is_no_path_and_no_html(explainer, tmp_path):
    source = write_input(tmp_path, 1, row_0={"id": "../../x", "answer": "a red star", "prompt": "</script><b>"})
    batch.run(explainer, source, tmp_path / "out", reports="all", grounding=True)
    names = set(files_of(tmp_path))
    assert not any(".." in name or name.startswith("x") for name in names)
    assert len([name for name in names if name.startswith("out/reports/")]) == 1
    assert "</script><b>" not in (tmp_path / "out" / "index.html").read_text()


@pytest.mark.parametrize("reader", ["pandas", "polars", "duckdb", "datasets"])
def test_others_read_the_parts_in_one_line(reader, explainer, tmp_path, monkeypatch):
    library = pytest.importorskip(reader)
    batch.run(explainer, write_input(tmp_path, 3), tmp_path / "out", part_size=2)
    parts = str(tmp_path / "out" / "parts")
    if reader == "pandas":
        ids = library.read_parquet(parts)["id"].tolist()
    elif reader == "polars":
        ids = library.read_parquet(f"{parts}/*.parquet")["id"].to_list()
    elif reader == "duckdb":
        ids = [row[0] for row in library.sql(f"select id from '{parts}/*.parquet' order by id").fetchall()]
    else:
        cache = str(tmp_path / "cache")
        ids = library.load_dataset("parquet", data_files=f"{parts}/*.parquet", split="train", cache_dir=cache)["id"]
    assert list(ids) == ["id 0", "id 1", "id 2"]
