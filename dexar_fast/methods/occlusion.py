"""Occlusion: cover one cell of the image after the other, and see what every token loses. The causal yardstick."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image
from torch import Tensor

from ..errors import InputError
from ..layout.grid import Grid, cell_edges
from .forward import Case, picture_log_probabilities
from .subject import Subject


def occlusion(subject: Subject) -> Tensor:
    """``relu(log p(y_t | image) - log p(y_t | image without the cell))``: one forward pass per cell.

    Raises:
        InputError: there is not one image, or only tensors were given: a changed image must be encoded anew.
    """
    request = subject.request
    if subject.images is None or subject.prompt is None or len(subject.images) != 1:
        raise InputError('method: "occlusion" covers parts of one image; use explain(), which has image and prompt.')
    covered = _covered(subject.images[0], subject.grids[0])
    case = Case(covered, subject.prompt, request.answer_ids, subject.image_kwargs)
    (log_p,) = picture_log_probabilities(subject.explainer, [case])  # [1 + cells, T]
    drops = (log_p[:1] - log_p[1:]).clamp(min=0).T  # [T, cells]
    return drops.float().to(request.answer_ids.device)


def _covered(image: Image.Image, grid: Grid) -> Iterator[Image.Image]:
    """The image as it is, then with each cell in the image's mean colour."""
    pixels = np.asarray(image.convert("RGB"))
    colour = pixels.mean(axis=(0, 1)).round().astype(np.uint8)
    rows, cols = cell_edges(grid)
    yield image
    for row in range(grid.rows):
        for col in range(grid.cols):
            changed = pixels.copy()
            changed[rows[row] : rows[row + 1], cols[col] : cols[col + 1]] = colour
            yield Image.fromarray(changed)
