"""Explanations as rows, JSON values and tables of other libraries."""

from __future__ import annotations

import base64
import csv
import json
import math
import sys
from dataclasses import replace
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from dexar_fast import Explainer, Explanation, InputError
from dexar_fast.inputs.targets import Target
from dexar_fast.layout.grid import whole_image
from dexar_fast.result.tables import COLUMNS

from .explanations import make_explanation, with_targets
from .tiny import picture, tiny_llava, tiny_processor


@pytest.fixture(scope="module")
def real() -> Explanation:
    """Of a real model, with everything that rows may hold."""
    explainer = Explainer(tiny_llava(dtype=torch.float32), tiny_processor())
    return explainer.explain(picture(), "what?", ' a "red", ✓', method="dexar", contrast=" blue", grounding=True)


def test_rows_of_words_are_the_words(real: Explanation) -> None:
    for row, word in zip(real.to_table(), real.words(), strict=True):
        own = word.text, word.start, word.stop, word.weight
        assert (row["word"], row["start"], row["stop"], row["weight"]) == own
        assert (row["peak"], row["box"], row["place"], row["image"]) == (word.peak, word.box(), word.place, 0)
        assert row["grounding"] == word.grounding
        assert row["rather_than"] == real.rather_than(word.start, word.stop) == "bl"  # the first token of " blue"


def test_rows_of_tokens_are_the_tokens(real: Explanation) -> None:
    rows = real.to_table("tokens")
    assert "".join(row["token"] for row in rows) == real.answer
    assert [row["token_id"] for row in rows] == real.token_ids.tolist()
    for index, word in enumerate(real.words()):
        assert {row["word"] for row in rows[word.start : word.stop]} == {index}
    assert real.log_probabilities is not None
    assert real.grounding is not None
    for index, row in enumerate(rows):
        assert (row["log_probability"], row["log_probability_blank"]) == tuple(real.log_probabilities[index])
        assert (row["weight"], row["grounding"]) == (real.token_weights[index], real.grounding[index])
    alone = next(word for word in real.words() if word.stop - word.start == 1)
    assert rows[alone.start]["peak"] == alone.peak


@pytest.mark.parametrize("maps", [None, "list", "png"])
def test_json_reads_back_as_the_dict(real: Explanation, tmp_path: Path, maps: str | None) -> None:
    text = real.to_json(tmp_path / "e.json", maps=maps)
    assert json.loads((tmp_path / "e.json").read_text(encoding="ascii")) == json.loads(text) == real.to_dict(maps=maps)
    values = real.to_dict(maps=maps)
    assert (values["answer"], values["prompt"], values["method"]) == (real.answer, "what?", "dexar")
    assert [word["text"] for word in values["words"]] == [word.text for word in real.words()]
    assert values["words"][0]["box"] == list(real.words()[0].box() or ())
    assert values["grids"] == [{"rows": 3, "cols": 3, "box": list(real.grid.box), "image_size": [40, 30]}]
    assert ("answer_maps" in values) == ("maps" in values["tokens"][0]) == (maps is not None)


def test_maps_as_lists_and_as_png(real: Explanation) -> None:
    lists, pngs = real.to_dict(maps="list"), real.to_dict(maps="png")
    np.testing.assert_allclose(lists["answer_maps"][0], real.answer_map, atol=5e-5)
    for rows, expected in (("tokens", real.token_maps), ("words", [word.map for word in real.words()])):
        for row, png, cell_map in zip(lists[rows], pngs[rows], expected, strict=True):
            np.testing.assert_allclose(row["maps"][0], cell_map, atol=5e-5)
            pixels = np.asarray(Image.open(BytesIO(base64.b64decode(png["maps"][0]))))
            np.testing.assert_allclose(pixels / 255, cell_map, atol=1 / 500)


def test_several_images_have_a_map_each() -> None:
    grids = whole_image(3, 4, (40, 30)), whole_image(2, 2, (20, 20))
    one = make_explanation(["a", " dog"], grid=grids[0])
    maps = one.token_maps, np.zeros((2, 2, 2), np.float32)
    several = replace(one, token_maps=maps, answer_map=(maps[0][0], maps[1][0]), grid=grids, image=None)
    values = several.to_dict(maps="list")
    assert [np.shape(one) for one in values["answer_maps"]] == [(3, 4), (2, 2)]
    assert [np.shape(one) for one in values["words"][1]["maps"]] == [(3, 4), (2, 2)]
    assert [grid["image_size"] for grid in values["grids"]] == [[40, 30], [20, 20]]


def test_targets_are_the_words_and_tokens_have_no_maps() -> None:
    explanation = with_targets(make_explanation(["a", " red", " dog"]), Target("red dog", 1, 3, probability=0.25))
    values = explanation.to_dict(maps="png")
    (target,) = values["words"]
    assert (target["text"], target["start"], target["stop"], target["probability"]) == ("red dog", 1, 3, 0.25)
    assert [(row["text"], row["maps"], row["weight"], row["peak"]) for row in values["tokens"]] == [
        ("a", None, None, None), (" red", None, None, None), (" dog", None, None, None)
    ]  # fmt: skip
    assert [row["word"] for row in values["tokens"]] == [None, 0, 0]


def test_queries_without_a_place_have_no_peak() -> None:
    one = make_explanation(["a"], rows=2, cols=2)
    flat = replace(
        one, grid=None, image=None, token_maps=one.token_maps.reshape(1, 4), answer_map=one.answer_map.ravel()
    )
    values = flat.to_dict(maps="list")
    assert values["grids"] == []
    assert values["words"][0]["peak"] is values["words"][0]["box"] is values["words"][0]["image"] is None
    assert np.shape(values["words"][0]["maps"][0]) == (4,)


def test_csv_has_the_rows_and_escapes_them(real: Explanation, tmp_path: Path) -> None:
    text = real.to_csv(tmp_path / "words.csv")
    assert (tmp_path / "words.csv").read_bytes() == text.encode()
    rows = list(csv.DictReader(StringIO(text)))
    assert list(rows[0]) == list(COLUMNS["words"])
    assert [row["word"] for row in rows] == ["a", '"red",', "✓"]
    for row, word in zip(rows, real.words(), strict=True):
        assert (float(row["peak_x"]), float(row["peak_y"])) == word.peak
        assert tuple(int(row[edge]) for edge in ("left", "top", "right", "bottom")) == word.box()
    assert len(list(csv.DictReader(StringIO(real.to_csv(rows="tokens"))))) == len(real.tokens)


@pytest.mark.parametrize("rows", ["words", "tokens"])
def test_pandas_and_arrow_have_the_same_columns_for_every_answer(real: Explanation, rows: str) -> None:
    pandas = pytest.importorskip("pandas", reason="to_pandas() needs pandas")
    bare = make_explanation([" ", " "])  # no word, and nothing that was not asked for
    for explanation in (real, bare):
        frame, arrow = explanation.to_pandas(rows), explanation.to_arrow(rows)
        assert list(frame) == arrow.column_names == list(COLUMNS[rows])
        assert frame.dtypes.astype(str).tolist() == real.to_pandas(rows).dtypes.astype(str).tolist()
        assert arrow.schema == real.to_arrow(rows).schema
        assert len(frame) == arrow.num_rows == len(explanation.to_table(rows))
    both = pandas.concat([real.to_pandas(rows), bare.to_pandas(rows)])
    assert both["peak_x"].notna().sum() > 0
    assert real.to_arrow(rows)["peak_x"].to_pylist() == real.to_pandas(rows)["peak_x"].tolist()
    assert isinstance(real.to_arrow(rows), pa.Table)
    assert math.isnan(make_explanation(["a"]).to_pandas(rows)["grounding"][0])


@pytest.mark.parametrize(("name", "call"), [("pandas", "to_pandas"), ("pyarrow", "to_arrow")])
def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, name: str, call: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"{call}\(\) needs {name}: pip install {name}"):
        getattr(make_explanation(["a"]), call)()


def test_mistakes_are_named() -> None:
    explanation = make_explanation(["a"])
    with pytest.raises(InputError, match="rows: expected one of words, tokens; got 'heads'"):
        explanation.to_csv(rows="heads")
    with pytest.raises(InputError, match="maps: expected None or one of list, png; got True"):
        explanation.to_dict(maps=True)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="finite numbers"):
        replace(explanation, token_weights=np.array([np.nan])).to_json()
