"""Which cell of which map each image token belongs to, on the images that the user gave.

A family describes its image tokens in the order of the prompt, with `LayoutBuilder`: blocks of rows and columns, each
on a rectangle of its image, tokens without a place, separators.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError
from .grid import Box, Grid
from .tiles import Block, compose, tile_boxes

__all__ = ["THUMBNAILS", "ImageLayout", "LayoutBuilder", "tile_boxes"]

THUMBNAILS = ("blend", "only", "without")


@dataclass(frozen=True)
class ImageLayout:
    """How the image tokens of a prompt form maps, one per image. N image tokens, C cells of all grids together.

    Attributes:
        grids: one per image or video frame, in the prompt's order; empty for a model whose image tokens have no place:
            then each is a cell of its own, C = N.
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
        """``(..., C)`` to one array ``(..., rows, cols)`` per image; without grids, as it is."""
        if not self.grids:
            return [cells]
        ends = np.cumsum([grid.cells for grid in self.grids])[:-1]
        parts = np.split(cells, ends, axis=-1)
        return [part.reshape(*part.shape[:-1], grid.rows, grid.cols) for part, grid in zip(parts, self.grids)]


class LayoutBuilder:
    """Takes the image tokens of a prompt in their order.

    Args:
        image_sizes: ``(width, height)`` of each image of the user, in pixels; None where they are not known.
    """

    def __init__(self, image_sizes: Sequence[tuple[int, int]] | None) -> None:
        self.image_sizes = image_sizes
        self._sizes: list[tuple[int, int]] = []
        self._blocks: list[list[Block]] = []
        self._separators: list[bool] = []
        self._n_tokens = 0

    def __str__(self) -> str:
        images = []
        for blocks in self._blocks:
            shapes = [f"{block.tokens.shape[0]} x {block.tokens.shape[1]}" for block in blocks]
            images.append(" + ".join(shapes) or "no grid")
        return f"{len(images)} image(s) of {', '.join(images)} tokens and what stands beside them"

    @property
    def n_placeholders(self) -> int:
        """How many placeholders of the prompt were taken so far, separators included."""
        return len(self._separators)

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

    def image_as_processed(self, size: tuple[int, int]) -> None:
        """Begin the next image, of which the processor noted the size ``(width, height)`` in pixels as it came.

        Raises:
            InputError: the user's image has another size, so it is not the one that was processed.
        """
        given = self.image(size)
        if given != size:
            raise InputError(
                f"image: expected {size[0]} x {size[1]} pixels, as image_sizes of the model inputs says; got "
                f"{given[0]} x {given[1]}. Pass the picture that was given to the processor, and give the processor "
                "pictures that are upright in their pixels (PIL.ImageOps.exif_transpose)."
            )

    def expect_shape(self, model_size: tuple[int, int], rounded_to: int) -> None:
        """Of a model that sees images in their own shape: is the image that was begun last one of this shape?

        Args:
            model_size: ``(width, height)`` in pixels that the model sees of it.
            rounded_to: an edge may differ from its true length by less than so many of these pixels.

        Raises:
            InputError: the user's image cannot have become one of this size: it lies otherwise, or is another.
        """
        if self.image_sizes is None:
            return
        edges = list(zip(model_size, self._sizes[-1]))
        least = max((seen - rounded_to) / edge for seen, edge in edges)
        most = min((seen + rounded_to) / edge for seen, edge in edges)
        if least > most:
            width, height = self._sizes[-1]
            raise InputError(
                f"image: {width} x {height} pixels cannot have become the {model_size[0]} x {model_size[1]} that the "
                "model sees. Pass the picture that was given to the processor, upright in its pixels as it was given "
                "(PIL.ImageOps.exif_transpose)."
            )

    def grid(
        self,
        rows: int,
        cols: int,
        box: Box | None = None,
        *,
        thumbnail: bool = False,
        row_ends: bool = False,
        seen: Tensor | None = None,
    ) -> None:
        """The next ``rows x cols`` tokens, row by row.

        Args:
            rows, cols: of the block.
            box: ``(left, top, right, bottom)`` in pixels of the image, as `Grid.box`; None for the whole image.
            thumbnail: a coarse view of what other blocks of this image show finer.
            row_ends: each row is followed by a separator.
            seen: ``(rows, cols)`` bool, which cells have a token, where not all have; the others are zero in the map.

        A grid without cells (what unpadding leaves of a very thin image) adds nothing.
        """
        if rows * cols == 0:
            self._separators += [True] * (rows * row_ends)
            return
        width, height = self._sizes[-1]
        has_token = np.ones((rows, cols), dtype=bool) if seen is None else seen.cpu().numpy()
        tokens = np.full((rows, cols), -1, dtype=np.int64)
        tokens[has_token] = np.arange(self._n_tokens, self._n_tokens + has_token.sum())
        self._blocks[-1].append(Block(tokens, box or (0.0, 0.0, float(width), float(height)), thumbnail))
        self._n_tokens += int(has_token.sum())
        for row in has_token:
            self._separators += [False] * int(row.sum()) + [True] * row_ends

    def unseen_grid(self, rows: int, cols: int, box: Box | None = None) -> None:
        """Cells of the map that no token stands for: an image that the answer cannot attend to. Their value is zero."""
        self.grid(rows, cols, box, seen=torch.zeros(rows, cols, dtype=torch.bool))

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
        parts: list[tuple[Grid | None, NDArray[np.int64], NDArray[np.float64]]] = [
            compose(_choose(blocks, thumbnail), size) for blocks, size in zip(self._blocks, self._sizes) if blocks
        ]
        if not parts:  # queries without a place: each is a cell of its own
            parts = [(None, np.arange(self._n_tokens)[:, None], np.ones((self._n_tokens, 1)))]
        most = max((tokens.shape[1] for _, tokens, _ in parts), default=0)

        def stacked(arrays: list[NDArray[Any]], dtype: torch.dtype) -> Tensor:
            padded = [np.pad(array, ((0, 0), (0, most - array.shape[1]))) for array in arrays]
            return torch.as_tensor(np.concatenate(padded), dtype=dtype, device="cpu")

        return ImageLayout(
            grids=tuple(grid for grid, _, _ in parts if grid is not None),
            tokens=stacked([tokens for _, tokens, _ in parts], torch.int64),
            weights=stacked([weights for _, _, weights in parts], torch.float64),
            separators=torch.tensor(self._separators, dtype=torch.bool, device="cpu"),
        )


def _choose(blocks: list[Block], thumbnail: str) -> list[Block]:
    if thumbnail == "blend" or len({block.thumbnail for block in blocks}) == 1:
        return blocks
    return [block for block in blocks if block.thumbnail == (thumbnail == "only")]
