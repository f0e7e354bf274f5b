"""Tests of answers that the model writes, superpixels, where a map points, and the parts of the word map."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dexar_fast import Explainer
from dexar_fast.evaluate.answer_tests import answer_tests, without_cells
from dexar_fast.evaluate.data import DemoQuestions, DemoScenes
from dexar_fast.evaluate.focus_parts import VARIANTS, Rule, focus_map, parts_of, variants
from dexar_fast.evaluate.records import Record
from dexar_fast.evaluate.scoring import Scored, peak
from dexar_fast.evaluate.superpixels import area, ranked, steps, superpixel_table, superpixels
from dexar_fast.inputs.methods import FOCUS
from dexar_fast.layout.grid import Grid, cell_edges, whole_image
from dexar_fast.result.explanation import minmax

GRID = whole_image(2, 4, (40, 20))


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer.from_pretrained("demo")


def test_edges_of_cells_of_a_crop_and_of_padding():
    rows, cols = cell_edges(Grid(2, 3, (10.0, -5.0, 40.0, 25.0), (50, 20)))
    assert rows.tolist() == [0, 10, 20]
    assert cols.tolist() == [10, 20, 30, 40]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([[0, 9, 0, 0], [0, 0, 0, 0]], 1.0),
        ([[0, 0, 9, 0], [0, 0, 0, 0]], 0.0),
        ([[9, 0, 9, 0], [0, 0, 0, 0]], 0.5),
        ([[1, 1, 1, 1], [1, 1, 1, 1]], 0.25),
    ],
    ids=["touches", "beside", "one of two", "constant"],
)
def test_peak_touches_the_mask(cells, expected):
    """The mask has one pixel column in the second cell."""
    mask = np.zeros((20, 40), dtype=bool)
    mask[:10, 5:11] = True
    assert peak(Scored(Record(""), np.array(cells, dtype=float), mask), GRID) == expected


def test_the_first_eighth_of_the_cells_goes():
    image = Image.fromarray(np.arange(20 * 40 * 3, dtype=np.uint32).reshape(20, 40, 3).astype(np.uint8))
    changed = np.asarray(without_cells(image, np.array([[0, 1, 0, 0], [0, 0, 0, 0.5]]), GRID))
    differing = (changed != np.asarray(image)).any(axis=2)
    assert differing[:10, 10:20].mean() > 0.9
    differing[:10, 10:20] = False
    assert not differing.any()


def test_answers_point_and_flip(explainer):
    """Against the two tests by hand."""
    data = DemoQuestions(name="demo-locations", kind="place")
    table = answer_tests(explainer, data, ["dexar", "uniform"], 3)
    hits, flips = [], []
    for index in range(3):
        sample = data[index]
        assert sample.prompt.startswith("where is")
        assert sample.mask is not None
        e = explainer.explain(sample.image, sample.prompt, method="dexar")
        row, col = divmod(int(e.answer_map.argmax()), e.grid.cols)
        hits.append(bool(sample.mask[row * 8 : row * 8 + 8, col * 8 : col * 8 + 8].any()))
        again = explainer.explain(without_cells(sample.image, e.answer_map, e.grid), sample.prompt, method="dexar")
        flips.append(again.answer != e.answer)
    (name, pointing, flipped), uniform, thing = ([text for text, _ in row] for row in table.body)
    assert (name, uniform[0], thing[0]) == ("dexar", "uniform (chance)", "mask (the thing itself)")
    assert pointing.startswith(f"{100 * np.mean(hits):.0f} (")
    assert flipped.startswith(f"{100 * np.mean(flips):.0f} (")


def test_superpixels_go_in_and_out_whole():
    image = DemoScenes()[0].image
    labels = superpixels(image, 16)
    assert set(labels.ravel()) == set(range(labels.max() + 1))
    relevance = np.zeros(labels.shape)
    relevance[labels == 3] = 1
    order = ranked(labels, relevance)
    assert order[0] == 3
    pictures = [np.asarray(one) for one in steps(image, labels, order)]
    n = len(order)
    assert len(pictures) == 2 * (n + 1)
    whole = np.asarray(image)
    assert not pictures[0].any()
    assert np.array_equal(pictures[n], whole)
    assert np.array_equal(pictures[1], np.where((labels == 3)[..., None], whole, 0))
    assert np.array_equal(pictures[n + 1], whole)
    assert np.array_equal(pictures[n + 2], np.where((labels == 3)[..., None], 0, whole))
    assert not pictures[-1].any()


def test_area_counts_pixels_not_steps():
    assert area(np.array([0.0, 1.0, 1.0]), np.array([0.0, 0.1, 1.0])) == pytest.approx(0.95)


def test_insertion_of_what_matters_first(explainer):
    table = superpixel_table(explainer, DemoQuestions(kind="place"), ["dexar", "random"], 2)
    dexar, random = ([float(text.partition(" (")[0]) for text, _ in row[1:]] for row in table.body)
    assert table.body[1][0][0] == "random (chance)"
    assert all(0 < one < 100 for one in (*dexar, *random))
    assert dexar != random


def test_parts_make_the_map_of_the_method(explainer):
    parts, plain = parts_of(explainer, DemoScenes()[5])
    found = focus_map(parts).reshape(plain.token_maps.shape)
    for one, expected in zip(found, plain.token_maps, strict=True):
        np.testing.assert_allclose(minmax(one.numpy()), expected, atol=2e-4)


def test_every_variant_differs(explainer):
    maps: dict[str, Any] = {name: e.token_maps for name, e in variants(explainer, DemoScenes()[5])}
    assert list(maps) == [FOCUS, *VARIANTS]
    for name, of_variant in maps.items():
        others = [other for other in maps if other != name]
        assert all(np.abs(of_variant - maps[other]).max() > 1e-3 for other in others), name


def test_a_layer_that_reads_nothing_is_no_division_by_zero():
    from dexar_fast.evaluate.focus_parts import Parts

    parts = Parts(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), torch.zeros(2, 3), torch.zeros(2, 3))
    for rule in (Rule(), *VARIANTS.values()):
        assert torch.equal(focus_map(parts, rule).double(), torch.zeros(3, 4).double())
