"""The highlight: cold places keep their pixels, hot ones stand out from any picture and for any eye."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dexar_fast.layout.grid import Grid, to_pixels, whole_image
from dexar_fast.render.colormap import NAMES
from dexar_fast.render.drawing import LINE_VALUE, ink, style, thickness
from dexar_fast.render.overlay import overlay

SIZE = (240, 180)
GRID = whole_image(6, 8, SIZE)  # cells of 30 pixels
HOT = (3, 5)
# How dichromats see linear sRGB: Machado, Oliveira and Fernandes 2009.
EYES = {
    "trichromat": np.eye(3),
    "deuteranope": np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
    "protanope": np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
}


def one_hot(cold: float = 0.0) -> np.ndarray:
    cell_map = np.full((6, 8), cold, dtype=np.float32)
    cell_map[HOT] = 1
    return cell_map


def linear(srgb: np.ndarray) -> np.ndarray:
    share = np.asarray(srgb, dtype=float) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def contrast(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """WCAG's ratio, from 1 to 21; 3 is asked of graphics."""
    luminances = [linear(colour) @ [0.2126, 0.7152, 0.0722] + 0.05 for colour in (one, other)]
    return np.maximum(*luminances) / np.minimum(*luminances)


def lab(srgb: np.ndarray, eye: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of what an eye sees."""
    seen = np.clip(linear(srgb) @ eye.T, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.moveaxis(np.cbrt(seen @ to_xyz.T / [0.9505, 1, 1.089]), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


@pytest.mark.parametrize("colormap", NAMES)
@pytest.mark.parametrize("cold", [0.0, 0.04])
def test_cold_places_keep_every_pixel(cold: float, colormap: str) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    cell_map = one_hot(cold)
    drawn = np.asarray(overlay(Image.fromarray(photo), cell_map, GRID, colormap=colormap))
    is_cold = to_pixels(cell_map, GRID) <= 0.05
    assert 0.8 < is_cold.mean() < 1
    np.testing.assert_array_equal(drawn[is_cold], photo[is_cold])
    assert (drawn[~is_cold] != photo[~is_cold]).any(axis=1).mean() > 0.8


@pytest.mark.parametrize("level", [255, 128, 0], ids=["white", "grey", "black"])
def test_a_hot_place_stands_out_from_white_grey_and_black(level: int) -> None:
    ground = np.array([level] * 3)
    drawn = np.asarray(overlay(Image.new("RGB", SIZE, (level, level, level)), one_hot(), GRID))
    ratios = contrast(drawn, ground)
    peak = ratios[HOT[0] * 30 + 15, HOT[1] * 30 + 15]
    if level != 128:  # a colour that stands out from both ends lies in the middle
        assert peak >= 3
    around = ratios[HOT[0] * 30 - 15 : HOT[0] * 30 + 45, HOT[1] * 30 - 15 : HOT[1] * 30 + 45]
    assert around.max() >= 3
    assert ratios[:30].max() == 1


@pytest.mark.parametrize("level", range(0, 256, 15))
def test_the_line_stands_out_by_lightness_alone(level: int) -> None:
    """On every grey, so for eyes that see no colours too: one of the two lines, and the two from each other."""
    drawn = np.asarray(overlay(Image.new("RGB", SIZE, (level, level, level)), one_hot(), GRID))
    across = drawn[HOT[0] * 30 + 15, : HOT[1] * 30 + 15]
    assert contrast(across, np.array([level] * 3)).max() >= 3
    assert contrast(across[:, None], across[None]).max() >= 4


@pytest.mark.parametrize("eye", EYES.values(), ids=EYES)
def test_the_colour_is_far_from_what_photographs_show(eye: np.ndarray) -> None:
    """Skin, sky, leaves, grass, wood, brick, sand, an orange, a red car, a shadow."""
    codes = "c68e74 8db5e0 3f6b2e 7ea04a 8a5a33 a4533c d9c7a0 f08a24 b81f24 23252b"
    grounds = np.array([list(bytes.fromhex(code)) for code in codes.split()])
    for ground in grounds:
        drawn = np.asarray(overlay(Image.new("RGB", SIZE, tuple(map(int, ground))), one_hot(), GRID))
        hot = drawn[HOT[0] * 30 + 15, HOT[1] * 30 + 15]
        assert np.linalg.norm(lab(hot, eye) - lab(ground, eye)) > 35, ground


def test_ink_grows_with_the_value() -> None:
    steps = thickness("highlight").astype(int)
    assert (steps[:13] == 0).all()
    assert (np.diff(steps[13:]) >= 0).all()
    assert steps[-1] == round(0.75 * 255)
    assert (thickness("heat") == 255).all()


@pytest.mark.parametrize("longer", [200, 2000])
def test_the_line_runs_where_the_map_is_at_half_dark_outside_and_light_inside(longer: int) -> None:
    values = np.broadcast_to(np.linspace(0, 1, longer, dtype=np.float32), (3, longer))
    colours, opacity = ink(values, style("highlight", 1.0), longer)
    dark = np.flatnonzero((opacity[1] > 0.99) & (colours[1].max(axis=-1) < 3))
    light = np.flatnonzero((opacity[1] > 0.99) & (colours[1].min(axis=-1) > 252))
    half = LINE_VALUE * (longer - 1)
    assert dark.max() < half < light.min()
    assert light.min() - dark.max() <= 2
    assert longer / 600 - 1 <= len(light) <= longer / 300 + 1


def test_a_crop_has_no_line_along_its_border() -> None:
    """Beyond what the model saw the map ends; that is no slope."""
    grid = Grid(4, 4, (40.0, 0.0, 200.0, 160.0), (240, 160))
    drawn = np.asarray(overlay(Image.new("RGB", (240, 160), (90, 90, 90)), np.ones((4, 4)), grid))
    seen = drawn[:, 40:200].reshape(-1, 3)
    assert len(np.unique(seen, axis=0)) == 1
