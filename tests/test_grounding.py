"""Does the image support a word? The definition, its calibration, and the swapped words that measure it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from dexar_fast import Explainer, Explanation, InputError
from dexar_fast.demo.scenes import draw_scene
from dexar_fast.engine.grounding import blank, log_probabilities
from dexar_fast.evaluate.grounding import Calibration, calibrate, calibration_error, collect, grounding_table, swaps
from dexar_fast.models.state import evaluating

from .tiny import picture, tiny_llava, tiny_processor


@pytest.fixture(scope="module")
def explained() -> tuple[Explainer, Explanation]:
    explainer = Explainer(tiny_llava(), tiny_processor())
    return explainer, explainer.explain(picture(), "what is it?", "a small red square", grounding=True)


def test_share_of_the_probability(explained):
    """From the model's own logits, one pass with the image and one with its mean colour."""
    explainer, e = explained
    inputs, answer = explainer.encode([picture()], "what is it?", "a small red square")
    mean = inputs["pixel_values"].mean((2, 3), keepdim=True).expand_as(inputs["pixel_values"])
    p = []
    for pixels in (inputs["pixel_values"], mean):
        ids = torch.cat((inputs["input_ids"], answer[None]), 1)
        with torch.no_grad():
            probabilities = explainer.model(input_ids=ids, pixel_values=pixels).logits[0].softmax(-1)
        p.append(probabilities[inputs["input_ids"].shape[1] - 1 + torch.arange(len(answer)), answer].numpy())
    np.testing.assert_allclose(e.grounding, p[0] / (p[0] + p[1]), atol=1e-6)
    for word in e.words():
        of_word = [each[word.start : word.stop].prod() for each in p]
        assert word.grounding == pytest.approx(of_word[0] / sum(of_word), abs=1e-6)


def test_logits_of_a_long_answer_come_in_parts(explained, monkeypatch):
    explainer, e = explained
    monkeypatch.setattr("dexar_fast.engine.teacher_forcing._LOGIT_ROWS", 7)
    in_parts = explainer.explain(picture(), "what is it?", "a small red square", grounding=True)
    assert len(e.tokens) % 7 != 0
    np.testing.assert_allclose(in_parts.log_probabilities, e.log_probabilities, rtol=0, atol=1e-6)


def test_only_when_asked(explained):
    explainer, _ = explained
    e = explainer.explain(picture(), "what is it?", "two")
    assert e.grounding is None
    assert e.words()[0].grounding is None


def test_saved_and_loaded(explained, tmp_path):
    _, e = explained
    loaded = Explanation.load(e.save(tmp_path / "e.safetensors"))
    assert loaded.grounding is not None
    assert e.grounding is not None
    np.testing.assert_allclose(loaded.grounding, e.grounding, atol=1e-5)


@pytest.mark.parametrize(
    "shape", [(1, 3, 4, 5), (1, 2, 3, 4, 5), (12, 20), (1, 12, 20)], ids=["image", "tiles", "patches", "batch"]
)
def test_blank_inputs(shape):
    ids = torch.arange(4)[None]
    pixels = torch.randn(shape, dtype=torch.float64)
    blanked = blank({"input_ids": ids, "pixel_values": pixels})
    assert blanked["input_ids"] is ids
    assert blanked["pixel_values"].shape == shape
    torch.testing.assert_close(blanked["pixel_values"].mean(), pixels.mean())
    axes = (-2, -1) if len(shape) > 3 else -2
    assert float(blanked["pixel_values"].std(axes).max()) < 1e-12


def test_swaps_are_absent():
    scene = draw_scene(3)
    found = list(swaps(scene))
    assert len(found) == 2
    for swap in found:
        true, swapped = swap.true.split(), swap.swapped.split()
        assert [i for i, (a, b) in enumerate(zip(true, swapped, strict=True)) if a != b] == [swap.place]
        assert swapped[swap.place] not in true


def test_the_demo_model_knows_swapped_words():
    """On its own ground the model tells nearly all; `delta` tells little. The bounds are wide of both measurements."""
    explainer = Explainer.from_pretrained("demo")
    swapped, content = collect(explainer, range(6))
    table = grounding_table(swapped, content)
    figures = {row[0][0].split(":")[0]: float(row[1][0].split()[0]) for row in table.body}
    assert figures["grounding"] > 0.95
    assert figures["delta"] < 0.8


def test_calibration_is_logistic_regression():
    rng = np.random.default_rng(0)
    labels = rng.random(2000) < 0.4
    logits = rng.normal(np.where(labels, 1.5, -0.5), 1.0)
    calibration = calibrate(1 / (1 + np.exp(-logits)), labels)
    fitted = LogisticRegression(C=1e9).fit(logits[:, None], labels)
    # Platt's targets are not quite 0 and 1.
    assert calibration.slope == pytest.approx(fitted.coef_[0, 0], rel=0.02)
    assert calibration.offset == pytest.approx(fitted.intercept_[0], abs=0.02)
    skewed = 1 / (1 + np.exp(-4 * logits))
    error = calibration_error(skewed, labels)
    assert calibration_error(calibrate(skewed, labels)(skewed), labels) < 0.05 < error


def test_calibration_of_what_is_separated_stays_finite():
    calibration = calibrate([0.0, 0.1, 0.9, 1.0], [False, False, True, True])
    values = calibration(np.array([0.0, 0.5, 1.0]))
    assert np.isfinite(values).all()
    assert values[0] < 0.3
    assert values[2] > 0.7


def test_calibration_saved(tmp_path):
    calibration = Calibration(1.5, -0.25)
    assert Calibration.load(calibration.save(tmp_path / "c.json")) == calibration
    with pytest.raises(InputError, match="both kinds"):
        calibrate([0.1, 0.9], [True, True])


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "7", '{"slope": 1}', '{"slope": [], "offset": 1}', '{"slope": NaN, "offset": 1}', None]
)
def test_a_file_that_is_no_calibration(tmp_path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "c.json").write_text(text)
    with pytest.raises(InputError, match=r"path: .*c\.json"):
        Calibration.load(tmp_path / "c.json")


def test_the_rows_with_the_image_run_once() -> None:
    """They ran when they were explained: only the blank image's prompt and rows come on top."""
    explainer = Explainer(tiny_llava(), tiny_processor())
    runs: list[int] = []
    explainer.decoder.text_model.register_forward_hook(lambda *_: runs.append(1))

    def count(**options: Any) -> int:
        runs.clear()
        explainer.explain(picture(), "what is it?", " a small red square", **options)
        return len(runs)

    count()  # with the self-check
    for method in (None, "dexar"):
        for row_chunk in ("auto", 2):
            options = {"method": method, "row_chunk": row_chunk}
            assert count(grounding=True, **options) == count(**options) + 2
    assert count(method="attention", grounding=True) == count(method="attention") + 4
    e = explainer.explain(picture(), "what is it?", " a small red square", grounding=True, row_chunk=2)
    inputs, ids = explainer.encode([picture()], "what is it?", " a small red square")
    with evaluating(explainer.model):
        plain = log_probabilities(explainer.decoder, inputs, ids)
    assert e.log_probabilities is not None
    np.testing.assert_allclose(e.log_probabilities, plain.numpy(), atol=1e-9)
