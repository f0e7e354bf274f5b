"""Scenes for the richer language: objects with patterns, on backgrounds with lines and specks that nobody mentions."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .language import PLACES
from .rich_language import PATTERNS, ask, describe
from .scenes import SIDE, SQUARE, Scene, SceneObject, draw_background, paint, place_object

MOST_OBJECTS = 5
RADII = {"small": (8.0, 9.5), "large": (12.5, 14.5)}
"""Least and greatest radius of each size in pixels: larger than those of plain objects, for a pattern needs room."""
DARKER = 0.35
"""What is left of a colour's brightness in the dark parts of a pattern; black is made brighter instead."""
BRIGHTER = 60.0
"""By so much. Both are darker than nearly all backgrounds, or a pattern would break the outline."""


def draw_rich_scene(seed: int) -> Scene:
    """Draw the scene of a seed: one to five objects. The seeds are parted as those of the plain scenes are."""
    rng = np.random.default_rng([seed, 20])
    places = np.sort(rng.permutation(len(PLACES))[: int(rng.integers(1, MOST_OBJECTS + 1))])
    canvas = draw_background(seed).astype(np.float64)
    _distract(canvas, rng)
    objects: list[SceneObject] = []
    for place in places:
        pattern = PATTERNS[int(rng.integers(len(PATTERNS)))]
        objects.append(replace(place_object(int(place), rng, 1, SQUARE, radii=RADII), pattern=pattern))
        paint(canvas, objects[-1], rng, 1)
        _decorate(canvas, objects[-1], rng)
    image = Image.fromarray(np.clip(canvas.round(), 0, 255).astype(np.uint8))
    return Scene(seed, image, tuple(objects), describe(objects), ask(objects, np.random.default_rng([seed, 21])))


def _distract(canvas: NDArray[np.float64], rng: np.random.Generator) -> None:
    """Up to five thin lines and five specks, somewhat brighter or darker than the background."""
    for _ in range(int(rng.integers(0, 6))):
        drawn = Image.new("1", SQUARE)
        pen = ImageDraw.Draw(drawn)
        x, y = rng.uniform(0, SIDE, size=2)
        dx, dy = rng.uniform(-16, 16, size=2)
        pen.line((x, y, x + dx, y + dy), fill=1)
        x, y = rng.uniform(0, SIDE, size=2)
        pen.ellipse((x - 1.5, y - 1.5, x + 1.5, y + 1.5), fill=1)
        canvas[np.asarray(drawn)] += rng.choice([-40.0, 40.0])


def _decorate(canvas: NDArray[np.float64], thing: SceneObject, rng: np.random.Generator) -> None:
    """Stripes two pixels wide, or spots five pixels apart, in a darker shade of the object's colour."""
    y, x = np.indices(thing.mask.shape) + rng.integers(0, 5, size=2)[:, None, None]
    if thing.pattern == "striped":
        part = (x + y) % 4 < 2
    elif thing.pattern == "spotted":
        part = (x % 5 - 2) ** 2 + (y % 5 - 2) ** 2 <= 2
    else:
        return
    part &= thing.mask
    canvas[part] = canvas[part] + BRIGHTER if thing.colour == "black" else canvas[part] * DARKER
