"""What a data-set run keeps: several methods, head scores, less than tokens, exact files; and batches by length."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from dexar_fast import Explainer, InputError

pytest.importorskip("pyarrow")

from dexar_fast import batch
from dexar_fast.batch import work
from dexar_fast.batch.rows import read_image
from dexar_fast.cli import app
from dexar_fast.demo.scenes import draw_scene
from dexar_fast.result.explanation import Explanation
from dexar_fast.result.method_maps import MethodMaps
from dexar_fast.runs import many

from .test_batch import PROMPT, files_of, table, write_input

METHODS = ["dexar", "dexar-focus", "attention"]


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer.from_pretrained("demo", device="cpu", self_test=False)


def explained(explainer: Explainer, folder: Path, **options: Any) -> Explanation:
    return explainer.explain(folder / "0.png", PROMPT, "a red star", **options)


def assert_same(found: MethodMaps, expected: MethodMaps) -> None:
    for name, values in found.as_fields.items():
        other = getattr(expected, name)
        assert (values is None) == (other is None), name
        if values is not None:
            np.testing.assert_allclose(values, other, atol=1e-5, err_msg=name)


def test_all_methods_and_the_scores_of_heads_come_back(explainer, tmp_path):
    source = write_input(tmp_path, 1)
    batch.run(explainer, source, tmp_path / "out", method=METHODS, keep="scores", maps="float32")
    found, expected = batch.open(tmp_path / "out")["id 0"], explained(explainer, tmp_path, method=METHODS)
    assert found.methods == expected.methods == tuple(METHODS)
    for method in METHODS:
        assert_same(MethodMaps.of(found.of_method(method)), MethodMaps.of(expected.of_method(method)))
    assert found.heads().any()


def test_unfiltered_maps_come_back(explainer, tmp_path):
    source = write_input(tmp_path, 1)
    batch.run(explainer, source, tmp_path / "out", method="dexar", unfiltered=True, keep="scores", maps="float32")
    expected = explained(explainer, tmp_path, method="dexar", unfiltered=True)
    assert_same(MethodMaps.of(batch.open(tmp_path / "out")["id 0"]), MethodMaps.of(expected))


@pytest.mark.parametrize("keep", ["answer", "words", "tokens", "scores"])
def test_only_what_is_kept_is_there(keep, explainer, tmp_path):
    batch.run(explainer, write_input(tmp_path, 1), tmp_path / "out", keep=keep, maps="float32", grounding=True)
    (row,) = table(tmp_path / "out")
    expected = explained(explainer, tmp_path, method="dexar-focus")
    there = {name for name in ("answer_map", "word_maps", "maps", "image_scores") if row[name] is not None}
    assert (
        there
        == {
            "answer": {"answer_map"},
            "words": {"answer_map", "word_maps"},
            "tokens": {"answer_map", "maps"},
            "scores": {"answer_map", "maps", "image_scores"},
        }[keep]
    )
    assert [word["word"] for word in row["words"]] == ["a", "red", "star"]
    np.testing.assert_allclose(np.frombuffer(row["answer_map"], np.float32), expected.answer_map.ravel(), atol=1e-5)
    if keep == "words":
        maps = np.frombuffer(row["word_maps"], np.float32).reshape(3, *expected.answer_map.shape)
        np.testing.assert_allclose(maps, [word.map for word in expected.words()], atol=1e-5)
    if keep in ("answer", "words"):
        with pytest.raises(InputError, match="maps of its tokens were not kept"):
            batch.open(tmp_path / "out")["id 0"]


def test_exact_files_are_bit_for_bit(explainer, tmp_path):
    source = write_input(tmp_path, 1)
    batch.run(explainer, source, tmp_path / "out", keep="answer", exact=True, batch_size=1)
    found, expected = batch.open(tmp_path / "out")["id 0"], explained(explainer, tmp_path, method="dexar-focus")
    assert np.array_equal(found.token_maps, expected.token_maps)
    assert np.array_equal(found.image_scores, expected.image_scores)
    assert found.image is not None


def test_every_option_of_explain_gets_there(explainer, tmp_path):
    source = write_input(tmp_path, 1)
    options: dict[str, Any] = {"method": "dexar", "layers": -2, "targets": "words", "contrast": "blue",
                               "text_set": "content_only", "normalization": "reference", "only": (0, 2)}  # fmt: skip
    batch.run(explainer, source, tmp_path / "out", maps="float32", keep="scores", **options)
    found, expected = batch.open(tmp_path / "out")["id 0"], explained(explainer, tmp_path, **options)
    assert_same(MethodMaps.of(found), MethodMaps.of(expected))
    assert (found.targets, found.foils, found.layers) == (expected.targets, expected.foils, expected.layers)


def test_unknown_things_to_keep_are_refused(explainer, tmp_path):
    with pytest.raises(InputError, match="keep: expected one of answer, words, tokens, scores; got 'all'"):
        batch.run(explainer, write_input(tmp_path, 1), tmp_path / "out", keep="all")
    with pytest.raises(InputError, match='batch_size: expected a number of answers, or "auto"'):
        batch.run(explainer, write_input(tmp_path, 1), tmp_path / "out", batch_size="most")


def test_answers_of_like_length_run_together(explainer, tmp_path, monkeypatch):
    together: list[list[int]] = []
    explain_group = many._Batches._explain_group

    def watched(batches: Any, group: Any) -> Any:
        together.append([len(queued.encoded.answer_ids) for queued in group])
        return explain_group(batches, group)

    monkeypatch.setattr(many._Batches, "_explain_group", watched)
    words = [2, 9, 2, 9, 2, 9]
    changes = {f"row_{n}": {"answer": " ".join(["red"] * count)} for n, count in enumerate(words)}
    source = write_input(tmp_path, 6, **changes)
    batch.run(explainer, source, tmp_path / "out", batch_size="auto", row_chunk=18)
    lengths = [len(row["token_ids"]) for row in table(tmp_path / "out")]
    assert together == [sorted(lengths)[:3], sorted(lengths)[3:5], sorted(lengths)[5:]]
    assert [row["id"] for row in table(tmp_path / "out")] == [f"id {n}" for n in range(6)]


def test_auto_takes_the_same_batches_when_it_goes_on(explainer, tmp_path, monkeypatch):
    source = write_input(tmp_path, 4)
    for name, memory in [("whole", 40), ("stopped", 40)]:
        monkeypatch.setattr("dexar_fast.batch.settings.rows_at_once", lambda *_, memory=memory: memory)
        batch.run(explainer, source, tmp_path / name, batch_size="auto", part_size=2, limit=4 if name == "whole" else 2)
    monkeypatch.setattr("dexar_fast.batch.settings.rows_at_once", lambda *_: 3)
    batch.run(explainer, source, tmp_path / "stopped", batch_size="auto", part_size=2)
    assert files_of(tmp_path / "stopped") == {
        name: data.replace(b"whole", b"stopped") for name, data in files_of(tmp_path / "whole").items()
    }


def test_another_model_in_the_same_folder_is_refused(explainer, tmp_path):
    source = write_input(tmp_path, 1)
    batch.run(explainer, source, tmp_path / "out")
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    weight = next(explainer.model.parameters())
    before = weight.data.clone()
    try:
        weight.data += 1
        with pytest.raises(InputError, match=f"weights: then '{settings['weights']}', now '"):
            batch.run(explainer, source, tmp_path / "out")
    finally:
        weight.data.copy_(before)


def test_keys_depend_neither_on_parts_nor_on_batches(explainer, tmp_path):
    source = write_input(tmp_path, 3)
    batch.run(explainer, source, tmp_path / "a", part_size=1, batch_size=1)
    batch.run(explainer, source, tmp_path / "b", part_size=3, batch_size=2, maps="float32")
    assert [row["key"] for row in table(tmp_path / "a")] == [row["key"] for row in table(tmp_path / "b")]


def test_reading_is_ahead_of_the_model_and_bounded(explainer, tmp_path, monkeypatch):
    source = write_input(tmp_path, 1)
    lines = [json.dumps({"id": n, "image": "0.png", "prompt": PROMPT, "answer": "a red star"}) for n in range(60)]
    source.write_text("\n".join(lines))
    n_read, ahead = 0, []

    def counted(*args: Any) -> bytes:
        nonlocal n_read
        n_read += 1
        return read_image(*args)

    monkeypatch.setattr(work, "read_image", counted)

    def seen(stage: str, done: int, total: int | None) -> None:
        assert total == 60
        ahead.append(n_read - done)

    batch.run(explainer, source, tmp_path / "out", part_size=4, batch_size=2, progress=seen)
    assert len(ahead) == 60
    assert 4 < max(ahead) <= 2 + 4 + 3 * 4  # a batch, what is decoded, and the parts around it


def test_the_command_hands_every_option_on(tmp_path):
    source, out = write_input(tmp_path, 2), tmp_path / "out"
    options = (
        "--method dexar --method dexar-focus --keep scores --exact --pictures --batch-size auto --row-chunk 16 "
        "--layers -2 --only 0:2 --text-set content_only --background #102030 --frame 0 "
        "--image-kwargs do_center_crop=true --unfiltered"
    )
    found = CliRunner().invoke(app, ["batch", str(source), "--out", str(out), "-m", "demo", *options.split()])
    assert found.exit_code == 2  # maps with every weight 1 are of one method alone
    assert "unfiltered: method 'dexar-focus' filters no heads" in " ".join(found.output.split())
    arguments = ["batch", str(source), "--out", str(out), "-m", "demo", *options.removesuffix(" --unfiltered").split()]
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 0, found.output
    settings = json.loads((out / "settings.json").read_text())
    asked = settings["options"]
    assert (asked["method"], asked["beside"], asked["layers"], asked["only"]) == (
        "dexar",
        ["dexar-focus"],
        [2, 3],
        [0, 2],
    )
    assert (asked["text_set"], asked["background"], asked["frame"]) == ("content_only", "#102030", 0)
    assert (asked["image_kwargs"], asked["row_chunk"]) == ({"do_center_crop": True}, 16)
    assert (settings["keep"], settings["exact"], settings["batch_size"]) == ("scores", True, "auto")
    assert len(list((out / "exact").iterdir())) == 2


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--batch-size 0", "--batch-size: expected a number from 1 on, or auto; got '0'"),
        ("--workers 2", "--workers, --gpus: go with --engine ray"),
        ("--engine ray --workers two", "--workers: expected N or N:M; got 'two'"),
        ("--engine ray --shard 1/2", "--shard: Ray spreads the parts by itself"),
    ],
)
def test_options_that_do_not_go_together_are_told_before_the_model_is_loaded(option, message, tmp_path, monkeypatch):
    monkeypatch.setattr(Explainer, "from_pretrained", None)
    source = write_input(tmp_path, 1)
    found = CliRunner().invoke(app, ["batch", str(source), "--out", str(tmp_path / "out"), *option.split()])
    assert found.exit_code == 2
    assert message in " ".join(found.output.split())


def test_pictures_travel_in_the_rows(explainer, tmp_path):
    source, out = write_input(tmp_path, 2, row_1={"image": "gone.png"}), tmp_path / "out"
    batch.run(explainer, source, out, pictures=True)
    written = (tmp_path / "0.png").read_bytes()
    (tmp_path / "0.png").unlink()
    row, failed = table(out)
    assert row["images"] == [{"bytes": written, "path": str(tmp_path / "0.png")}]
    assert failed["images"] == [{"bytes": None, "path": str(tmp_path / "gone.png")}]
    answer_map = np.asarray(Image.open(BytesIO(row["answer_map_png"])))
    assert np.array_equal(answer_map.ravel(), np.frombuffer(row["answer_map"], np.uint8))
    found = batch.open(out)["id 0"].image
    assert isinstance(found, Image.Image)
    assert found.tobytes() == draw_scene(0).image.convert("RGB").tobytes()


def test_the_datasets_library_shows_kept_pictures(explainer, tmp_path):
    datasets = pytest.importorskip("datasets")
    batch.run(explainer, write_input(tmp_path, 1), tmp_path / "out", pictures=True)
    parts = str(tmp_path / "out/parts/*.parquet")
    rows = datasets.load_dataset("parquet", data_files=parts, split="train", cache_dir=str(tmp_path / "cache"))
    rows = rows.cast_column("images", datasets.List(datasets.Image()))
    assert rows[0]["images"][0].tobytes() == Image.open(tmp_path / "0.png").tobytes()
