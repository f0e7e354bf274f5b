"""One explanation of several images: a map for each, one range for all, everywhere where maps are shown or kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dexar_fast import Explainer, Explanation, InputError
from dexar_fast.layout.grid import Grid
from dexar_fast.render.montage import montage

from .families.case import all_cases, answer, picture

SIZES = [(40, 30), (20, 50), (33, 33)]


@pytest.fixture(scope="module")
def explanation() -> Explanation:
    case = all_cases()["llava"]
    explainer = Explainer(case.model("sdpa"), case.processor())
    images = [picture(size, seed) for seed, size in enumerate(SIZES)]
    inputs, _ = explainer.encode(images, "a <image> and <image> beside <image>", "a")
    return explainer.explain_ids(inputs, answer(5), image=images, unfiltered=True)


def test_a_map_for_each_and_one_range(explanation: Explanation) -> None:
    assert [grid.image_size for grid in explanation.grids] == SIZES
    assert [maps.shape for maps in explanation.token_maps] == [(5, 6, 6)] * 3
    together = np.concatenate([maps.reshape(5, -1) for maps in explanation.token_maps], axis=1)
    np.testing.assert_array_equal(together.min(axis=1), 0)
    np.testing.assert_array_equal(together.max(axis=1), 1)
    assert max(one.max() for one in explanation.answer_map) == 1
    word = explanation.words()[0]
    assert len(word.map) == 3
    assert max(one.max() for one in word.map) == 1


def test_an_image_alone(explanation: Explanation) -> None:
    second = explanation.of_image(1)
    assert second.grid == explanation.grids[1]
    np.testing.assert_array_equal(second.token_maps, explanation.token_maps[1])
    np.testing.assert_array_equal(second.unfiltered_answer_map, explanation.unfiltered_answer_map[1])
    assert second.image.size == second.overlay().size == explanation.overlay(image=1).size == SIZES[1]
    with pytest.raises(InputError, match=r"image: expected an index from -3 to 2; got 3"):
        explanation.of_image(3)
    with pytest.raises(InputError, match=r"image: expected an index from -3 to 2; got 7"):
        explanation.overlay(image=7)


def test_saved_and_loaded(explanation: Explanation, tmp_path: Path) -> None:
    loaded = Explanation.load(explanation.save(tmp_path / "several.safetensors", exact=True))
    assert loaded.grid == explanation.grid
    for name in ("token_maps", "answer_map", "unfiltered_token_maps", "unfiltered_answer_map"):
        for ours, theirs in zip(getattr(loaded, name), getattr(explanation, name), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(loaded.image, explanation.image, strict=True):
        assert ours.tobytes() == theirs.tobytes()


def test_montage_shows_each_where_it_stands(explanation: Explanation) -> None:
    """Two images above, one below, all of one height; the map of each in its own rectangle."""
    shown = montage(explanation)
    assert shown.image.size == shown.grid.image_size == (67 + 1 + 20, 50 + 1 + 50)
    across = shown.grid.image_size[0] / shown.grid.cols
    below = shown.answer_map[shown.grid.rows // 2 + 1 :, int(50 / across) + 1 :]
    assert not below.any()  # beside the third image, which is 50 wide
    largest = int(np.argmax([one.max() for one in explanation.answer_map]))
    row, col = np.unravel_index(shown.answer_map.argmax(), shown.answer_map.shape)
    place = (row / shown.grid.rows > 0.5) * 2 + (largest < 2 and col * across > 67)
    assert place == largest


def test_montage_leaves_one_image_alone(explanation: Explanation) -> None:
    one = explanation.of_image(0)
    assert montage(one) is one


def test_montage_cuts_padding_and_keeps_values() -> None:
    """A map that sticks out of its image is cut at it; constant maps stay constant."""
    padded = Grid(2, 4, (-20.0, 0.0, 60.0, 40.0), (40, 40))
    plain = Grid(2, 2, (0.0, 0.0, 40.0, 40.0), (40, 40))
    maps = (np.full((1, 2, 4), 0.25), np.full((1, 2, 2), 0.75))
    e = Explanation(
        tokens=[" a"],
        token_ids=np.array([5]),
        token_maps=maps,
        answer_map=tuple(one[0] for one in maps),
        token_weights=np.ones(1),
        image_scores=np.ones((1, 1, 1)),
        text_scores=np.ones((1, 1, 1)),
        token_map_ranges=np.array([[0.0, 1.0]]),
        layers=(0,),
        grid=(padded, plain),
    )
    shown = montage(e)
    assert shown.image is None
    assert set(np.unique(np.round(shown.answer_map[:, [0, -1]], 6))) == {0.25, 0.75}
    assert shown.overlay().size == shown.grid.image_size


def test_report_and_figure(explanation: Explanation, tmp_path: Path) -> None:
    assert explanation.to_html(tmp_path / "report.html").stat().st_size > 10_000
    explanation.plot().savefig(tmp_path / "figure.png")


def test_queries_have_scores_and_no_map(explanation: Explanation, tmp_path: Path) -> None:
    one = explanation.of_image(0)
    queries = Explanation(
        **{
            **{name: getattr(one, name) for name in one.__dataclass_fields__},
            "token_maps": one.token_maps.reshape(5, -1),
            "answer_map": one.answer_map.ravel(),
            "unfiltered_token_maps": None,
            "unfiltered_answer_map": None,
            "grid": None,
        }
    )
    assert queries.grids == ()
    assert queries.words()[0].map.shape == (36,)
    loaded = Explanation.load(queries.save(tmp_path / "queries.safetensors", exact=True))
    assert loaded.grid is None
    np.testing.assert_array_equal(loaded.token_maps, queries.token_maps)
    for draw in (queries.overlay, queries.plot, lambda: queries.to_html(tmp_path / "none.html")):
        with pytest.raises(InputError, match=r"a llava model reads the image through 36 queries.*no map to draw"):
            draw()
    assert not (tmp_path / "none.html").exists()
