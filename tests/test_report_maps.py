"""The report in a real browser: where maps lie on the image, and how they are drawn."""

from __future__ import annotations

import base64
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from dexar_fast.layout.grid import Grid, to_pixels, whole_image
from dexar_fast.render.colormap import NAMES, SCALES, colours_of, table
from dexar_fast.render.drawing import ink, style, thickness
from dexar_fast.render.overlay import overlay
from dexar_fast.result.appearance import DEFAULT_COLORMAP

from .browsers import Open, Report, browser, open_report
from .explanations import from_maps, make_explanation, one_cell_maps, scene

__all__ = ["browser", "open_report"]  # fixtures


LIGHTEST = (252, 255, 164)  # inferno's 1
MAGENTA = (222, 0, 240)


def pixels_of(bar: Any) -> np.ndarray:
    """``(256, 4)``: the pixels of the colour bar."""
    address = bar.evaluate("one => one.toDataURL()")
    return np.asarray(Image.open(BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGBA"))[0]


def canvas(report: Report) -> np.ndarray:
    """``(height, width, 4)``: the pixels of the overlay, its opacity in [0, 255] last."""
    report.settle()
    width, height, *pixels = report.page.locator("#overlay").evaluate(
        "c => [c.width, c.height, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    )
    return np.array(pixels).reshape(height, width, 4)


def bright_box(picture: np.ndarray) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the pixels in the colour map's last colour, as fractions of the picture."""
    lit = np.abs(picture.astype(int) - LIGHTEST).max(axis=2) <= 8
    assert np.count_nonzero(lit) > 0
    (rows,), (cols,) = np.nonzero(lit.any(axis=1)), np.nonzero(lit.any(axis=0))
    height, width = lit.shape
    return cols[0] / width, rows[0] / height, (cols[-1] + 1) / width, (rows[-1] + 1) / height


@pytest.mark.parametrize(
    ("grid", "cell", "expected"),
    [
        (whole_image(3, 4, (400, 300)), (1, 2), (0.5, 1 / 3, 0.75, 2 / 3)),
        (whole_image(3, 4, (400, 300)), (2, 0), (0.0, 2 / 3, 0.25, 1.0)),
        # A centre crop of 300 x 300 pixels, 3 x 3 cells of 100: column 0 begins at pixel 50 of 400.
        (Grid(3, 3, (50.0, 0.0, 350.0, 300.0), (400, 300)), (1, 0), (0.125, 1 / 3, 0.375, 2 / 3)),
        # Padded to 400 x 400: 50 rows of the box lie above the image, so that cell row 0 is cut in half.
        (Grid(4, 4, (0.0, -50.0, 400.0, 350.0), (400, 300)), (0, 3), (0.75, 0.0, 1.0, 1 / 6)),
    ],
    ids=["whole", "corner", "centre-crop", "padded"],
)
def test_a_cell_lands_on_its_place_of_the_image(
    open_report: Open, grid: Grid, cell: tuple[int, int], expected: tuple[float, float, float, float]
) -> None:
    maps = one_cell_maps(grid.rows, grid.cols, cell)
    report = open_report(from_maps(maps, ["word"], grid, image=Image.new("RGB", (400, 300), (90, 90, 90))))
    report.page.get_by_label("Cells").check()
    report.page.locator("#opacity").focus()
    report.press("End")
    assert bright_box(report.picture()) == pytest.approx(expected, abs=0.006)
    report.page.get_by_label("Heat", exact=True).check()
    left, top, right, bottom = bright_box(report.picture())  # the peak alone, inside the cell
    assert expected[0] - 0.006 <= left < right <= expected[2] + 0.006
    assert expected[1] - 0.006 <= top < bottom <= expected[3] + 0.006


@pytest.mark.parametrize(("rows", "cols"), [(3, 4), (1, 5), (7, 1)], ids=str)
def test_smooth_maps_are_bilinear_between_cell_centres(open_report: Open, rows: int, cols: int) -> None:
    maps = np.random.default_rng(1).random((1, rows, cols))
    report = open_report(from_maps(maps, ["word"], whole_image(rows, cols, (400, 300))))
    report.page.get_by_label("Heat", exact=True).check()
    report.unit(0).click()
    drawn = canvas(report)
    height, width, _ = drawn.shape
    kept = np.rint(maps[0] * 255)
    grid = whole_image(rows, cols, (width, height))
    expected = colours_of(to_pixels(kept / 255, grid), DEFAULT_COLORMAP)
    np.testing.assert_allclose(drawn[..., :3], expected, atol=6)
    assert (drawn[..., 3] == 255).all()


@pytest.mark.parametrize(("rows", "cols"), [(3, 4), (1, 5), (7, 1), (24, 18)], ids=str)
def test_what_is_hot_is_drawn_as_in_python(open_report: Open, rows: int, cols: int) -> None:
    maps = np.random.default_rng(1).random((1, rows, cols))
    report = open_report(from_maps(maps, ["word"], whole_image(rows, cols, (400, 300))))
    report.unit(0).click()
    drawn = canvas(report).astype(float)
    height, width, _ = drawn.shape
    kept = np.rint(maps[0] * 255) / 255
    values = to_pixels(kept, whole_image(rows, cols, (width, height)))
    colours, opacity = ink(values, style("highlight", 1.0), max(width, height))
    assert np.abs(drawn[..., 3] - 255 * opacity).max() <= 6
    assert np.abs(drawn[..., :3] * drawn[..., 3:] / 255 - colours).max() <= 6
    assert report.page.locator("#overlay").evaluate("one => getComputedStyle(one).opacity") == "1"


def test_the_browser_shows_what_python_draws(open_report: Open) -> None:
    """Also after scaling, on the screen: no pixel lies outside what Python draws there and beside it."""
    explanation = make_explanation()
    report = open_report(explanation)
    shown = report.picture()
    report.page.locator("#opacity").fill("0")
    bare = Image.fromarray(report.picture())
    rows, cols = explanation.answer_map.shape
    drawn = overlay(bare, explanation.answer_map, whole_image(rows, cols, bare.size))
    low, high = (
        np.asarray(drawn.filter(each(3))).astype(int) for each in (ImageFilter.MinFilter, ImageFilter.MaxFilter)
    )
    outside = np.maximum(low - shown, shown - high).max(axis=2)[4:-4, 4:-4]  # the frame's corners are round
    assert (outside > 24).mean() < 0.001
    assert np.abs(shown.astype(int) - np.asarray(bare)).max(axis=2).mean() > 20


def test_the_legend_shows_what_is_drawn(open_report: Open) -> None:
    report = open_report(make_explanation())
    bar = report.page.locator("#bar")
    steps = pixels_of(bar)
    np.testing.assert_array_equal(steps[:, 3], thickness("highlight"))
    assert bar.evaluate("one => one.style.opacity") == "1"
    assert report.page.locator("#bar-line").is_visible()
    assert report.text("meaning") == "inside the line: 0.5 or more"
    report.page.get_by_label("Heat", exact=True).check()
    report.settle()
    steps = pixels_of(bar)
    np.testing.assert_array_equal(steps[:, :3], table(DEFAULT_COLORMAP))
    assert (steps[:, 3] == 255).all()
    assert report.page.locator("#bar-line").is_hidden()
    assert report.text("meaning") == ""


def test_a_drawing_offers_its_own_colours_and_strength(open_report: Open) -> None:
    report = open_report(make_explanation())
    page = report.page
    offered = "() => [...document.querySelectorAll('#colormap option')].map(one => one.value)"
    assert page.evaluate(offered) == list(NAMES)
    page.locator("#colormap").select_option("viridis")
    page.get_by_label("Heat", exact=True).check()
    assert page.evaluate(offered) == list(SCALES)
    assert (page.locator("#colormap").input_value(), report.text("opacity-value")) == ("inferno", "55%")
    page.locator("#colormap").select_option("cividis")
    page.get_by_label("Cells").check()  # a heat map too
    assert page.locator("#colormap").input_value() == "cividis"
    page.get_by_label("Highlight").check()
    assert (page.locator("#colormap").input_value(), report.text("opacity-value")) == ("magenta", "100%")


def test_the_part_that_the_model_never_saw_is_grey_and_dark(open_report: Open) -> None:
    grid = Grid(3, 3, (100.0, 0.0, 300.0, 300.0), (400, 300))
    image = Image.new("RGB", (400, 300), (250, 80, 20))
    report = open_report(from_maps(one_cell_maps(3, 3, (1, 1)), ["word"], grid, image=image))
    report.page.locator("#opacity").focus()
    report.press("Home")
    picture = report.picture().astype(int)
    width = picture.shape[1]
    unseen = picture[5:-5, : int(0.24 * width)].reshape(-1, 3)
    seen = picture[5:-5, int(0.26 * width) : int(0.74 * width)].reshape(-1, 3)
    assert np.ptp(unseen, axis=1).max() <= 3
    assert np.median(unseen) < 60
    assert (np.abs(seen - (250, 80, 20)).max(axis=1) <= 2).all()
    assert report.page.locator("#outside-note").evaluate("one => !one.hidden")


def test_nothing_is_marked_unseen_on_a_whole_image(open_report: Open) -> None:
    report = open_report(make_explanation())
    assert report.page.locator(".outside").count() == 0
    assert report.page.locator("#outside-note").evaluate("one => one.hidden")


def test_the_pointer_on_the_image_reads_a_cell(open_report: Open) -> None:
    grid = whole_image(3, 4, (400, 300))
    maps = np.zeros((1, 3, 4), dtype=np.float32)
    maps[0, 1, 2], maps[0, 0, 0] = 1, 0.4
    report = open_report(from_maps(maps, ["word"], grid, image=scene(400, 300)))
    box = report.page.locator("#frame").bounding_box()
    assert box is not None
    report.page.mouse.move(box["x"] + box["width"] / 8, box["y"] + box["height"] / 6)
    assert report.text("meaning") == "0.40 at row 1, column 1"
    assert report.page.locator("#tick").evaluate("one => one.style.left") == "40%"
    report.away()
    assert report.page.locator("#tick").is_hidden()
    assert report.text("meaning") == "inside the line: 0.5 or more"


def test_without_an_image_the_frame_keeps_its_shape(open_report: Open) -> None:
    report = open_report(make_explanation(with_image=False))
    frame = report.page.locator("#frame").bounding_box()
    assert frame is not None
    assert frame["width"] / frame["height"] == pytest.approx(640 / 480, rel=0.01)
    assert report.page.locator("#picture").is_hidden()
    before = report.overlay()
    report.unit(5).hover()
    assert report.overlay() != before


@pytest.mark.parametrize(("image", "row", "col"), [(0, 2, 0), (1, 1, 2), (2, 0, 4)])
def test_the_strongest_cell_of_several_images_is_named_by_its_own_map(
    open_report: Open, image: int, row: int, col: int
) -> None:
    """Cells of the montage belong to nobody's map. The last image is cut to its centre."""
    grids = (whole_image(3, 4, (40, 30)), whole_image(2, 3, (30, 30)), Grid(2, 5, (10.0, 0.0, 50.0, 30.0), (60, 30)))
    maps = [np.zeros((1, grid.rows, grid.cols), dtype=np.float32) for grid in grids]
    maps[image][0, row, col] = 1
    alone = from_maps(maps[0], ["a"], grids[0], image=scene(40, 30))
    several = replace(
        alone,
        grid=grids,
        token_maps=tuple(maps),
        answer_map=tuple(one[0] for one in maps),
        image=tuple(scene(*grid.image_size) for grid in grids),
    )
    report = open_report(several)
    assert report.text("peak-aside") == f"image {image + 1}, row {row + 1}, column {col + 1}"
    assert report.whole("peak-aside")


def test_the_saved_picture_is_the_image_with_the_map(open_report: Open) -> None:
    picture = Image.fromarray(np.arange(48 * 64 * 3, dtype=np.uint32).reshape(48, 64, 3).astype(np.uint8))
    report = open_report(from_maps(one_cell_maps(2, 2, (0, 0)), ["red"], whole_image(2, 2, (64, 48)), image=picture))
    page = report.page
    page.locator(".unit").first.click()
    report.settle()
    with page.expect_download() as downloaded:
        page.locator("#save").click()
    assert downloaded.value.suggested_filename == "red.png"
    with Image.open(downloaded.value.path()) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    assert pixels.shape == (48, 64, 3)
    mixed = 0.75 * np.array(MAGENTA) + 0.25 * np.asarray(picture)[11, 15]
    assert np.abs(pixels[11, 15] - mixed).max() < 3  # the middle of the strongest cell
    assert np.array_equal(pixels[40:, 52:], np.asarray(picture)[40:, 52:])  # where the map is zero it is as it was
    assert not np.array_equal(pixels[:24, :32], np.asarray(picture)[:24, :32])
