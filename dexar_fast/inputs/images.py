"""Read the user's image."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ..errors import InputError

ImageInput = Image.Image | str | PathLike[str] | NDArray[np.uint8]


def load_images(images: ImageInput | Sequence[ImageInput]) -> list[Image.Image]:
    """One image, or a list or tuple of them, as `load_image` reads each.

    Raises:
        InputError: as for `load_image`, or an empty list.
    """
    several: Sequence[Any] = images if isinstance(images, list | tuple) else [images]
    if not several:
        raise InputError("image: expected at least one; got an empty list")
    return [load_image(image) for image in several]


def load_image(image: ImageInput) -> Image.Image:
    """The image as RGB, upright.

    Args:
        image: a PIL image, a path, or ``(height, width, 3)`` uint8.

    Raises:
        InputError: no image, a missing, unreadable or truncated file, or an array of another shape or dtype.
    """
    if isinstance(image, Image.Image):
        try:
            return _upright_rgb(image)
        except OSError as error:  # Pillow reads the pixels only now
            raise InputError(f"image: its file is cut off or broken ({error})") from error
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise InputError(f"image: expected a (height, width, 3) uint8 array; got {image.dtype} {image.shape}")
        return Image.fromarray(image)
    if isinstance(image, str | PathLike):
        path = Path(image)
        try:
            with Image.open(path) as opened:
                return _upright_rgb(opened)
        except FileNotFoundError as error:
            raise InputError(f"image: no file {path}") from error
        except (
            OSError,
            SyntaxError,
            ValueError,
        ) as error:  # what Pillow raises for unknown, broken and cut-off files
            raise InputError(f"image: {path} is not a readable image, or is cut off ({error})") from error
    raise InputError(
        f"image: expected a PIL image, a path or a (height, width, 3) uint8 array; got {type(image).__name__}"
    )


def _upright_rgb(image: Image.Image) -> Image.Image:
    """Pixels in the orientation that viewers show: phones store a rotation beside the pixels."""
    if image.mode.startswith("I") or image.mode == "F":
        raise InputError(f"image: expected 8 bits per channel; got mode {image.mode!r}. Convert it to RGB first.")
    return ImageOps.exif_transpose(image).convert("RGB")
