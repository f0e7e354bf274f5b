"""Colour maps: the published colours, even steps, clear errors."""

from __future__ import annotations

import numpy as np
import pytest

from dexar_fast.errors import InputError
from dexar_fast.render.colormap import SCALES, colours_of, table
from dexar_fast.result.appearance import DEFAULT_COLORMAP


def lightness(colours: np.ndarray) -> np.ndarray:
    """CIE L* in [0, 100] of ``(n, 3)`` uint8 sRGB."""
    srgb = colours / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)


@pytest.mark.parametrize("name", SCALES)
def test_lightness_rises_evenly(name: str) -> None:
    steps = lightness(table(name))
    every_eighth = np.diff(steps[::8])
    assert (every_eighth > 0).all()
    straight = np.linspace(steps[0], steps[-1], 256)
    assert np.abs(steps - straight).max() < 6  # jet, for comparison, is off by more than 60


@pytest.mark.parametrize(("name", "tolerance"), [("inferno", 2), ("magma", 2), ("viridis", 2), ("cividis", 6)])
def test_tables_are_the_published_ones(name: str, tolerance: int) -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="compared with matplotlib's tables")
    published = np.rint(matplotlib.colormaps[name](np.arange(256))[:, :3] * 255)
    assert np.abs(table(name) - published).max() <= tolerance


def test_values_pick_the_nearest_of_256_colours() -> None:
    colours = colours_of(np.array([[-1.0, 0.0, 0.4 / 255], [0.6 / 255, 1.0, 7.0]]))
    assert colours.shape == (2, 3, 3)
    rows = table(DEFAULT_COLORMAP)[[0, 0, 0, 1, 255, 255]]
    np.testing.assert_array_equal(colours.reshape(6, 3), rows)
    assert not np.array_equal(rows[0], rows[3])


def test_a_table_cannot_be_changed_by_a_caller() -> None:
    with pytest.raises(ValueError, match="read-only"):
        table("viridis")[0] = 0


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"colormap: expected one of magenta, inferno, .*; got 'jet'"):
        table("jet")
