"""Overlays: pixels that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dexar_fast.errors import InputError
from dexar_fast.layout.grid import Grid, whole_image
from dexar_fast.render.drawing import DRAWINGS
from dexar_fast.render.fit import fit
from dexar_fast.render.overlay import NEUTRAL, UNSEEN_BRIGHTNESS, overlay
from dexar_fast.result.appearance import Drawing

BLACKEST, BRIGHTEST = (0, 0, 4), (252, 255, 164)  # inferno's ends


def plain(width: int, height: int, colour: tuple[int, int, int] = (100, 150, 200)) -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_half_and_half_is_the_mean_of_image_and_colour() -> None:
    cell_map = np.array([[0.0, 1.0]])
    result = overlay(plain(2, 1), cell_map, whole_image(1, 2, (2, 1)), drawing="heat", heatmap_opacity=0.5)
    assert result.getpixel((0, 0)) == (50, 75, 102)  # halfway to (0, 0, 4)
    assert result.getpixel((1, 0)) == (176, 202, 182)  # halfway to (252, 255, 164), 202.5 to even


def test_full_opacity_shows_the_colour_alone() -> None:
    result = overlay(noise(2, 1), np.array([[0.0, 1.0]]), whole_image(1, 2, (2, 1)), drawing="heat", heatmap_opacity=1)
    assert [result.getpixel((x, 0)) for x in range(2)] == [BLACKEST, BRIGHTEST]


def test_odd_sizes_meet_cells_at_their_centres() -> None:
    # 9 x 7 pixels, 3 columns of 3 pixels: pixel columns 1, 4 and 7 are cell centres; the ends are level.
    cell_map = np.array([[0.0, 1.0, 0.0]])
    result = overlay(plain(9, 7), cell_map, whole_image(1, 3, (9, 7)), drawing="heat", heatmap_opacity=1)
    assert result.size == (9, 7)
    row = [result.getpixel((x, 3)) for x in range(9)]
    assert row[0] == row[1] == row[7] == row[8] == BLACKEST
    assert row[4] == BRIGHTEST
    assert row[2] not in (BLACKEST, BRIGHTEST)
    assert row[2] == row[6]
    assert row[3] == row[5]


@pytest.mark.parametrize("drawing", DRAWINGS)
def test_no_opacity_returns_the_seen_pixels_exactly(drawing: Drawing) -> None:
    image = noise(8, 5)
    grid = Grid(2, 2, (2.0, 0.0, 6.0, 5.0), (8, 5))  # pixel columns 2 to 5 are seen
    result = np.asarray(overlay(image, np.eye(2), grid, drawing=drawing, heatmap_opacity=0))
    before = np.asarray(image)
    np.testing.assert_array_equal(result[:, 2:6], before[:, 2:6])
    assert (result[:, :2] != before[:, :2]).any()


@pytest.mark.parametrize("drawing", DRAWINGS)
@pytest.mark.parametrize("opacity", [0, 0.55, 1])
def test_unseen_pixels_are_grey_and_dark_at_any_opacity(opacity: float, drawing: Drawing) -> None:
    image = noise(8, 5)
    grid = Grid(2, 2, (2.0, 0.0, 6.0, 5.0), (8, 5))
    result = np.asarray(overlay(image, np.eye(2), grid, drawing=drawing, heatmap_opacity=opacity)).astype(int)
    for column in (0, 1, 6, 7):
        for row in range(5):
            red, green, blue = image.getpixel((column, row))  # type: ignore[misc]
            luma = 0.299 * red + 0.587 * green + 0.114 * blue
            assert (abs(result[row, column] - UNSEEN_BRIGHTNESS * luma) <= 0.5001).all()


def test_a_box_larger_than_the_image_leaves_nothing_unseen() -> None:
    image = plain(4, 4)
    grid = Grid(4, 4, (-2.0, -2.0, 6.0, 6.0), (4, 4))  # cells of 2 pixels; the image is the inner 2 x 2 cells
    inner, outer = np.zeros((4, 4)), np.ones((4, 4))
    inner[1:3, 1:3], outer[1:3, 1:3] = 1, 0
    bright = np.asarray(overlay(image, inner, grid, drawing="heat", heatmap_opacity=1))
    dark = np.asarray(overlay(image, outer, grid, drawing="heat", heatmap_opacity=1))
    assert (bright[1:3, 1:3] == BRIGHTEST).all()
    assert (dark[1:3, 1:3] == BLACKEST).all()


@pytest.mark.parametrize("drawing", DRAWINGS)
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_constant_map_shifts_every_pixel_alike(value: float, drawing: Drawing) -> None:
    result = overlay(plain(5, 3), np.full((4, 6), value), whole_image(4, 6, (5, 3)), drawing=drawing)
    assert len(np.unique(np.asarray(result).reshape(-1, 3), axis=0)) == 1


def test_without_an_image_the_ground_is_neutral() -> None:
    result = overlay(None, np.zeros((1, 1)), whole_image(1, 1, (3, 2)), heatmap_opacity=0)
    assert result.size == (3, 2)
    assert result.getpixel((1, 1)) == NEUTRAL


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "CMYK"])
def test_other_image_modes_are_taken_and_left_alone(mode: str) -> None:
    image = noise(4, 3).convert(mode)
    before = image.tobytes()
    result = overlay(image, np.zeros((1, 1)), whole_image(1, 1, (4, 3)), heatmap_opacity=0)
    assert result.tobytes() == image.convert("RGB").tobytes()
    assert image.tobytes() == before


@pytest.mark.parametrize("opacity", [-0.1, 1.01, float("nan"), "0.5", True])
def test_bad_opacity_is_named(opacity: object) -> None:
    with pytest.raises(InputError, match="heatmap_opacity: expected a number from 0 to 1, got"):
        overlay(None, np.zeros((1, 1)), whole_image(1, 1, (2, 2)), heatmap_opacity=opacity)  # type: ignore[arg-type]


def test_bad_shape_image_values_and_name_are_named() -> None:
    grid = whole_image(2, 3, (4, 4))
    with pytest.raises(InputError, match=r"cell_map: expected shape \(2, 3\), got \(3, 2\)"):
        overlay(None, np.zeros((3, 2)), grid)
    with pytest.raises(InputError, match=r"image: expected \(4, 4\) pixels .* got \(5, 4\)"):
        overlay(plain(5, 4), np.zeros((2, 3)), grid)
    with pytest.raises(InputError, match=r"cell_map: expected finite values from 0 to 1, got values from 0 to 2"):
        overlay(None, np.array([[0, 0, 0], [0, 0, 2.0]]), grid)
    with pytest.raises(InputError, match="cell_map: expected finite"):
        overlay(None, np.full((2, 3), np.nan), grid)
    with pytest.raises(InputError, match="colormap: expected one of"):
        overlay(None, np.zeros((2, 3)), grid, colormap="rainbow")
    with pytest.raises(InputError, match=r"drawing: expected one of highlight, heat; got 'clear'"):
        overlay(None, np.zeros((2, 3)), grid, drawing="clear")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"colormap: expected one of inferno, .* for drawing='heat', .* got 'magenta'"):
        overlay(None, np.zeros((2, 3)), grid, drawing="heat", colormap="magenta")


def test_fit_shrinks_image_and_box_alike() -> None:
    grid = Grid(2, 2, (100.0, 0.0, 500.0, 400.0), (600, 400))
    image, small = fit(plain(600, 400), grid, 300)
    assert image is not None
    assert image.size == small.image_size == (300, 200)
    assert small.box == (50.0, 0.0, 250.0, 200.0)
    same, unchanged = fit(None, grid, 600)
    assert same is None
    assert unchanged == grid
