"""Which cell of which map each image token belongs to, on the images that the user gave.

A family describes its image tokens in the order of the prompt, with `LayoutBuilder`: blocks of rows and columns, each
on a rectangle of its image, tokens without a place, separators. Several blocks of one image (tiles, a thumbnail of the
whole) become one map with cells of the finest size that occurs. A token's value stands for the whole rectangle that it
covers, so a cell takes the mean of the tokens that it overlaps, weighted by area; where a thumbnail lies under tiles,
the cell is the mean of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import InputError
from .geometry import Box, Grid

THUMBNAILS = ("blend", "only", "without")
_SLIVER = 1e-6  # an overlap below this share of a token is rounding of the box


@dataclass(frozen=True)
class ImageLayout:
    """How the image tokens of a prompt form maps, one per image. N image tokens, C cells of all grids together.

    Attributes:
        grids: one per image or video frame, in the prompt's order; empty for a model whose image tokens have no place.
        tokens: ``(C, M)`` int64, the image tokens that a cell (grid after grid, row-major) takes its value from.
        weights: ``(C, M)`` float64, their weights, which sum to one, or to zero for a cell that no token covers.
        separators: ``(N + separators,)`` bool over the image placeholders of the prompt, True on learned separators
            (newlines), which count as text.
    """

    grids: tuple[Grid, ...]
    tokens: Tensor
    weights: Tensor
    separators: Tensor

    @property
    def n_image_tokens(self) -> int:
        """N: placeholders that carry image content."""
        return int((~self.separators).sum())

    def to_cells(self, maps: Tensor) -> Tensor:
        """``(T, N)`` over image tokens to ``(T, C)`` over cells. Deterministic on every device."""
        tokens, weights = self.tokens.to(maps.device), self.weights.to(maps)
        cells = maps.new_zeros(len(maps), len(tokens))
        for part in range(tokens.shape[1]):
            cells += maps[:, tokens[:, part]] * weights[:, part]
        return cells

    def per_image(self, cells: NDArray[Any]) -> list[NDArray[Any]]:
        """``(..., C)`` to one array ``(..., rows, cols)`` per image."""
        ends = np.cumsum([grid.cells for grid in self.grids])[:-1]
        parts = np.split(cells, ends, axis=-1)
        return [part.reshape(*part.shape[:-1], grid.rows, grid.cols) for part, grid in zip(parts, self.grids)]


@dataclass(frozen=True)
class _Block:
    tokens: NDArray[np.int64]  # (rows, cols)
    box: Box
    thumbnail: bool


class LayoutBuilder:
    """Takes the image tokens of a prompt in their order.

    Args:
        image_sizes: ``(width, height)`` of each image of the user, in pixels; None where they are not known.
    """

    def __init__(self, image_sizes: Sequence[tuple[int, int]] | None) -> None:
        self.image_sizes = image_sizes
        self._sizes: list[tuple[int, int]] = []
        self._blocks: list[list[_Block]] = []
        self._separators: list[bool] = []
        self._n_tokens = 0

    def __str__(self) -> str:
        images = []
        for blocks in self._blocks:
            shapes = [f"{block.tokens.shape[0]} x {block.tokens.shape[1]}" for block in blocks]
            images.append(" + ".join(shapes) or "no grid")
        return f"{len(images)} image(s) of {', '.join(images)} tokens and what stands beside them"

    def image(self, model_size: tuple[int, int]) -> tuple[int, int]:
        """Begin the next image (or video frame); returns its size ``(width, height)`` in pixels.

        Args:
            model_size: ``(width, height)`` that the model sees, for when the user's image is not known.
        """
        index = len(self._sizes)
        if self.image_sizes is not None and index >= len(self.image_sizes):
            raise InputError(
                f"image: {len(self.image_sizes)} given, but the model inputs hold more. Pass one for each, in order."
            )
        size = model_size if self.image_sizes is None else self.image_sizes[index]
        self._sizes.append(size)
        self._blocks.append([])
        return size

    def grid(
        self, rows: int, cols: int, box: Box | None = None, *, thumbnail: bool = False, row_ends: bool = False
    ) -> None:
        """The next ``rows x cols`` tokens, row by row.

        Args:
            rows, cols: of the block.
            box: ``(left, top, right, bottom)`` in pixels of the image, as `Grid.box`; None for the whole image.
            thumbnail: a coarse view of what other blocks of this image show finer.
            row_ends: each row is followed by a separator.
        """
        width, height = self._sizes[-1]
        tokens = np.arange(self._n_tokens, self._n_tokens + rows * cols).reshape(rows, cols)
        self._blocks[-1].append(_Block(tokens, box or (0.0, 0.0, float(width), float(height)), thumbnail))
        self._n_tokens += rows * cols
        self._separators += ([False] * cols + [True] * row_ends) * rows

    def unseen_grid(self, rows: int, cols: int, box: Box | None = None) -> None:
        """Cells of the map that no token stands for: an image that the answer cannot attend to. Their value is zero."""
        self.grid(rows, cols, box)
        self._blocks[-1][-1].tokens[:] = -1
        self._n_tokens -= rows * cols
        del self._separators[len(self._separators) - rows * cols :]

    def placeless(self, n: int) -> None:
        """The next ``n`` tokens carry image content but have no place (a class token, a global mean, queries)."""
        self._n_tokens += n
        self._separators += [False] * n

    def separators(self, n: int) -> None:
        """The next ``n`` tokens are learned separators: text."""
        self._separators += [True] * n

    def finish(self, thumbnail: str = "blend") -> ImageLayout:
        """All tokens were taken: put each image's blocks into one map.

        Args:
            thumbnail: "blend" takes the mean of tiles and thumbnail, "only" the thumbnail where there is one,
                "without" the tiles alone.

        Raises:
            InputError: more images were given than the model inputs hold.
        """
        if self.image_sizes is not None and len(self.image_sizes) != len(self._sizes):
            raise InputError(f"image: {len(self.image_sizes)} given, but the model inputs hold {len(self._sizes)}")
        parts = [
            _compose(_choose(blocks, thumbnail), size) for blocks, size in zip(self._blocks, self._sizes) if blocks
        ]
        most = max((tokens.shape[1] for _, tokens, _ in parts), default=0)

        def stacked(arrays: list[NDArray[Any]], dtype: torch.dtype) -> Tensor:
            padded = [np.pad(array, ((0, 0), (0, most - array.shape[1]))) for array in arrays]
            return torch.as_tensor(np.concatenate(padded) if padded else np.zeros((0, 0)), dtype=dtype)

        return ImageLayout(
            grids=tuple(grid for grid, _, _ in parts),
            tokens=stacked([tokens for _, tokens, _ in parts], torch.int64),
            weights=stacked([weights for _, _, weights in parts], torch.float64),
            separators=torch.tensor(self._separators, dtype=torch.bool),
        )


def _choose(blocks: list[_Block], thumbnail: str) -> list[_Block]:
    if thumbnail == "blend" or len({block.thumbnail for block in blocks}) == 1:
        return blocks
    return [block for block in blocks if block.thumbnail == (thumbnail == "only")]


def _compose(blocks: list[_Block], size: tuple[int, int]) -> tuple[Grid, NDArray[np.int64], NDArray[np.float64]]:
    """One grid for the blocks of an image, and ``(C, M)`` tokens and weights of its cells."""
    levels = [level for level in ([b for b in blocks if b.thumbnail == coarse] for coarse in (False, True)) if level]
    grid = _finest(levels[0], size)
    cells, tokens, weights = [], [], []
    for level in levels:
        of_level = [_overlaps(grid, block) for block in level]
        cell, token, area = (np.concatenate(parts) for parts in zip(*of_level))
        cells.append(cell)
        tokens.append(token)
        weights.append(area / np.bincount(cell, area, grid.cells)[cell])  # the mean within a level
    cell, token, weight = np.concatenate(cells), np.concatenate(tokens), np.concatenate(weights)
    weight /= np.bincount(cell, weight, grid.cells)[cell]  # the mean over levels
    order = np.argsort(cell, kind="stable")
    cell, token, weight = cell[order], token[order], weight[order]
    counts = np.bincount(cell, minlength=grid.cells)
    slot = np.arange(len(cell)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = grid.cells, int(counts.max(initial=1))
    all_tokens, all_weights = np.zeros(shape, dtype=np.int64), np.zeros(shape)
    all_tokens[cell, slot], all_weights[cell, slot] = token, weight
    return grid, all_tokens, all_weights


def _finest(blocks: list[_Block], size: tuple[int, int]) -> Grid:
    """Cells of the smallest size that occurs, over all that the blocks cover."""
    left, top, right, bottom = np.array([block.box for block in blocks]).T
    rows, cols = np.array([block.tokens.shape for block in blocks]).T
    box = left.min(), top.min(), right.max(), bottom.max()
    n_rows = round((box[3] - box[1]) / ((bottom - top) / rows).min())
    n_cols = round((box[2] - box[0]) / ((right - left) / cols).min())
    return Grid(n_rows, n_cols, (float(box[0]), float(box[1]), float(box[2]), float(box[3])), size)


def _overlaps(grid: Grid, block: _Block) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Cells, tokens and common areas, wherever a cell of the grid and a token of the block overlap."""
    left, top, right, bottom = grid.box
    rows = _common(np.linspace(top, bottom, grid.rows + 1), block.box[1], block.box[3], block.tokens.shape[0])
    cols = _common(np.linspace(left, right, grid.cols + 1), block.box[0], block.box[2], block.tokens.shape[1])
    (row, token_row), (col, token_col) = rows.nonzero(), cols.nonzero()
    cell = (row[:, None] * grid.cols + col).ravel()
    token = block.tokens[token_row[:, None], token_col].ravel()
    area = (rows[row, token_row][:, None] * cols[col, token_col]).ravel()
    seen = token >= 0
    return cell[seen], token[seen], area[seen]


def _common(edges: NDArray[np.float64], start: float, stop: float, n: int) -> NDArray[np.float64]:
    """``(len(edges) - 1, n)``: common length of each interval between edges with each of ``n`` parts of a range."""
    parts = np.linspace(start, stop, n + 1)
    low = np.maximum(edges[:-1, None], parts[None, :-1])
    high = np.minimum(edges[1:, None], parts[None, 1:])
    common = (high - low).clip(min=0)
    common[common < _SLIVER * (stop - start) / n] = 0
    return common


def tile_boxes(box: Box, rows: int, cols: int) -> list[Box]:
    """The rectangles of ``rows x cols`` equal tiles of a rectangle, row by row."""
    left, top, right, bottom = box
    x, y = np.linspace(left, right, cols + 1), np.linspace(top, bottom, rows + 1)
    return [(float(x[c]), float(y[r]), float(x[c + 1]), float(y[r + 1])) for r in range(rows) for c in range(cols)]
