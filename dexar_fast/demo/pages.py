"""Drawn pages of words and numbers with exact ground truth: which pixels are which character.

`draw_page(seed)` returns the same page for the same seed. The seeds are parted as those of the scenes are. The letters
are those of the font that comes inside Pillow, so nothing is downloaded. Needs numpy and Pillow, not torch.
"""

import string
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .shapes import Mask

WIDTH, HEIGHT = 112, 64
"""Size of a page in pixels."""
CHARACTERS = string.ascii_uppercase + string.digits
"""What is printed on pages."""
WORDS: tuple[str, ...] = (
    "TEA", "MUG", "HAT", "KEY", "BOX", "CUP", "JAM", "OWL", "FIG", "VAN", "ZINC", "QUIZ", "LAMP", "BIRD", "COIN",
    "DESK", "FISH", "GOLD", "HARP", "IRON", "JAZZ", "KITE", "LEAF", "MILK", "NEST", "OVAL", "PLUM", "RICE", "SALT",
    "TAXI", "VASE", "WOLF", "YARN", "BREAD", "CHAIR", "GRAPE", "HONEY", "KNIFE", "LEMON", "PAPER", "QUEEN", "SPOON",
    "TULIP", "WHEEL", "ZEBRA", "BUTTON", "CANDLE", "FLOWER", "GARDEN", "JACKET", "ORANGE", "PENCIL", "VIOLIN",
)  # fmt: skip
"""Half of the words on pages; the other half are random letters, so that reading cannot be guessing."""
SIZES = (15, 20)
"""Least and greatest font size."""
MOST_LINES = 3


@dataclass(frozen=True, eq=False)
class Glyph:
    """One printed character."""

    character: str
    mask: Mask  # bool (HEIGHT, WIDTH): the pixels that carry its ink; read-only
    box: tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom exclusive


@dataclass(frozen=True, eq=False)
class Page:
    """A picture of one to three lines, each of one or two items: a word, a number, or a word and a number."""

    seed: int
    image: Image.Image
    text: str  # the items in reading order with single spaces between them
    glyphs: tuple[Glyph, ...]  # the characters of `text` without the spaces

    def mask(self, glyphs: Iterable[int]) -> Mask:
        """The ink of several characters together: bool (HEIGHT, WIDTH)."""
        union = np.zeros((HEIGHT, WIDTH), dtype=np.bool_)
        for index in glyphs:
            union |= self.glyphs[index].mask
        return union

    def boxes(self, glyphs: Iterable[int]) -> Mask:
        """The boxes of several characters together: bool (HEIGHT, WIDTH)."""
        union = np.zeros((HEIGHT, WIDTH), dtype=np.bool_)
        for index in glyphs:
            left, top, right, bottom = self.glyphs[index].box
            union[top:bottom, left:right] = True
        return union

    def words(self) -> list[tuple[str, tuple[int, ...]]]:
        """The items, each with the indices of its glyphs."""
        found, at = [], 0
        for word in self.text.split():
            found.append((word, tuple(range(at, at + len(word)))))
            at += len(word)
        return found


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise ImportError("Pillow was built without FreeType, which draws the pages' letters")
    return font


def draw_page(seed: int) -> Page:
    """Draw the page of a seed."""
    rng = np.random.default_rng([seed, 10])
    ground, ink = _colours(rng)
    grain = rng.uniform(-10.0, 10.0, size=(HEIGHT, WIDTH, 1))
    slope = np.linspace(-1.0, 1.0, WIDTH)[None, :, None] * rng.uniform(-12.0, 12.0)
    canvas = ground + grain + slope
    glyphs: list[Glyph] = []
    lines: list[str] = []
    rows = rng.permutation(MOST_LINES)[: int(rng.integers(1, MOST_LINES + 1))]
    for row in np.sort(rows):
        lines.append(_line(rng))
        for character, cover in _print(lines[-1], int(row), rng):  # cover: share of each pixel under the ink
            canvas = canvas + cover[..., None] * (ink - canvas)
            glyphs.append(_glyph(character, cover > 0.25))
    image = Image.fromarray(np.clip(canvas.round(), 0, 255).astype(np.uint8))
    return Page(seed, image, " ".join(" ".join(lines).split()), tuple(glyphs))


def _print(line: str, row: int, rng: np.random.Generator) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Each character of a line with its ink, (HEIGHT, WIDTH) in [0, 1], somewhere in its third of the page."""
    size = int(rng.integers(SIZES[0], SIZES[1] + 1))
    while _font(size).getlength(line) > WIDTH - 4:
        size -= 1
    font = _font(size)
    left = rng.uniform(2.0, WIDTH - 2.0 - font.getlength(line))
    tall = -font.getbbox("H", anchor="ls")[1]
    pitch = HEIGHT / MOST_LINES
    foot = row * pitch + rng.uniform(tall + 1.0, pitch - 1.0)
    for index, character in enumerate(line):
        if character != " ":
            ink = Image.new("L", (WIDTH, HEIGHT))
            at = (left + font.getlength(line[:index]), foot)
            ImageDraw.Draw(ink).text(at, character, fill=255, font=font, anchor="ls")
            yield character, np.asarray(ink, dtype=np.float64) / 255.0


def _glyph(character: str, mask: Mask) -> Glyph:
    mask.flags.writeable = False
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return Glyph(character, mask, box)


def _line(rng: np.random.Generator) -> str:
    """A word, a number, or both; 9 characters at most."""
    kind = int(rng.integers(3))
    word = str(rng.choice(WORDS))
    if rng.random() < 0.5:
        letters = rng.choice(list(string.ascii_uppercase), size=int(rng.integers(2, 6)))
        word = "".join(letters)
    number = str(int(rng.integers(0, 10 ** int(rng.integers(1, 5)))))
    if kind == 0 or len(word) + len(number) > 7:
        return word if rng.random() < 0.5 or kind == 0 else number
    return number if kind == 1 else f"{word}  {number}"


def _colours(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Paper and ink, one of them dark and the other light."""
    light, dark = rng.uniform(190.0, 245.0, size=3), rng.uniform(10.0, 75.0, size=3)
    return (light, dark) if rng.random() < 0.7 else (dark, light)
