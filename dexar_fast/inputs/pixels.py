"""What the numbers of a picture mean: transparency, depth, rotation and arrays become 8-bit RGB, upright."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageColor, ImageOps

from ..errors import InputError

Colour = str | tuple[int, int, int]

_WHITE_16 = 65535 / 255  # one step of 8 bits, in steps of 16


def colour(background: Colour) -> tuple[int, int, int]:
    """A colour as ``(red, green, blue)``, each from 0 to 255.

    Raises:
        InputError: neither a name or code that Pillow knows, nor three such numbers.
    """
    try:
        red, green, blue = ImageColor.getrgb(background)[:3] if isinstance(background, str) else background
        if all(isinstance(x, int) and 0 <= x <= 255 for x in (red, green, blue)):
            return red, green, blue
    except (TypeError, ValueError):  # no such name, not three, no sequence
        pass
    raise InputError(
        f'background: expected a colour such as "white", "#ffffff" or (255, 255, 255); got {str(background)[:40]!r}'
    )


def rgb(image: Image.Image, background: Colour = "white") -> Image.Image:
    """The picture as 8-bit RGB, as viewers show it on a page of this colour.

    transformers' processors put transparent pictures on white, too. Values of 16 bits are scaled, not clipped.

    Raises:
        InputError: numbers whose white is not known.
    """
    if image.has_transparency_data:
        page = Image.new("RGBA", image.size, (*colour(background), 255))
        return Image.alpha_composite(page, image.convert("RGBA")).convert("RGB")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):  # of 16 bits in any PNG
        return _of_array(np.asarray(image).astype(np.uint16))
    if image.mode == "F":
        return _of_array(np.asarray(image))
    if image.mode == "I":
        raise InputError(
            "image: mode 'I' holds whole numbers of 32 bits, and which of them is white is not known. Scale it to "
            "8 bits first, for example as an array."
        )
    return image.convert("RGB")


def is_rotated(image: Image.Image) -> bool:
    """Whether a rotation or mirroring is stored beside the pixels, as phones do, for viewers to apply."""
    return image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)


def upright(image: Image.Image) -> Image.Image:
    """In the orientation that viewers show."""
    turned = ImageOps.exif_transpose(image)
    turned.format = image.format  # a copy has none
    return turned


def from_array(array: NDArray[Any], background: Colour = "white") -> Image.Image:
    """A picture from its numbers.

    Args:
        array: ``(height, width)`` grey, or ``(height, width, 1, 3 or 4)``, the fourth channel alpha: uint8, uint16,
            bool, or floating point in [0, 1].
        background: for pictures with alpha.

    Raises:
        InputError: another shape or dtype, or values beyond that range.
    """
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in array.shape:
        hint = ""
        if array.ndim == 3 and array.shape[0] in (1, 3, 4):
            hint = " Put the channels last: array.transpose(1, 2, 0)."
        elif array.ndim == 4:
            hint = " Pass the pictures of a batch one by one, or as a list."
        raise InputError(
            f"image: expected an array (height, width) or (height, width, 1, 3 or 4); got {array.shape}.{hint}"
        )
    picture = _of_array(array[..., 0] if array.ndim == 3 and channels == 1 else array)
    return rgb(picture, background)


def _of_array(array: NDArray[Any]) -> Image.Image:
    """Grey, RGB or RGBA of 8 bits, by value."""
    if array.dtype == np.bool_:
        scaled = array * np.uint8(255)
    elif array.dtype == np.uint8:
        scaled = array
    elif array.dtype == np.uint16:
        scaled = np.round(array / _WHITE_16)
    elif np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):  # NaN is neither
            raise InputError(
                f"image: expected floating point values in [0, 1]; got {low:.3g} to {high:.3g}. Divide values up to "
                "255 by 255; a normalised tensor has to be scaled back to colours first."
            )
        scaled = np.round(array * 255)
    else:
        raise InputError(
            f"image: expected an array of uint8, uint16, bool, or floating point in [0, 1]; got {array.dtype}. "
            "Convert it, for example with array.astype(numpy.uint8)."
        )
    picture = Image.fromarray(np.ascontiguousarray(scaled.astype(np.uint8)))
    return picture if picture.mode != "L" else picture.convert("RGB")
