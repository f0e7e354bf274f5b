"""The report as text: what is in it, how it is escaped, how it is written. What it does is in the browser tests."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dexar_fast.errors import InputError
from dexar_fast.inputs.targets import Foil, Target
from dexar_fast.layout.grid import Grid, whole_image
from dexar_fast.render.html import render_html, to_html
from dexar_fast.result.explanation import Explanation

from .explanations import from_maps, make_explanation, one_cell_maps, scene, with_targets

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    " </script><script>alert(2)</script>",
    " <!--<script>",
    " &lt;b&gt; ]]>",
    " \u2028\u2029 {{data}}",
    " \ud83d",  # half a character, as byte-level tokenizers can leave
    " 日本",
]


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def maps_of(data: dict[str, Any]) -> np.ndarray:
    flat = np.frombuffer(base64.b64decode(data["maps"]), dtype=np.uint8)
    return flat.reshape(-1, data["grid"]["rows"], data["grid"]["cols"])


def image_of(data: dict[str, Any]) -> Image.Image:
    return Image.open(BytesIO(base64.b64decode(data["image"]["uri"].split(",")[1])))


def test_hostile_text_reaches_the_page_only_as_escaped_data() -> None:
    explanation = make_explanation(HOSTILE, prompt="</title><script>alert(3)</script>\u2028")
    explanation.settings["model"] = "<b>model</b>"
    page = render_html(explanation)
    assert page.isascii()
    assert "alert(1)>" not in page
    assert len(re.findall(r"<script", page)) == 2
    assert len(re.findall(r"</script", page)) == 2
    assert "<b>model" not in page
    data = data_of(page)
    assert data["tokens"]["text"] == HOSTILE
    assert data["prompt"] == "</title><script>alert(3)</script>\u2028"


def test_the_policy_allows_this_script_and_style_and_nothing_else() -> None:
    page = render_html(make_explanation())
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        text = re.search(rf"<{tag}(?: type=\"module\")?>(.*?)</{tag}>", page, re.DOTALL)
        assert text
        digest = base64.b64encode(hashlib.sha256(text[1].encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy[1]
    assert "default-src 'none'" in policy[1]
    assert "unsafe" not in policy[1]
    assert " style=" not in page  # the policy would drop it


def test_nothing_is_loaded_from_anywhere() -> None:
    page = render_html(make_explanation())
    assert not re.search(r"https?:|@import|url\(|import\(|fetch\(", page)


def test_numbers_are_exact_and_maps_have_256_steps() -> None:
    explanation = make_explanation(["At", " the", " pag", "od", "a"])
    data = data_of(render_html(explanation))
    tokens = data["tokens"]
    for column, expected in [
        ("weight", explanation.token_weights),
        ("low", explanation.token_map_ranges[:, 0]),
        ("high", explanation.token_map_ranges[:, 1]),
    ]:
        np.testing.assert_array_equal(np.array(tokens[column], dtype=np.float32), expected)
    for name, scores in [("imageScore", explanation.image_scores), ("textScore", explanation.text_scores)]:
        for number, (value, layer, head) in enumerate(tokens[name]):
            assert np.float32(value) == scores[number].max()
            assert scores[number, explanation.layers.index(layer), head] == scores[number].max()
    maps = maps_of(data) / 255
    assert np.abs(maps[:5] - explanation.token_maps).max() <= 1 / 510 + 1e-6
    assert np.abs(maps[data["answerMap"]] - explanation.answer_map).max() <= 1 / 510 + 1e-6


def test_words_share_the_maps_of_single_tokens_and_bring_their_own_otherwise() -> None:
    explanation = make_explanation(["At", " the", " pag", "od", "a"])
    data = data_of(render_html(explanation))
    maps = maps_of(data)
    assert [(word["start"], word["stop"]) for word in data["words"]] == [(0, 1), (1, 2), (2, 5)]
    assert [word["map"] for word in data["words"]] == [0, 1, 6]
    assert len(maps) == 7
    for word, expected in zip(data["words"], explanation.words()):
        assert np.abs(maps[word["map"]] / 255 - expected.map).max() <= 1.5 / 255
        assert word["weight"] == pytest.approx(expected.weight)


def test_heads_of_tokens_are_kept_to_a_step_and_those_of_the_answer_exactly() -> None:
    explanation = make_explanation(["At", " the", " pag"], layers=5, heads=3)
    explanation.text_scores[1] = 0  # nothing to divide by
    explanation.image_scores[2] = 0
    heads = data_of(render_html(explanation))["heads"]
    weight, share, image, text = np.frombuffer(base64.b64decode(heads["answer"]), "<f4").reshape(4, 5, 3)
    np.testing.assert_array_equal(weight, explanation.heads())
    np.testing.assert_allclose(share, (explanation.head_weights > 0).mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(image, explanation.image_scores.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(text, explanation.text_scores.mean(axis=0), rtol=1e-6)
    steps = np.frombuffer(base64.b64decode(heads["tokens"]["image"]), np.uint8).reshape(3, 5, 3)
    margin = np.frombuffer(base64.b64decode(heads["tokens"]["margin"]), np.int8).reshape(3, 5, 3).astype(float)
    largest, above, below = np.array(heads["tokens"]["scales"]).T[:, :, None, None]
    np.testing.assert_allclose(steps / 255 * largest, explanation.image_scores, atol=0.01 / 500)
    scores = margin / 127 * np.where(margin > 0, above, below)
    np.testing.assert_allclose(scores, explanation.image_scores - explanation.text_scores, atol=0.05 / 250)
    assert (margin.clip(min=0).max(axis=(1, 2)) == [127, 127, 0]).all()


def test_heads_of_tokens_are_left_out_of_a_file_that_they_would_swell(monkeypatch: pytest.MonkeyPatch) -> None:
    explanation = make_explanation(layers=80, heads=64)
    whole = render_html(explanation)
    monkeypatch.setattr("dexar_fast.render.heads_payload.MOST_BYTES", 400_000)
    small = render_html(explanation)
    heads = data_of(small)["heads"]
    assert heads["tokens"] is None
    assert heads["bytes"] == pytest.approx(len(whole) - len(small), rel=0.02)


def test_targets_have_a_map_each_and_hostile_ones_stay_data() -> None:
    explanation = make_explanation(["At", " the", " pag", "od", "a"])
    hostile = "</script><script>alert(4)</script>"
    foils = (None, Foil(7, f" {hostile}"), None, Foil(8, " tem"), Foil(9, "ple"))
    targets = Target("the", 1, 2), Target("pagoda", 2, 5), Target(hostile, 2, 3, token_id=9, probability=0.25)
    explanation = replace(with_targets(explanation, *targets), foils=foils)
    page = render_html(explanation)
    assert len(re.findall(r"<script", page)) == 2
    data = data_of(page)
    assert data["tokens"]["text"] == explanation.tokens
    assert data["tokens"]["foil"] == [None, hostile, None, "tem", "ple"]
    assert [entry["text"] for entry in data["targets"]] == [target.text for target in targets]
    assert [entry.get("foil") for entry in data["targets"]] == [hostile, "tem / ple", None]
    assert [entry.get("probability") for entry in data["targets"]] == [None, None, 0.25]
    assert [entry["map"] for entry in data["targets"]] == [0, 1, 2]
    assert (len(maps_of(data)), data["answerMap"], len(data["tokens"]["weight"])) == (4, 3, 3)
    for entry, weight in zip(data["targets"], explanation.token_weights):
        assert np.float32(entry["weight"]) == weight


def test_a_large_image_is_shrunk_and_a_drawing_stays_lossless() -> None:
    drawing = scene(96, 96)
    data = data_of(render_html(make_explanation(image=drawing)))
    assert data["image"]["uri"].startswith("data:image/png")
    assert image_of(data).tobytes() == drawing.tobytes()
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (1000, 3000, 3), dtype=np.uint8))
    data = data_of(render_html(make_explanation(["a"], image=photo)))
    assert data["image"]["uri"].startswith("data:image/jpeg")
    assert image_of(data).size == (2048, 683)
    assert (data["image"]["width"], data["image"]["height"]) == (3000, 1000)


def test_half_precision_maps_and_no_image_are_fine() -> None:
    explanation = make_explanation(with_image=False)
    half = replace(
        explanation,
        token_maps=explanation.token_maps.astype(np.float16),
        token_weights=explanation.token_weights.astype(np.float16),
    )
    data = data_of(render_html(half))
    assert data["image"]["uri"] is None
    assert np.float16(data["tokens"]["weight"][5]) == half.token_weights[5]


def test_the_title_is_the_beginning_of_the_answer() -> None:
    page = render_html(make_explanation(["A <b>", " word", "\n", " & more" * 20]))
    assert "<title>A &lt;b&gt; word &amp; more" in page
    assert len(re.findall(r"<title>(.*?)</title>", page)[0]) < 150


def broken(explanation: Explanation, name: str) -> Explanation:
    values = np.array(getattr(explanation, name))
    values.flat[0] = np.nan
    changes: dict[str, Any] = {name: values}
    return replace(explanation, **changes)


@pytest.mark.parametrize("name", ["token_maps", "answer_map", "token_weights", "image_scores", "token_map_ranges"])
def test_nan_is_refused_and_an_old_report_survives(tmp_path: Path, name: str) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(InputError, match="finite"):
        to_html(broken(make_explanation(), name), path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="disk full"):
        to_html(make_explanation(), path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_to_html_writes_what_render_html_returns(tmp_path: Path) -> None:
    explanation = make_explanation()
    assert to_html(explanation, str(tmp_path / "r.html")) == tmp_path / "r.html"
    assert (tmp_path / "r.html").read_bytes() == render_html(explanation).encode()


def test_image_of_another_size_than_the_grid_is_named() -> None:
    grid = whole_image(2, 2, (10, 10))
    explanation = from_maps(one_cell_maps(2, 2, (0, 0)), ["a"], grid, image=scene(20, 20))
    with pytest.raises(InputError, match=r"image: expected \(10, 10\)"):
        render_html(explanation)


def test_settings_that_are_no_json_are_named() -> None:
    explanation = make_explanation()
    explanation.settings["dtype"] = object()
    with pytest.raises(InputError, match="JSON settings"):
        render_html(explanation)


def test_the_box_goes_in_as_fractions() -> None:
    grid = Grid(2, 2, (50.0, -10.0, 150.0, 110.0), (200, 100))
    data = data_of(render_html(from_maps(one_cell_maps(2, 2, (0, 0)), ["a"], grid)))
    assert data["grid"]["box"] == pytest.approx([0.25, -0.1, 0.5, 1.2])


def test_rendering_needs_neither_torch_nor_matplotlib() -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = sys.modules['matplotlib'] = None\n"
        "import dexar_fast.render.html, dexar_fast.result.explanation"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)
