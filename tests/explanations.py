"""Explanations made up for tests: small, quick, the same for the same arguments, and true to the equations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dexar_fast.inputs.targets import Target
from dexar_fast.layout.grid import Grid, whole_image
from dexar_fast.result.explanation import Explanation, minmax

PROMPT = "Describe the image."
# Pieces as a tokenizer gives them; "pagoda" is three tokens, the last one is white space.
TOKENS = (
    "At the left stands a red pag od a ,| on the right a green tree .| The sky above is pale blue and a small "
    "white boat crosses the lake ."
)
# Where a piece looks, as fractions of the image, and how strongly.
_PLACES = {
    "left": (0.3, 0.5, 0.3), "red": (0.3, 0.55, 0.8), "pag": (0.3, 0.45, 1.0), "od": (0.3, 0.4, 0.7),
    "a": (0.3, 0.6, 0.0), "right": (0.8, 0.6, 0.25), "green": (0.8, 0.65, 0.75), "tree": (0.8, 0.6, 0.9),
    "sky": (0.6, 0.12, 0.6), "pale": (0.55, 0.15, 0.4), "blue": (0.6, 0.15, 0.65), "boat": (0.55, 0.72, 0.85),
    "white": (0.55, 0.7, 0.55), "lake": (0.5, 0.85, 0.5), "small": (0.56, 0.72, 0.35),
}  # fmt: skip


def pieces(text: str = TOKENS) -> list[str]:
    """Tokens of a text: pieces are separated by spaces, ``|`` ends a line, sub-words stick to the piece before."""
    result: list[str] = []
    for line_number, line in enumerate(text.split("|")):
        if line_number:
            result.append("\n")
        for number, piece in enumerate(line.split()):
            glued = number == 0 or piece in ("od", ".", ",") or (piece == "a" and result[-1] == "od")
            result.append(piece if glued else " " + piece)
    return result


def scene(width: int = 640, height: int = 480) -> Image.Image:
    """A drawn picture of ``width x height`` pixels: sky, lake, a red pagoda at the left, a tree at the right."""
    shade = np.linspace(0, 1, height)[:, None, None]
    sky = (1 - shade) * np.array([196.0, 216, 236]) + shade * np.array([236.0, 232, 220])
    image = Image.fromarray(np.broadcast_to(sky, (height, width, 3)).astype(np.uint8).copy())
    draw = ImageDraw.Draw(image)

    def at(*points: tuple[float, float]) -> list[tuple[float, float]]:
        return [(x * width, y * height) for x, y in points]

    draw.rectangle(at((0, 0.68), (1, 1)), fill=(120, 150, 168))
    draw.polygon(at((0, 0.7), (0.25, 0.6), (0.6, 0.66), (1, 0.58), (1, 0.7)), fill=(140, 158, 140))
    for level in range(3):
        y, half = 0.3 + 0.16 * level, 0.1 + 0.03 * level
        roof = at((0.3 - half - 0.04, y), (0.3 - half + 0.05, y - 0.08), (0.3 + half - 0.05, y - 0.08))
        draw.polygon(roof + at((0.3 + half + 0.04, y)), fill=(62, 74, 72))
        draw.rectangle(at((0.3 - half + 0.03, y), (0.3 + half - 0.03, y + 0.1)), fill=(168, 52, 40))
    draw.rectangle(at((0.79, 0.6), (0.815, 0.86)), fill=(92, 70, 52))
    draw.ellipse(at((0.7, 0.36), (0.91, 0.72)), fill=(70, 112, 62))
    draw.polygon(at((0.5, 0.74), (0.61, 0.74), (0.59, 0.78), (0.52, 0.78)), fill=(240, 238, 232))
    draw.polygon(at((0.55, 0.73), (0.55, 0.64), (0.6, 0.73)), fill=(250, 250, 246))
    return image


def make_explanation(
    tokens: Sequence[str] | None = None,
    *,
    rows: int = 18,
    cols: int = 24,
    grid: Grid | None = None,
    image: Image.Image | None = None,
    with_image: bool = True,
    prompt: str = PROMPT,
    seed: int = 0,
    layers: int = 6,
    heads: int = 4,
) -> Explanation:
    """An explanation in which every known piece looks at its place and the others look nowhere much.

    Args:
        tokens: T pieces of text; default `pieces()`.
        rows, cols: cells, covering the whole image.
        grid: instead of ``rows`` and ``cols``.
        image: default `scene()`, in the grid's size.
        with_image: False leaves the image out.
        prompt: as given by the user.
        seed: of the noise.
        layers, heads: L and H; the last L of 2 L layers are the ones explained.

    Returns:
        An Explanation whose weights, ranges, words and answer map follow from its maps and scores.
    """
    tokens = pieces() if tokens is None else list(tokens)
    rng = np.random.default_rng(seed)
    size = (640, 480) if image is None else image.size
    grid = whole_image(rows, cols, size) if grid is None else grid
    if with_image and image is None:
        image = scene(*grid.image_size)
    places = [_PLACES.get(piece.strip(), (rng.random(), rng.random(), 0.0)) for piece in tokens]

    raw = np.stack([_blob(grid, x, y, 0.15 + strength, rng) for x, y, strength in places])  # (T, rows, cols)
    text = rng.random((len(tokens), layers, heads)) * 0.01
    image_scores = rng.random((len(tokens), layers, heads)) * 0.01
    image_scores[np.arange(len(tokens)), rng.integers(0, layers, len(tokens)), rng.integers(0, heads, len(tokens))] += [
        0.04 * strength for _, _, strength in places
    ]
    weights = np.maximum(image_scores.max(axis=(1, 2)) - text.max(axis=(1, 2)), 0)
    maps = np.stack([minmax(one) for one in raw])
    return from_maps(
        maps,
        tokens,
        grid,
        weights=weights,
        image_scores=image_scores,
        text_scores=text,
        ranges=np.stack([raw.min(axis=(1, 2)), raw.max(axis=(1, 2))], axis=1),
        image=image if with_image else None,
        prompt=prompt,
    )


def from_maps(
    maps: NDArray[np.floating],
    tokens: Sequence[str],
    grid: Grid,
    *,
    weights: NDArray[np.floating] | None = None,
    image_scores: NDArray[np.floating] | None = None,
    text_scores: NDArray[np.floating] | None = None,
    ranges: NDArray[np.floating] | None = None,
    image: Image.Image | None = None,
    prompt: str = PROMPT,
) -> Explanation:
    """An explanation with exactly these ``(T, rows, cols)`` maps; the answer map follows from them (Eq. 6)."""
    count = len(tokens)
    weights = np.linspace(1, 0.5, count) if weights is None else weights
    image_scores = np.broadcast_to(weights[:, None, None], (count, 1, 1)) if image_scores is None else image_scores
    layers = image_scores.shape[1]
    return Explanation(
        tokens=list(tokens),
        token_ids=np.arange(count, dtype=np.int64) + 100,
        token_maps=maps.astype(np.float32),
        answer_map=minmax((weights[:, None, None] * maps).sum(axis=0)).astype(np.float32),
        token_weights=weights.astype(np.float32),
        image_scores=image_scores.astype(np.float32),
        text_scores=(np.zeros_like(image_scores) if text_scores is None else text_scores).astype(np.float32),
        token_map_ranges=(np.tile([0.0, 1.0], (count, 1)) if ranges is None else ranges).astype(np.float32),
        layers=tuple(range(layers, 2 * layers)),
        grid=grid,
        settings={
            "prompt": prompt,
            "model": "example/llava-tiny",
            "method": "dexar",
            "normalization": "paper",
            "text_set": "all_non_image",
            "versions": {"dexar_fast": "0.0", "torch": "2.11.0", "transformers": "5.17.0"},
            "answer_ids": [100 + index for index in range(count)],
        },
        image=image,
    )


def with_targets(explanation: Explanation, *targets: Target) -> Explanation:
    """The same answer, with rows for these targets instead of the tokens: those of their first tokens."""
    rows = [target.start for target in targets]
    return replace(
        explanation,
        targets=tuple(targets),
        token_maps=explanation.token_maps[rows],
        token_weights=explanation.token_weights[rows],
        image_scores=explanation.image_scores[rows],
        text_scores=explanation.text_scores[rows],
        token_map_ranges=explanation.token_map_ranges[rows],
    )


def one_cell_maps(rows: int, cols: int, *cells: tuple[int, int]) -> NDArray[np.float32]:
    """``(T, rows, cols)``: map t is 1 at the t-th cell and 0 elsewhere."""
    maps = np.zeros((len(cells), rows, cols), dtype=np.float32)
    for number, (row, col) in enumerate(cells):
        maps[number, row, col] = 1
    return maps


def _blob(grid: Grid, x: float, y: float, strength: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A round hill at a place of the image, on noise with a few strays, as such maps look."""
    left, top, right, bottom = grid.box
    width, height = grid.image_size
    across = (left + (right - left) * (np.arange(grid.cols) + 0.5) / grid.cols) / width - x
    down = (top + (bottom - top) * (np.arange(grid.rows) + 0.5) / grid.rows) / height - y
    hill = np.exp(-(across[None, :] ** 2 / 0.014 + down[:, None] ** 2 / 0.025))
    texture = 0.6 + 0.8 * rng.random((grid.rows, grid.cols))
    return 0.004 * strength * hill * texture + 0.0009 * rng.random((grid.rows, grid.cols)) ** 6
