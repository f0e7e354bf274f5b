"""Drawn scenes with exact ground truth: what is where, and which words are about it.

`draw_scene(seed)` returns the same scene for the same seed. Held-out scenes are those of the seeds in
`HELD_OUT_SEEDS`, the small numbers that people type; training only ever draws seeds from `TRAINING_SEEDS`.
Needs numpy and Pillow, not torch.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from .language import COLOURS, PLACES, SHAPES, Question, Text, ask, describe
from .shapes import Mask, shape_mask

SIDE = 96
"""Width and height of a scene in pixels, at scale 1."""
SQUARE = (SIDE, SIDE)
"""Width and height of a scene where nothing else is said."""
CELL = SIDE // 3
"""Width and height of one of the nine places of such a scene; no object is larger."""
LEAST_SIDE = 84
"""Least width and height of a scene: three large objects, side by side."""
SIZES: tuple[tuple[int, int], ...] = tuple(product((96, 112, 128, 144), (96, 112, 128, 144)))
"""(width, height) of scenes of several sizes."""
FEW_SHAPES = ("square", "triangle", "cross", "ring")
"""The shapes of those scenes: small ones can be told apart with patches of a few pixels."""
FRAME = 1
"""Width of their frame in pixels: thin enough to cover no object."""
MAX_OBJECTS = 6

HELD_OUT_SEEDS = range(1_000_000)
"""Seeds that training never draws."""
TRAINING_SEEDS = range(1_000_000, 2**62)
"""Seeds that training draws from."""
WATCHED_SEEDS = range(HELD_OUT_SEEDS.stop - 1000, HELD_OUT_SEEDS.stop)
"""Held-out seeds watched during training; apart from those that final figures are measured on."""

RGB: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 165, 60),
    "blue": (45, 85, 225),
    "yellow": (240, 210, 40),
    "purple": (150, 50, 185),
    "white": (243, 243, 243),
    "black": (18, 18, 18),
}
RADII: dict[str, tuple[float, float]] = {"small": (6.0, 7.5), "large": (11.5, 13.5)}
"""Least and greatest radius of each size in pixels."""


@dataclass(frozen=True, eq=False)
class SceneObject:
    """One drawn object: what it is, and where in the picture."""

    colour: str
    shape: str
    size: str
    place: str
    mask: Mask  # bool (height, width): its visible pixels; read-only
    box: tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom exclusive
    centre: tuple[float, float]  # x, y in pixels
    pattern: str = "plain"


class Thing(NamedTuple):
    """An object's properties without its pixels."""

    colour: str
    shape: str
    size: str
    place: str
    pattern: str


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture, its objects in reading order, its description, and every unambiguous question about it."""

    seed: int
    image: Image.Image
    objects: tuple[SceneObject, ...]
    description: Text
    questions: tuple[Question, ...]

    def mask(self, objects: Iterable[int]) -> Mask:
        """The visible pixels of several objects together: bool (height, width).

        What word i of a text is about is `scene.mask(text.refers_to[i])`.
        """
        union = np.zeros((self.image.height, self.image.width), dtype=np.bool_)
        for index in objects:
            union |= self.objects[index].mask
        return union


def draw_scene(
    seed: int,
    n_objects: int | None = None,
    *,
    scale: int = 1,
    size: tuple[int, int] = SQUARE,
    shapes: tuple[str, ...] = SHAPES,
) -> Scene:
    """Draw the scene of a seed.

    `n_objects` (1 to 6) is drawn from the seed when it is not given. `scale` draws the same scene with
    `scale` times as many pixels each way; masks and boxes are then in those pixels. `size` is (width, height) at
    scale 1; objects keep their size and stand in the thirds of each. `shapes` are those to choose from.
    """
    if n_objects is not None and not 1 <= n_objects <= MAX_OBJECTS:
        raise ValueError(f"n_objects must be from 1 to {MAX_OBJECTS}, not {n_objects}")
    if scale < 1:
        raise ValueError(f"scale must be a whole number from 1, not {scale}")
    if min(size) < LEAST_SIDE:
        raise ValueError(f"size must be at least {LEAST_SIDE} each way, not {size}")
    rng = np.random.default_rng([seed, 0])
    drawn_count = int(rng.integers(1, MAX_OBJECTS + 1))  # always drawn, so that n_objects changes nothing else
    places = np.sort(rng.permutation(len(PLACES))[: n_objects or drawn_count])

    canvas = draw_background(seed, scale=scale, size=size).astype(np.float64)  # (height, width, 3)
    objects: list[SceneObject] = []
    for place in places:
        objects.append(place_object(int(place), rng, scale, size, shapes))
        paint(canvas, objects[-1], rng, scale)
    image = Image.fromarray(np.clip(canvas.round(), 0, 255).astype(np.uint8))
    return Scene(seed, image, tuple(objects), describe(objects), ask(objects, np.random.default_rng([seed, 2])))


def draw_sized_scene(seed: int) -> Scene:
    """The scene of a seed in one of `SIZES`, which the seed chooses, in a thin frame.

    A tower whose positions are relative sees by the frame where in the picture it is.
    """
    scene = draw_scene(seed, size=SIZES[seed % len(SIZES)], shapes=FEW_SHAPES)
    return replace(scene, image=ImageOps.expand(ImageOps.crop(scene.image, FRAME), FRAME, "black"))


def place_object(
    place: int,
    rng: np.random.Generator,
    scale: int,
    canvas: tuple[int, int],
    shapes: tuple[str, ...] = SHAPES,
    radii: Mapping[str, tuple[float, float]] = RADII,
) -> SceneObject:
    """An object with random properties somewhere inside its place, so that objects never overlap."""
    colour, shape, size = (options[rng.integers(len(options))] for options in (COLOURS, shapes, tuple(radii)))
    radius = float(rng.uniform(*radii[size]))
    cell = (canvas[0] / 3, canvas[1] / 3)
    slack = np.asarray(cell) / 2 - radius - 0.5
    shift = rng.uniform(-slack, slack)
    centre = (
        (place % 3 + 0.5) * cell[0] + float(shift[0]),
        (place // 3 + 0.5) * cell[1] + float(shift[1]),
    )
    mask = shape_mask(shape, centre, radius, canvas, scale)
    mask.flags.writeable = False
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return SceneObject(colour, shape, size, PLACES[place], mask, box, (centre[0] * scale, centre[1] * scale))


def paint(canvas: NDArray[np.float64], thing: SceneObject, rng: np.random.Generator, scale: int) -> None:
    """Fill the object's pixels with its colour, a little darker on one side and grained."""
    left, top, right, bottom = thing.box
    towards_x, towards_y = rng.uniform(-1.0, 1.0, size=2)
    x = np.linspace(-1.0, 1.0, right - left)[None, :]
    y = np.linspace(-1.0, 1.0, bottom - top)[:, None]
    shade = 0.94 + 0.03 * (towards_x * x + towards_y * y)  # (height, width) of the box
    grain = _enlarge(rng.uniform(-8.0, 8.0, size=(CELL, CELL)), scale)[: bottom - top, : right - left]
    painted = np.asarray(RGB[thing.colour]) * shade[:, :, None] + grain[:, :, None]
    inside = thing.mask[top:bottom, left:right]
    canvas[top:bottom, left:right][inside] = painted[inside]


def draw_background(seed: int, *, scale: int = 1, size: tuple[int, int] = SQUARE) -> NDArray[np.uint8]:
    """The textured background of a seed's scene without objects: uint8 (height, width, 3).

    Greyish, between the brightness of black and that of the colours, so that every object stands out.
    """
    rng = np.random.default_rng([seed, 1])
    width, height = (length * scale for length in size)
    x, y = ((np.arange(length) + 0.5) / scale for length in (width, height))
    x, y = x[None, :], y[:, None]
    base = rng.uniform(100.0, 160.0) + rng.uniform(-14.0, 14.0, size=3)
    angle, period, phase = rng.uniform(0, np.pi), rng.uniform(6.0, 24.0), rng.uniform(0, 2 * np.pi)
    along = (x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period + phase
    across = (-x * np.sin(angle) + y * np.cos(angle)) * 2 * np.pi / period
    kind = int(rng.integers(5))
    if kind == 0:  # plain, slightly brighter towards one side
        texture = np.sin(along * period / 200.0)
    elif kind == 1:
        texture = np.sin(along)
    elif kind == 2:  # a chequerboard with hard edges
        texture = np.sign(np.sin(along)) * np.sign(np.sin(across))
    elif kind == 3:  # soft dots
        texture = np.sin(along) * np.sin(across)
    else:  # clouds
        coarse = Image.fromarray(rng.uniform(-1.0, 1.0, size=(9, 9)).astype(np.float32))
        texture = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
    amplitude = rng.uniform(6.0, 18.0)
    grain = _enlarge(rng.uniform(-7.0, 7.0, size=size[::-1]), scale)
    values = base[None, None, :] + (amplitude * texture + grain)[:, :, None]
    return np.clip(values.round(), 0, 255).astype(np.uint8)


def _enlarge(values: NDArray[np.float64], scale: int) -> NDArray[np.float64]:
    return values.repeat(scale, axis=0).repeat(scale, axis=1)
