"""Cells to pixels: the crop and resize of CLIP's processor, inverted."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from dexar_fast import InputError
from dexar_fast.layout.grid import Grid, draw_box, resized_and_cropped, seen, to_cells, to_pixels, whole_image

SIZES = [(24, 24), (40, 30), (30, 40), (241, 60), (17, 400), (7, 5), (1000, 999)]


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("shortest_edge", [True, False], ids=["shortest edge", "fixed size"])
def test_cell_lands_where_the_processor_read_it(size: tuple[int, int], shortest_edge: bool) -> None:
    """Each image column is lit alone; the model column that sees most of it must be the cell that covers it."""
    width, height = size
    resize = {"shortest_edge": 24} if shortest_edge else {"height": 24, "width": 30}
    processor = CLIPImageProcessorPil(
        size=resize, crop_size={"height": 24, "width": 24}, do_normalize=False, do_rescale=True, resample=0
    )
    grid = resized_and_cropped(24, 24, size, resize, {"height": 24, "width": 24})
    # A picture whose red is its column and whose green is its row, read through the processor.
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    picture = Image.fromarray(np.stack([x * 255, y * 255, x * 0], axis=-1).astype(np.uint8))
    pixels = processor(picture, return_tensors="pt")["pixel_values"][0]
    left, top, right, bottom = grid.box
    centres_x = left + (np.arange(24) + 0.5) * (right - left) / 24
    centres_y = top + (np.arange(24) + 0.5) * (bottom - top) / 24
    expected_x, expected_y = ((c - 0.5) / (n - 1) for c, n in ((centres_x, width), (centres_y, height)))
    for channel, expected, n in ((pixels[0].mean(0), expected_x, width), (pixels[1].mean(1), expected_y, height)):
        inside = (expected >= 0) & (expected <= 1)
        assert inside.any()
        # Nearest-neighbour resizing reads within one source pixel of the centre.
        np.testing.assert_allclose(channel.numpy()[inside], expected[inside], atol=1.01 / (n - 1) + 1 / 255)


def test_padded_small_image() -> None:
    """Without resizing, a crop larger than the image pads it: the box is larger than the image."""
    grid = resized_and_cropped(4, 4, (10, 8), None, {"height": 16, "width": 16})
    assert grid.box == (-3, -4, 13, 12)
    assert seen(grid).all()


def test_unknown_resize_is_named() -> None:
    with pytest.raises(InputError, match="expected an image size of shortest_edge, or of height and width"):
        resized_and_cropped(4, 4, (10, 8), {"max_pixels": 3}, None)


def test_one_lit_cell_lands_in_its_pixels() -> None:
    grid = whole_image(3, 4, (80, 30))
    cells = np.zeros((3, 4))
    cells[2, 1] = 1
    pixels = to_pixels(cells, grid)
    assert pixels.shape == (30, 80)
    row, column = np.unravel_index(pixels.argmax(), pixels.shape)
    assert 20 <= row < 30
    assert 20 <= column < 40
    assert pixels[25, 30] > 0.9
    assert pixels[:10].max() == 0
    assert pixels[:, 60:].max() == 0


def test_is_bilinear_without_aligned_corners() -> None:
    cells = np.random.default_rng(0).random((3, 5))
    expected = torch.nn.functional.interpolate(
        torch.tensor(cells)[None, None], size=(31, 47), mode="bilinear", align_corners=False
    )[0, 0]
    np.testing.assert_allclose(to_pixels(cells, whole_image(3, 5, (47, 31))), expected.numpy(), atol=1e-6)


def test_pixels_that_the_model_never_saw_are_zero() -> None:
    grid = Grid(2, 2, (10, 0, 30, 20), (40, 20))
    pixels = to_pixels(np.ones((2, 2)), grid)
    assert (pixels[:, :10] == 0).all()
    assert (pixels[:, 30:] == 0).all()
    assert (pixels[:, 10:30] == 1).all()
    assert draw_box(grid) == (0.25, 0, 0.5, 1)


def test_cells_hold_the_mean_of_their_area() -> None:
    pixels = np.zeros((3, 4))
    pixels[0, :] = 1
    # Rows of 1.5 pixels; columns of 2, of which the first lies outside the image.
    grid = Grid(2, 3, (-2.0, 0.0, 4.0, 3.0), (4, 3))
    np.testing.assert_allclose(to_cells(pixels, grid), np.array([[0, 2 / 3, 2 / 3], [0, 0, 0]]))
    rng = np.random.default_rng(0)
    picture = rng.random((30, 20))
    np.testing.assert_allclose(to_cells(picture, whole_image(6, 5, (20, 30)))[2, 3], picture[10:15, 12:16].mean())
    with pytest.raises(InputError, match=r"pixel_map: expected shape \(30, 20\), got \(20, 30\)"):
        to_cells(picture.T, whole_image(6, 5, (20, 30)))


def test_map_of_another_shape_is_named() -> None:
    with pytest.raises(InputError, match=r"cell_map: expected shape \(2, 2\), got \(3, 2\)"):
        to_pixels(np.ones((3, 2)), whole_image(2, 2, (4, 4)))
