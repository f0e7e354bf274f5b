"""Several blocks of tokens on one image become one map.

The cells have the finest size that occurs. A token's value stands for the whole rectangle that it covers, so a cell
takes the mean of the tokens that it overlaps, weighted by area; where a thumbnail lies under tiles, the cell is the
mean of both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .grid import Box, Grid

_SLIVER = 1e-6  # an overlap below this share of a token is rounding of the box


@dataclass(frozen=True)
class Block:
    """A rectangle of tokens.

    Attributes:
        tokens: ``(rows, cols)`` int64, their indices; -1 for a cell that no token stands for.
        box: ``(left, top, right, bottom)`` in pixels of the image, as `Grid.box`.
        thumbnail: a coarse view of what other blocks of the image show finer.
    """

    tokens: NDArray[np.int64]
    box: Box
    thumbnail: bool = False


def compose(blocks: list[Block], size: tuple[int, int]) -> tuple[Grid, NDArray[np.int64], NDArray[np.float64]]:
    """One grid for the blocks of an image of ``(width, height)`` pixels, and what its C cells take their values from.

    Returns:
        The grid, ``(C, M)`` int64 tokens, and ``(C, M)`` float64 weights, which sum to one, or to zero for a cell that
        no token covers.
    """
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


def _finest(blocks: list[Block], size: tuple[int, int]) -> Grid:
    """Cells of the smallest size that occurs, over all that the blocks cover."""
    left, top, right, bottom = np.array([block.box for block in blocks]).T
    rows, cols = np.array([block.tokens.shape for block in blocks]).T
    box = left.min(), top.min(), right.max(), bottom.max()
    n_rows = round((box[3] - box[1]) / ((bottom - top) / rows).min())
    n_cols = round((box[2] - box[0]) / ((right - left) / cols).min())
    return Grid(n_rows, n_cols, (float(box[0]), float(box[1]), float(box[2]), float(box[3])), size)


def _overlaps(grid: Grid, block: Block) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
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
