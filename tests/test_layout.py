"""Blocks of image tokens become cells: order, tiles, thumbnails, separators."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dexar_fast import InputError
from dexar_fast.layout.image_layout import ImageLayout, LayoutBuilder, tile_boxes


def cells_of(layout: ImageLayout, values: list[float], image: int = 0) -> np.ndarray:
    """The map that tokens of these values give."""
    maps = layout.to_cells(torch.tensor([values], dtype=torch.float64))[0].numpy()
    return layout.per_image(maps)[image]


def test_one_grid_keeps_every_value() -> None:
    tokens = LayoutBuilder([(30, 20)])
    assert tokens.image((6, 4)) == (30, 20)
    tokens.grid(2, 3)
    layout = tokens.finish()
    values = [0.1, 0.2, 0.3, 0.4, 0.5, 1 / 3]
    np.testing.assert_array_equal(cells_of(layout, values), np.reshape(values, (2, 3)))
    assert layout.grids[0].box == (0, 0, 30, 20)


def test_tiles_come_tile_by_tile_and_lie_row_by_row() -> None:
    """Four tiles of 1 x 2 tokens: the second token of the first tile stands beside the first of the second tile."""
    tokens = LayoutBuilder([(40, 20)])
    tokens.image((4, 2))
    for box in tile_boxes((0, 0, 40, 20), 2, 2):
        tokens.grid(1, 2, box)
    layout = tokens.finish()
    np.testing.assert_array_equal(cells_of(layout, [1, 2, 3, 4, 5, 6, 7, 8]), [[1, 2, 3, 4], [5, 6, 7, 8]])


@pytest.mark.parametrize(
    ("thumbnail", "wanted"),
    [("blend", [[5.5, 6, 11.5, 12]]), ("without", [[1, 2, 3, 4]]), ("only", [[10, 20]])],
)
def test_thumbnail(thumbnail: str, wanted: list[list[float]]) -> None:
    tokens = LayoutBuilder(None)
    tokens.image((40, 10))
    tokens.grid(1, 2, thumbnail=True)
    tokens.grid(1, 4)
    np.testing.assert_array_equal(cells_of(tokens.finish(thumbnail), [10, 20, 1, 2, 3, 4]), wanted)


def test_thumbnail_that_does_not_line_up() -> None:
    """Three cells over two thumbnail tokens: the middle one lies half on each."""
    tokens = LayoutBuilder(None)
    tokens.image((6, 1))
    tokens.grid(1, 3)
    tokens.grid(1, 2, thumbnail=True)
    np.testing.assert_allclose(cells_of(tokens.finish(), [0, 0, 0, 2, 4]), [[1, 1.5, 2]])


def test_thumbnail_alone_is_the_map() -> None:
    tokens = LayoutBuilder(None)
    tokens.image((2, 2))
    tokens.grid(2, 2, thumbnail=True)
    for choice in ("blend", "only", "without"):
        np.testing.assert_array_equal(cells_of(tokens.finish(choice), [1, 2, 3, 4]), [[1, 2], [3, 4]])


def test_separators_are_no_image_tokens() -> None:
    tokens = LayoutBuilder(None)
    tokens.image((2, 2))
    tokens.placeless(1)
    tokens.grid(2, 2, row_ends=True)
    tokens.separators(1)
    layout = tokens.finish()
    assert layout.separators.tolist() == [False, False, False, True, False, False, True, True]
    assert layout.n_image_tokens == 5
    np.testing.assert_array_equal(cells_of(layout, [9, 1, 2, 3, 4]), [[1, 2], [3, 4]])


def test_image_that_nobody_sees_is_zero() -> None:
    tokens = LayoutBuilder(None)
    tokens.image((2, 1))
    tokens.unseen_grid(1, 2)
    tokens.image((2, 1))
    tokens.grid(1, 2)
    layout = tokens.finish()
    assert layout.n_image_tokens == 2
    np.testing.assert_array_equal(cells_of(layout, [1, 2], image=0), [[0, 0]])
    np.testing.assert_array_equal(cells_of(layout, [1, 2], image=1), [[1, 2]])


def test_queries_without_a_place() -> None:
    tokens = LayoutBuilder([(5, 5)])
    tokens.image((2, 2))
    tokens.placeless(3)
    layout = tokens.finish()
    assert layout.grids == ()
    np.testing.assert_array_equal(cells_of(layout, [1, 2, 3]), [1, 2, 3])


def test_number_of_images() -> None:
    tokens = LayoutBuilder([(5, 5)])
    tokens.image((2, 2))
    with pytest.raises(InputError, match="image: 1 given, but the model inputs hold more"):
        tokens.image((2, 2))
    with pytest.raises(InputError, match="image: 2 given, but the model inputs hold 0"):
        LayoutBuilder([(5, 5), (6, 6)]).finish()


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 5),
    cols=st.integers(1, 5),
    coarse=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    size=st.tuples(st.integers(1, 900), st.integers(1, 900)),
)
def test_constant_stays_constant(rows: int, cols: int, coarse: tuple[int, int], size: tuple[int, int]) -> None:
    """Whatever the tiling, weights of a cell sum to one, and no token in a seen place is lost."""
    tokens = LayoutBuilder([size])
    tokens.image(size)
    for box in tile_boxes((0, 0, size[0], size[1]), rows, cols):
        tokens.grid(2, 3, box)
    tokens.grid(*coarse, thumbnail=True)
    layout = tokens.finish()
    assert (layout.grids[0].rows, layout.grids[0].cols) == (2 * rows, 3 * cols)
    np.testing.assert_allclose(layout.weights.sum(dim=1).numpy(), 1, rtol=1e-12)
    used = layout.tokens[layout.weights > 0].unique()
    assert len(used) == layout.n_image_tokens


@pytest.mark.parametrize(("rows", "cols"), [(0, 5), (3, 0)])
def test_grid_without_cells_adds_none(rows: int, cols: int) -> None:
    tokens = LayoutBuilder([(300, 1)])
    tokens.image((300, 1))
    tokens.grid(2, 2, thumbnail=True)
    tokens.grid(rows, cols, (0, 0, 300, 0), row_ends=True)
    layout = tokens.finish("without")
    np.testing.assert_array_equal(cells_of(layout, [1, 2, 3, 4]), [[1, 2], [3, 4]])
    assert layout.separators.tolist() == [False] * 4 + [True] * rows
