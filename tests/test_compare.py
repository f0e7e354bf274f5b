"""Several explanations in one figure: what is in which panel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dexar_fast import InputError, compare
from dexar_fast.cli import app
from dexar_fast.cli.compare import parse_words
from dexar_fast.cli.failures import BAD_INPUT
from dexar_fast.result.explanation import Explanation

from .explanations import make_explanation, scene

WORDS = ["a", " red", " dog", ",", " red", " cat"]


def explained(tokens: list[str] = WORDS, model: str = "one", seed: int = 0) -> Explanation:
    made = make_explanation(tokens, rows=3, cols=4, image=scene(64, 48), seed=seed)
    return replace(made, settings={**made.settings, "model": model})


def panels(figure) -> list[list[tuple[str, bool]]]:
    """Title of every panel, and whether it has a picture, row by row."""
    columns = figure.axes[0].get_gridspec().ncols
    flat = [(axes.get_title(), bool(axes.images)) for axes in figure.axes]
    return [flat[start : start + columns] for start in range(0, len(flat), columns)]


def rows(figure) -> list[str]:
    return [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]


def test_one_explanation_shows_its_methods() -> None:
    e = explained().with_beside("attention", explained(seed=1))
    figure = compare([e], words=["dog", ("red", 1)])
    assert rows(figure) == ["dexar", "attention"]
    assert panels(figure) == [[("answer map", True), ("dog,", True), ("red", True)]] * 2
    for row, method in enumerate(e.methods):
        shown = figure.axes[3 * row + 2].images[0].get_array()
        np.testing.assert_array_equal(shown, e.of_method(method).overlay(word="red", nth=1))


def test_models_with_other_answers_leave_panels_empty() -> None:
    figure = compare([explained(), explained(["a", " cat"], "two")], words=["dog", "cat"])
    assert rows(figure) == ["one", "two"]
    first, second = panels(figure)
    assert [shown for _, shown in first] == [True] * 3
    assert second == [("answer map", True), ("(not in this answer)", False), ("cat", True)]


def test_words_are_chosen_by_grounding_and_repeats_told_apart() -> None:
    tokens = [f" w{index}" for index in range(9)] + [" red", " red"]
    log_p = np.log(np.array([(0.5, 0.5)] * 9 + [(0.9, 0.1), (0.8, 0.2)]))
    e = replace(explained(tokens), log_probabilities=log_p)
    titles = [title for title, _ in panels(compare([e]))[0]]
    assert len(titles) == 9
    assert titles[-2:] == ["red  0.90", "red  0.80"]


def test_methods_and_labels_as_asked() -> None:
    e = explained().with_beside("attention", explained(seed=1))
    assert rows(compare([e, e], methods=["attention"], words=[0])) == ["1", "2"]
    other = replace(e, settings={**e.settings, "model": "two"})
    both = compare([e, other], methods=["dexar", "attention"], words=[0])
    assert rows(both) == ["one\ndexar", "one\nattention", "two\ndexar", "two\nattention"]
    assert rows(compare([e], methods=["dexar"], words=[0], labels=["$mine$"])) == ["$mine$"]


def test_mistakes_are_named() -> None:
    e = explained()
    with pytest.raises(InputError, match="explanations: expected at least one"):
        compare([])
    with pytest.raises(InputError, match="'red' occurs 2 times"):
        compare([e], words=["red"])
    with pytest.raises(InputError, match="none has 'blue'"):
        compare([e, e], words=["dog", "blue"])
    with pytest.raises(InputError, match="labels: expected 1, one for each row; got 2"):
        compare([e], labels=["a", "b"])
    with pytest.raises(InputError, match="method: expected one of dexar"):
        compare([e], methods=["attention"])


def test_command_draws_saved_explanations(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 1)):
        explained(model=name, seed=seed).save(tmp_path / f"{name}.safetensors")
    files, out = [str(tmp_path / f"{name}.safetensors") for name in ("one", "two")], tmp_path / "new" / "figure.svg"
    result = CliRunner().invoke(
        app, ["compare", *files, "--words", "red:1, dog", "--label", "A<", "--label", "B", "-o", str(out)]
    )
    assert (result.exit_code, result.output) == (0, f"{out}\n")
    drawn = out.read_text()
    assert drawn.count("<image ") == 6
    assert all(f"<!-- {text} -->" in drawn for text in ("answer map", "red", "dog,", "A&lt;", "B"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "figure.bmp"], "--out: expected a name that ends in .png, .svg or .pdf; got 'figure.bmp'"),
        (["--words", "red,,dog"], "--words: expected words between commas"),
        (["--words", "horse"], "none has 'horse'"),
        (["--method", "tam"], "method: expected one of dexar"),
        (["--label", "a", "--label", "b"], "labels: expected 1"),
        (["missing.safetensors"], "missing.safetensors"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_command_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    explained().save("one.safetensors")
    result = CliRunner().invoke(app, ["compare", "one.safetensors", *arguments], env={"COLUMNS": "300"})
    assert result.exit_code == BAD_INPUT
    assert message in result.output
    assert not list(tmp_path.glob("*.png"))


def test_words_of_the_command() -> None:
    assert parse_words("red:1, dog,12:30,::,a:b") == [("red", 1), "dog", ("12", 30), "::", "a:b"]
