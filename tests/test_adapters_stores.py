"""Where explanations go: each is read back by the tool itself."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from dexar_fast import Explanation, InputError
from dexar_fast.compat import datasets as to_datasets
from dexar_fast.compat import fiftyone as to_fiftyone
from dexar_fast.compat import label_studio, mlflow, tensorboard, wandb
from dexar_fast.compat.words import markdown_table

from .explanations import make_explanation, scene
from .peers import peer


@pytest.fixture
def explanation() -> Explanation:
    """Small, with a repeated word and one that is markup."""
    made = make_explanation(["a", " red", " <b>|x", " a"], rows=3, cols=4, image=scene(64, 48))
    return replace(made, log_probabilities=np.log(np.array([(0.5, 0.5), (0.9, 0.1), (0.2, 0.8), (0.6, 0.4)])))


def test_tensorboard_reads_it_back(explanation: Explanation, tmp_path: Path) -> None:
    peer("tensorboard", "pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        tensorboard.log_explanation(writer, explanation, "scene", step=7)
    read = EventAccumulator(str(tmp_path)).Reload()
    (image,) = read.Images("scene/answer_map")
    assert (image.step, image.width, image.height) == (7, 64, 48)
    assert [(event.step, event.value) for event in read.Scalars("scene/lowest_grounding")] == [(7, pytest.approx(0.2))]
    (text,) = read.Tensors("scene/words/text_summary")
    assert text.tensor_proto.string_val[0].decode() == markdown_table(explanation)


def test_words_in_markdown_are_text(explanation: Explanation) -> None:
    row = markdown_table(explanation).splitlines()[4]
    assert row.startswith("| &#60;b&#62;&#124;x | 0.20 |")


def test_mlflow_reads_it_back(explanation: Explanation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a data base would need more packages
    library = peer("mlflow", "make test-peers")
    library.set_tracking_uri((tmp_path / "runs").as_uri())
    with library.start_run() as run:
        mlflow.log_explanation(library, explanation, "scene", step=7, lang="de")
    metrics = library.MlflowClient().get_metric_history(run.info.run_id, "scene/lowest_grounding")
    assert [(metric.step, metric.value) for metric in metrics] == [(7, pytest.approx(0.2))]
    folder = Path(library.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="scene"))
    assert Image.open(folder / "answer_map.png").size == (64, 48)
    assert (folder / "words.csv").read_text(encoding="utf-8") == explanation.to_csv()
    assert '<html lang="de">' in (folder / "report.html").read_text()


def test_wandb_keeps_it_offline(explanation: Explanation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = peer("wandb", "make test-peers")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = library.init(mode="offline", dir=str(tmp_path), project="words")
    wandb.log_explanation(run, explanation, "scene", step=7, lang="de")
    run.log({"later": 1}, step=8)  # values of a step are kept when the next one begins
    assert run.summary["scene/lowest_grounding"] == pytest.approx(0.2)
    run.finish()
    media = next(Path(tmp_path).rglob("media"))
    assert Image.open(next(media.rglob("answer_map*.png"))).size == (64, 48)
    table = json.loads(next(media.rglob("words*.json")).read_text())
    assert [row[0] for row in table["data"]] == [word.text for word in explanation.words()]
    assert "&lt;html lang=&quot;de&quot;&gt;" in next(media.rglob("report*.html")).read_text()


def test_an_unknown_language_is_refused_before_anything_is_logged(
    explanation: Explanation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", Mock())
    for adapter in (mlflow, wandb):
        tool = Mock()
        with pytest.raises(InputError, match="lang: expected one of de, en"):
            adapter.log_explanation(tool, explanation, lang="xx")
        assert tool.mock_calls == []


def test_datasets_keep_pictures_and_words(explanation: Explanation, tmp_path: Path) -> None:
    peer("datasets", "pip install datasets")
    from datasets import load_dataset

    bare = make_explanation([" "], rows=2, cols=2, image=scene(20, 10))
    bare = replace(bare, image=None, targets=None)
    to_datasets.to_dataset([explanation, bare]).to_parquet(str(tmp_path / "rows.parquet"))
    read = load_dataset("parquet", data_files=str(tmp_path / "rows.parquet"), split="train", cache_dir=str(tmp_path))
    first, second = read[0], read[1]
    np.testing.assert_array_equal(first["images"][0], explanation.image)
    np.testing.assert_array_equal(first["overlays"][0], explanation.overlay())
    assert (first["answer"], first["prompt"]) == (explanation.answer, explanation.prompt)
    for row, word in zip(first["words"], explanation.words(), strict=True):
        assert (row["word"], row["grounding"], tuple(row["peak"])) == (word.text, word.grounding, word.peak)
        assert tuple(row["box"]) == word.box()
    assert (second["images"], second["words"]) == ([], [])


def test_label_studio_decodes_the_masks(explanation: Explanation) -> None:
    brush = peer("label_studio_converter.brush", "make test-peers")
    prediction = label_studio.to_label_studio(explanation, ["red", 3], share=0.6)
    json.dumps(prediction)
    assert prediction["score"] == pytest.approx(0.6)
    for result, index in zip(prediction["result"], (1, 3), strict=True):
        word = explanation.words()[index]
        assert result["value"]["brushlabels"] == [word.text]
        assert (result["original_width"], result["original_height"]) == (64, 48)
        pixels = brush.decode_rle(result["value"]["rle"]).reshape(48, 64, 4)
        np.testing.assert_array_equal(pixels[..., 3] > 0, word.mask(0.6))
    with pytest.raises(InputError, match="'a' occurs 2 times"):
        label_studio.to_label_studio(explanation, ["a"])


@pytest.fixture
def fiftyone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The real one; the database that it brings along starts with it, and ends with this process."""
    for name, value in {
        "DATABASE_DIR": tmp_path / "data",
        "DEFAULT_DATASET_DIR": tmp_path,
        "DO_NOT_TRACK": True,
    }.items():
        monkeypatch.setenv(f"FIFTYONE_{name}", str(value))
    return peer("fiftyone", "make test-fiftyone")


def test_fiftyone_has_a_heatmap_for_each_word(explanation: Explanation, tmp_path: Path, fiftyone: Any) -> None:
    scene(64, 48).save(tmp_path / "scene.png")
    bare = make_explanation(["a"], rows=3, cols=4, image=scene(64, 48))  # grounding was not asked for
    dataset = fiftyone.Dataset()
    dataset.add_samples(
        [
            to_fiftyone.to_sample(explanation, tmp_path / "scene.png", tmp_path / "maps"),
            to_fiftyone.to_sample(bare, tmp_path / "scene.png", tmp_path / "others"),
        ]
    )
    (sample,) = dataset.exists("lowest_grounding")  # read back from the database
    assert (sample["answer"], sample["lowest_grounding"]) == (explanation.answer, pytest.approx(0.2))
    for index, word in enumerate(explanation.words()):
        heatmap = sample[f"word_{index:03d}"]
        assert (heatmap["word"], heatmap["grounding"]) == (word.text, pytest.approx(word.grounding))
        pixels = np.asarray(heatmap.get_map())
        assert (pixels.shape, heatmap.range) == ((48, 64), [0, 255])
        assert (pixels >= 0.5 * pixels.max()).mean() == pytest.approx(word.mask().mean(), abs=0.02)
    assert sample["answer_map"].get_map().shape == (48, 64)
