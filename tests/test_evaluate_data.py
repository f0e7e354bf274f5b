"""Data sets: what is read, what the words are about, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dexar_fast import InputError
from dexar_fast.demo.scenes import draw_scene
from dexar_fast.evaluate.data import DemoQuestions, DemoScenes, open_data


def test_demo_words_point_at_their_objects():
    data, scene = DemoScenes(), draw_scene(5)
    sample: Any = data[5]
    words = sample.answer.split()
    assert sample.key == data.key(5) == "scene-5"
    assert len(sample.words) == len(words)
    np.testing.assert_array_equal(sample.mask, scene.mask(range(len(scene.objects))))
    kinds: dict[str, set[str]] = {}
    for index, truth in sample.words.items():
        refers_to = scene.description.refers_to[index]
        kinds.setdefault(truth.kind, set()).add(words[index])
        assert (truth.mask is None) == (truth.kind == "function") == (not refers_to)
        if refers_to:
            np.testing.assert_array_equal(truth.mask, scene.mask(refers_to))
    assert kinds["colour"] == {thing.colour for thing in scene.objects}
    assert kinds["shape"] == {thing.shape for thing in scene.objects}
    assert {"at", "the", "a", "."} <= kinds["function"]


def test_demo_questions_point_somewhere():
    data = DemoQuestions()
    assert {data[index].prompt.split()[0] for index in range(12)} >= {"what", "where", "how"}
    for index in range(12):
        sample: Any = data[index]
        assert sample.mask.any()
        assert any(truth.mask is not None for truth in sample.words.values())


@pytest.fixture
def voc(tmp_path):
    """Two images in VOC's folders: palette masks with background 0, classes, void 255."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    classes = np.array([[0, 0, 255, 15], [0, 7, 255, 15], [0, 0, 0, 0]], dtype=np.uint8)
    for name in ("2007_000033", "2007_000042"):
        Image.new("RGB", (4, 3)).save(tmp_path / f"JPEGImages/{name}.jpg")
        mask = Image.fromarray(classes).convert("P")
        mask.putpalette([value for value in range(256) for _ in range(3)])
        mask.putdata(classes.ravel().tolist())
        mask.save(tmp_path / f"SegmentationClass/{name}.png")
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("2007_000033\n2007_000042\n")
    return tmp_path


def test_voc_union_of_objects(voc):
    data = open_data(f"voc:{voc}")
    assert [data.key(index) for index in range(len(data))] == ["2007_000033", "2007_000042"]
    sample: Any = data[1]
    assert (sample.prompt, sample.answer) == ("USER: <image>\nClassify the image. ASSISTANT:", None)
    assert sample.mask.astype(int).tolist() == [[0, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0]]


def test_voc_refuses_other_folders(voc, tmp_path):
    with pytest.raises(InputError, match=r"ImageSets/Segmentation/val\.txt"):
        open_data(f"voc:{tmp_path / 'JPEGImages'}")
    (voc / "SegmentationClass/2007_000042.png").unlink()
    with pytest.raises(InputError, match="not a readable class mask"):
        open_data(f"voc:{voc}")[1]


ROWS: list[dict[str, Any]] = [
    {"image": "a.png", "prompt": "what is it?", "answer": "a dog", "mask": "m.png", "key": "first"},
    {"image": "a.png", "prompt": "and now?", "words": [{"index": 1, "kind": "noun", "mask": "m.png"}, {"index": 0}]},
]


def write(folder, rows, kind):
    Image.new("RGB", (4, 3)).save(folder / "a.png")
    mask = np.zeros((3, 4), dtype=np.uint8)
    mask[1, 2] = 9
    Image.fromarray(mask).save(folder / "m.png")
    path = folder / f"data.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return str(path)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_listed(tmp_path, kind):
    columns = {name: None for row in ROWS for name in row}
    data = open_data(write(tmp_path, [{**columns, **row} for row in ROWS] if kind == "parquet" else ROWS, kind))
    assert (data.name, len(data), data.key(0), data.key(1)) == ("data", 2, "first", "000001")
    first: Any = data[0]
    second: Any = data[1]
    assert (first.prompt, first.answer, first.image.size) == ("what is it?", "a dog", (4, 3))
    assert np.argwhere(first.mask).tolist() == [[1, 2]]
    assert (second.answer, second.mask) == (None, None)
    assert second.words[1].kind == "noun"
    assert np.argwhere(second.words[1].mask).tolist() == [[1, 2]]
    assert (second.words[0].kind, second.words[0].mask) == ("word", None)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "x"}, "column 'image'"),
        ({"image": "none.png", "prompt": "x"}, "no file"),
        ({"image": "a.png", "prompt": 3}, "column 'prompt'"),
        ({"image": "a.png", "prompt": "x", "mask": "none.png"}, "not a readable mask"),
        ({"image": "m.png", "prompt": "x", "mask": "big.png"}, "mask of"),
        ({"image": "a.png", "prompt": "x", "words": ["dog"]}, "expected words as"),
        ({"image": "a.png", "prompt": "x", "words": 5}, "expected a list of words; row 0 has 5"),
        ({"image": "a.png", "prompt": "x", "mask": ["a.png"]}, r"expected the path of a mask; got \['a.png'\]"),
    ],
    ids=["no image", "missing file", "no prompt", "missing mask", "size", "words", "words no list", "mask no path"],
)
def test_listed_refuses_a_row(tmp_path, row, said):
    data = open_data(write(tmp_path, [row], "jsonl"))
    Image.new("L", (9, 9)).save(tmp_path / "big.png")
    with pytest.raises(InputError, match=said):
        data[0]


def test_listed_refuses_a_file(tmp_path):
    with pytest.raises(InputError, match="no file"):
        open_data(str(tmp_path / "none.jsonl"))
    (tmp_path / "data.csv").write_text("")
    with pytest.raises(InputError, match=r"\.jsonl or \.parquet"):
        open_data(str(tmp_path / "data.csv"))
    (tmp_path / "broken.jsonl").write_text('{"image": "a.png"}\n{"image"')
    with pytest.raises(InputError, match="line 2"):
        open_data(str(tmp_path / "broken.jsonl"))
    with pytest.raises(InputError, match="every key once"):
        open_data(write(tmp_path, [ROWS[0], ROWS[0]], "jsonl"))
