"""A smaller copy of the image together with its grid, for thumbnails and for embedding."""

from __future__ import annotations

from PIL import Image

from ..layout.grid import Grid


def fit(image: Image.Image | None, grid: Grid, longest: int) -> tuple[Image.Image | None, Grid]:
    """Shrink an image and its grid alike; never enlarge.

    Args:
        image: an image of ``grid.image_size`` pixels, or None.
        grid: where the cells lie on it.
        longest: largest width or height of the result, in pixels.

    Returns:
        The image (RGB, or None) and the grid in the new image's pixels.
    """
    width, height = grid.image_size
    scale = longest / max(width, height)
    if scale >= 1:
        return (None if image is None else image.convert("RGB")), grid
    size = max(1, round(width * scale)), max(1, round(height * scale))
    across, down = size[0] / width, size[1] / height  # rounding makes them differ a little
    left, top, right, bottom = grid.box
    box = left * across, top * down, right * across, bottom * down
    small = None if image is None else image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    return small, Grid(grid.rows, grid.cols, box, size)
