"""What a person asks of a word: where its map is strongest, and whether it rests on the image."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dexar_fast import Explanation, InputError
from dexar_fast.layout.grid import Grid, whole_image
from dexar_fast.render.languages import labels
from dexar_fast.result.region import box, mask, place_name

from .explanations import from_maps, make_explanation, one_cell_maps, scene


def of_one_cell(cell: tuple[int, int], grid: Grid) -> Explanation:
    return from_maps(one_cell_maps(grid.rows, grid.cols, cell), ["word"], grid, image=Image.new("RGB", grid.image_size))


def test_peak_and_box_of_one_cell() -> None:
    word = of_one_cell((1, 3), whole_image(3, 4, (400, 300))).words()[0]
    assert word.peak == (350, 150)
    assert word.place == "right"
    left, top, right, bottom = word.box(0.99) or (0, 0, 0, 0)
    assert left <= 350 < right == 400  # the edge cell's value goes on to the border
    assert top <= 150 <= bottom <= top + 4
    outer = word.box(0.01) or (0, 0, 0, 0)
    assert outer[0] < left
    assert outer[1] < top
    assert outer[3] > bottom


def test_the_mask_is_where_the_drawn_map_reaches_the_share() -> None:
    word = of_one_cell((0, 0), whole_image(2, 2, (8, 8))).words()[0]
    mask = word.mask(0.5)
    assert mask.shape == (8, 8)
    expected = np.zeros((8, 8), dtype=bool)
    expected[:4, :4] = True
    expected[3, 3] = False  # 0.625 * 0.625
    np.testing.assert_array_equal(mask[:4, :4] & expected[:4, :4], expected[:4, :4])
    assert not mask[4:, 4:].any()
    assert word.mask(1.0).sum() < mask.sum()


def test_a_constant_map_is_nowhere() -> None:
    grid = whole_image(2, 2, (8, 8))
    word = from_maps(np.zeros((1, 2, 2)), ["word"], grid, weights=np.zeros(1), image=scene(8, 8)).words()[0]
    assert (word.peak, word.box(), word.place) == (None, None, "nowhere in particular")
    assert not word.mask().any()


@pytest.mark.parametrize("share", [0, -1, 1.5])
def test_a_share_that_cannot_be_is_refused(share: float) -> None:
    with pytest.raises(InputError, match="share"):
        make_explanation().words()[0].box(share)


def test_of_several_images_the_strongest_counts() -> None:
    grids = whole_image(3, 4, (40, 30)), whole_image(2, 2, (20, 20))
    maps = np.zeros((1, 3, 4), dtype=np.float32), np.zeros((1, 2, 2), dtype=np.float32)
    maps[1][0, 1, 0] = 1
    alone = of_one_cell((0, 0), grids[0])
    several = replace(alone, token_maps=maps, answer_map=tuple(one[0] for one in maps), grid=grids, image=None)
    word = several.words()[0]
    assert (word.image, word.peak) == (1, (5, 15))
    assert word.mask().shape == (20, 20)


@pytest.mark.parametrize(
    ("point", "name"),
    [((1, 1), "upper left"), ((50, 50), "centre"), ((50, 99), "lower middle"), ((99, 50), "right"), (None, "nowhere")],
)
def test_places_have_names(point: tuple[float, float] | None, name: str) -> None:
    assert place_name(point, (100, 100)).startswith(name)


def test_the_table_shows_grounding_and_place_of_every_word() -> None:
    plain = make_explanation(["a", " red", " pag", "od", "a"])
    assert [row["grounding"] for row in plain.to_table()] == [None, None, None]
    log_p = np.log(np.array([(0.5, 0.5), (0.9, 0.1), (0.5, 0.5), (0.9, 0.1), (0.5, 0.5)]))
    rows = replace(plain, log_probabilities=log_p).to_table()
    assert [(row["word"], row["start"], row["stop"]) for row in rows] == [("a", 0, 1), ("red", 1, 2), ("pagoda", 2, 5)]
    assert [row["grounding"] for row in rows] == pytest.approx([0.5, 0.9, 0.9])
    assert [row["place"] for row in rows] == [word.place for word in plain.words()]
    assert rows[1]["peak"] == plain.words()[1].peak


@pytest.mark.parametrize(
    ("p", "said"), [((0.9, 0.1), "rests on the image (0.90)"), ((0.1, 0.9), "speaks against"), ((0.5, 0.5), "hardly")]
)
def test_a_sentence_says_what_the_word_rests_on(p: tuple[float, float], said: str) -> None:
    word = replace(make_explanation(["red"]), log_probabilities=np.log(np.array([p]))).words()[0]
    assert "red" in word.reading
    assert said in word.reading


def test_the_sentence_comes_in_every_language() -> None:
    explanation = make_explanation(["red"])
    explanation.settings["method"] = "dexar-focus"
    word = replace(explanation, log_probabilities=np.log(np.array([(0.9, 0.1)]))).words()[0]
    assert word.place == "left"
    assert word.reading == "“red” rests on the image (0.90). The model looked at the left side."
    assert word.reading_in("de") == "„red“ stützt sich auf das Bild (0.90). Das Modell sah links hin."
    assert word.reading_in(labels("en") | {"rests": "{word}: {share}!"}).startswith("“red”: 0.90! The model")
    with pytest.raises(InputError, match="lang: expected one of de, en"):
        word.reading_in("xx")


def test_what_is_not_known_is_not_said() -> None:
    grid = whole_image(2, 2, (8, 8))
    flat = from_maps(np.zeros((1, 2, 2)), ["word"], grid, weights=np.zeros(1), image=scene(8, 8))
    assert flat.words()[0].reading == ""
    assert of_one_cell((0, 0), grid).words()[0].reading == "The upper left would have moved it most."
    known = replace(flat, log_probabilities=np.log(np.array([(0.5, 0.5)])))
    assert known.words()[0].reading == "“word” hardly rests on the image (0.50)."
    without = replace(known, grid=None, image=None, token_maps=np.eye(4)[:1], answer_map=np.eye(4)[0])
    assert without.words()[0].reading == "“word” hardly rests on the image (0.50)."


def test_a_word_by_itself() -> None:
    explanation = make_explanation(["a", " red", ",", " dog"])
    assert [word.text for word in explanation.words()] == ["a", "red,", "dog"]
    for text in ("red", "red,"):
        assert explanation.word(text) is explanation.words()[1]
        np.testing.assert_array_equal(explanation.overlay(word=text), explanation.overlay(word=1))
        np.testing.assert_array_equal(explanation.heads(word=text), explanation.heads(word=1))
    with pytest.raises(InputError, match="a red, dog"):
        explanation.overlay(word="blue")


def test_a_word_that_repeats_needs_its_number() -> None:
    explanation = make_explanation(["a", " red", " dog", ",", " red", " cat"])
    with pytest.raises(InputError, match=r"occurs 2 times, as the words 1, 3\. Say which with nth=0 to nth=1, or pass"):
        explanation.overlay(word="red")
    for nth, index in ((0, 1), (1, 3), (-1, 3)):
        assert explanation.word("red", nth) is explanation.words()[index]
        np.testing.assert_array_equal(explanation.overlay(word="red", nth=nth), explanation.overlay(word=index))
    assert explanation.top_heads(2, word="red", nth=1) == explanation.top_heads(2, word=3) != []
    wrong_numbers: list[Any] = [2, -3, 0.5]
    for nth in wrong_numbers:
        with pytest.raises(InputError, match=f"nth: 'red' occurs 2 times, counted from 0; got {nth}"):
            explanation.heads(word="red", nth=nth)
    mistakes: list[dict[str, Any]] = [{"word": 1, "nth": 0}, {"nth": 0}, {"token": 1, "nth": 0}]
    for wrong in mistakes:
        with pytest.raises(InputError, match="nth: goes with"):
            explanation.overlay(**wrong)


def test_box_is_that_of_the_mask_whatever_the_grid() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        (rows, cols), (width, height) = rng.integers(1, 9, 2), rng.integers(1, 60, 2)
        left, top = rng.uniform(-10, width / 2), rng.uniform(-10, height / 2)
        edges = left, top, left + rng.uniform(1, 80), top + rng.uniform(1, 80)
        grid, share = Grid(int(rows), int(cols), edges, (int(width), int(height))), rng.uniform(0.1, 0.95)
        cells = rng.random((rows, cols)) ** 2
        reached = mask(cells, grid, share)
        expected = None
        if reached.any():
            down, across = np.flatnonzero(reached.any(axis=1)), np.flatnonzero(reached.any(axis=0))
            expected = across[0], down[0], across[-1] + 1, down[-1] + 1
        assert box(cells, grid, share) == expected


@pytest.mark.parametrize("grounding", [False, True])
def test_repr_is_three_lines_that_a_terminal_shows(grounding: bool) -> None:
    explanation = make_explanation(["\x1b[31ma", " red", "\n", " dog\u202e"] + [" word"] * 500)
    if grounding:
        log_p = np.log(np.tile((0.5, 0.5), (504, 1)))
        log_p[1] = np.log((0.9, 0.1))
        explanation = replace(explanation, log_probabilities=log_p)
    lines = repr(explanation).split("\n")
    assert len(lines) == 3
    assert max(map(len, lines)) < 200
    assert all(line.isprintable() for line in lines)
    assert "504 tokens, 503 words" in lines[0]
    assert "18 x 24 on 640 x 480" in lines[1]
    assert ("0.90 'red', 0.50" if grounding else "grounding=True") in lines[2]
    assert len(repr(explanation.words()[1])) < 100
