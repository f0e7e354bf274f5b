"""What a person asks of a word: where its map is strongest, and whether it rests on the image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dexar_fast import Explanation, InputError
from dexar_fast.layout.grid import Grid, whole_image
from dexar_fast.result.region import place_name

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


def test_overlay_by_the_word_itself() -> None:
    explanation = make_explanation(["a", " red", ",", " dog"])
    assert [word.text for word in explanation.words()] == ["a", "red,", "dog"]
    for text in ("red", "red,"):
        np.testing.assert_array_equal(explanation.overlay(word=text), explanation.overlay(word=1))
    with pytest.raises(InputError, match="a red, dog"):
        explanation.overlay(word="blue")
