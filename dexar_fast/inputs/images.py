"""Read the user's pictures, in whatever form people have them."""

from __future__ import annotations

import base64
import binascii
import os
import re
import struct
import sys
import urllib.error
import urllib.parse
import urllib.request
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ..errors import InputError
from ..paths import home_written_out
from .pixels import Colour, colour, from_array, is_rotated, rgb, upright

if TYPE_CHECKING:
    from torch import Tensor

ImageInput: TypeAlias = "Image.Image | str | PathLike[str] | bytes | BinaryIO | NDArray[Any] | Tensor"

FORMATS = (
    "PNG",
    "JPEG",
    "MPO",
    "WEBP",
    "GIF",
    "BMP",
    "DIB",
    "TIFF",
    "AVIF",
    "HEIF",
    "JPEG2000",
    "PPM",
    "TGA",
    "ICO",
    "QOI",
)
"""Of files that are pictures and nothing else: Pillow hands others (EPS, PDF, WMF) to programs that run them."""

MOST_BYTES = 1 << 28
"""Of a picture from a URL."""

MOST_PIXELS = 128_000_000
"""Of a picture in a file: a few bytes can decode to any number of them. Pillow's own limit is a little above."""

_TIMEOUT = 30  # seconds
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_SHOWN = 100  # characters of a name in a message: it may be the picture itself by mistake
# What Pillow raises, of itself and from its parsers.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    struct.error,
)


def load_images(
    images: ImageInput | Sequence[ImageInput],
    *,
    background: Colour = "white",
    frame: int | None = None,
    allow_urls: bool = False,
    turn: bool = True,
) -> list[Image.Image]:
    """One picture, or a list or tuple of them, as `load_image` reads each.

    Raises:
        InputError: as for `load_image`, or an empty list.
    """
    several: Sequence[Any] = images if isinstance(images, list | tuple) else [images]
    if not several:
        raise InputError("image: expected at least one; got an empty list")
    return [
        load_image(image, background=background, frame=frame, allow_urls=allow_urls, turn=turn) for image in several
    ]


def load_image(
    image: ImageInput,
    *,
    background: Colour = "white",
    frame: int | None = None,
    allow_urls: bool = False,
    turn: bool = True,
    most_pixels: int | None = None,
) -> Image.Image:
    """The picture as 8-bit RGB, upright.

    Args:
        image: a PIL image; a path (``~`` is your home), a ``data:`` URI or, with ``allow_urls``, an http(s) URL; the
            bytes of a file, or a file open in binary mode; an array as `pixels.from_array` takes it; or a torch tensor
            ``(height, width)`` or ``(1, 3 or 4, height, width)`` of the same dtypes.
        background: what shows through where the picture is transparent.
        frame: which frame of an animation or page of a file, from 0; None takes the first, with a warning, or the one
            that a PIL image stands at.
        allow_urls: fetch http and https URLs; redirections are followed.
        turn: turn the picture as its EXIF data say; else one with such data is refused.
        most_pixels: a file of more is refused before it is decoded; None leaves it to Pillow's own limit.

    Raises:
        InputError: not a picture in one of these forms, or too large a one; the message never holds what was passed as
            a picture.
    """
    colour(background)  # told also where nothing is transparent
    if isinstance(image, Image.Image):
        with _readable("the picture"):
            return _decoded(image, background, frame, turn)
    if _is_tensor(image):
        return from_array(_channels_last(image), background)
    if isinstance(image, np.ndarray):
        return from_array(image, background)
    source, name = _source(image, allow_urls)
    with _readable(name), Image.open(source, formats=readable_formats()) as opened:
        width, height = opened.size
        if most_pixels is not None and width * height > most_pixels:
            raise InputError(f"image: expected at most {most_pixels} pixels; got {width} x {height}. Make it smaller.")
        return _decoded(opened, background, frame, turn)


def _decoded(image: Image.Image, background: Colour, frame: int | None, turn: bool) -> Image.Image:
    if image.format is not None and image.format not in FORMATS:
        raise InputError(f"image: expected one of {', '.join(FORMATS)}; got a file of format {image.format}")
    if 0 in image.size:
        raise InputError(f"image: expected a picture with pixels; got one of {image.width} x {image.height}")
    if image.format is not None and image.width * image.height > MOST_PIXELS:
        raise Image.DecompressionBombError
    if is_rotated(image) and not turn:
        raise InputError(
            "image: its EXIF data turn the picture, and whether the model inputs were made before or after that is not "
            "to be seen. Pass the very picture that the processor got, without such data: ImageOps.exif_transpose("
            "image) of PIL to both."
        )
    return rgb(upright(_frame(image, frame)), background)


def _frame(image: Image.Image, frame: int | None) -> Image.Image:
    """One frame of a file with several; the user's own image stands where it stood."""
    n_frames, stood = getattr(image, "n_frames", 1), image.tell()
    if frame is None:
        if n_frames > 1 and stood == 0 and image.format != "MPO":  # a camera's second picture is its first once more
            warnings.warn(
                f"image: it has {n_frames} frames; the first is explained. Pass frame= to choose.", stacklevel=6
            )
        return image
    if isinstance(frame, bool) or not isinstance(frame, int) or not 0 <= frame < n_frames:
        raise InputError(f"frame: expected a number from 0 to {n_frames - 1}, the last of the picture; got {frame!r}")
    if frame == stood:
        return image
    image.seek(frame)
    try:
        found = image.copy()
        found.format = image.format  # a copy has none
        return found
    finally:
        image.seek(stood)


def _source(image: Any, allow_urls: bool) -> tuple[Path | BinaryIO, str]:
    """What Pillow opens, and a name for messages that is not the picture."""
    if isinstance(image, bytes | bytearray | memoryview):
        return BytesIO(bytes(image)), f"the picture of {len(image)} bytes"
    if hasattr(image, "read"):
        if getattr(image, "closed", False):
            raise InputError("image: expected an open file; got one that is closed. Read it before it is closed.")
        start = image.read(0)
        if not isinstance(start, bytes):
            raise InputError('image: expected a file open in binary mode; got one in text mode. Open it with "rb".')
        return image, "the open file"
    if isinstance(image, str | PathLike):
        text = os.fspath(image)
        if not isinstance(text, str):
            raise InputError("image: expected a path of text; got one of bytes. Decode it with os.fsdecode().")
        if text[:5].lower() == "data:":
            return _data_uri(text), f"the data URI of {len(text)} characters"
        if _URL.match(text):
            return _fetched(text, allow_urls), f"the file at {_shown_url(text)}"
        if not text:
            raise InputError("image: expected a path; got an empty text")
        path = home_written_out("image", text)
        if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
            raise InputError(f"image: expected a file; {_shown(text)} is a device, a pipe or a socket. Pass its bytes.")
        return path, _shown(text)
    raise InputError(
        "image: expected a PIL image, a path, bytes, an open file, a data URI, an array or a tensor, or a list of "
        f"these; got {type(image).__name__}"
    )


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """What Pillow raises for unknown, broken and cut-off files becomes InputError."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"image: no file {name}") from error
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise InputError(f"image: {name} is not a readable image, or is cut off (expected one of {known})") from error
    except Image.DecompressionBombError as error:
        raise InputError(
            f"image: expected at most {MOST_PIXELS // 10**6} million pixels; {name} has more. Make it smaller, or "
            "decode it yourself and pass the array."
        ) from error
    except _BROKEN as error:
        reason = getattr(error, "strerror", None) or _shown(str(error))
        raise InputError(f"image: {name} is not a readable image, or is cut off ({reason})") from error


def readable_formats() -> list[str]:
    """Those of `FORMATS` that this Pillow reads; HEIF needs a plugin."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _is_tensor(image: object) -> TypeGuard[Tensor]:
    """Without importing torch: the command line reads a file in the time that torch would take to load."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(image, torch.Tensor)


def _channels_last(image: Tensor) -> NDArray[Any]:
    """A tensor ``(height, width)`` or ``(channels, height, width)`` as an array."""
    if image.ndim == 3 and image.shape[0] not in (1, 3, 4) and image.shape[-1] in (1, 3, 4):
        raise InputError(
            f"image: expected a tensor (channels, height, width); got {tuple(image.shape)}. Put the channels first: "
            "tensor.permute(2, 0, 1)."
        )
    if image.ndim not in (2, 3):
        raise InputError(
            f"image: expected a tensor (height, width) or (channels, height, width); got {tuple(image.shape)}. Pass "
            "the pictures of a batch one by one, or as a list."
        )
    image = image.detach().cpu()
    if image.is_floating_point() and image.itemsize == 2:
        image = image.float()  # numpy has no bfloat16
    return image.numpy() if image.ndim == 2 else image.permute(1, 2, 0).numpy()


def _data_uri(text: str) -> BytesIO:
    head, comma, body = text.partition(",")
    if not comma:
        raise InputError("image: expected a data URI such as data:image/png;base64,...; got one without a comma")
    try:
        if head.lower().endswith(";base64"):
            return BytesIO(base64.b64decode("".join(urllib.parse.unquote(body).split()), validate=True))
        return BytesIO(urllib.parse.unquote_to_bytes(body))
    except (binascii.Error, ValueError) as error:
        raise InputError(
            f"image: the data URI of {len(text)} characters holds no base64 data ({error}). Pass what encodes the "
            "bytes of the file."
        ) from error


def _fetched(url: str, allow_urls: bool) -> BytesIO:
    shown = _shown_url(url)
    if not url.lower().startswith(("http://", "https://")):
        raise InputError(f"image: expected a path or an http(s) URL; got {shown}")
    if not allow_urls:
        raise InputError(
            f"image: {shown} is a URL, and nothing is fetched from the network unasked. Pass allow_urls=True "
            "(--allow-urls), or download the picture."
        )
    request = urllib.request.Request(url, headers={"User-Agent": "dexar-fast"})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
            data: bytes = response.read(MOST_BYTES + 1)
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", None) or type(error).__name__
        code = f"{error.code} " if isinstance(error, urllib.error.HTTPError) else ""
        raise InputError(f"image: {shown} cannot be fetched ({code}{_shown(str(reason))})") from error
    if len(data) > MOST_BYTES:
        raise InputError(f"image: {shown} holds more than {MOST_BYTES >> 20} MiB, too much for a picture")
    return BytesIO(data)


def _shown_url(url: str) -> str:
    """Scheme, host and path: what else a URL holds may be secret."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError as error:
        raise InputError(f"image: expected an http(s) URL; got one that cannot be read ({error})") from error
    return _shown(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}")


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]}... ({len(text)} characters)"
