"""One row of the input, as every reader gives it."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import InputError
from ..inputs.images import load_image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""Raster formats that are decoded. Pillow reads more, some of them with the help of other programs."""
MAX_PIXELS = 100_000_000
COLUMNS = {"id", "image", "images", "prompt", "answer", "answer_ids"}


@dataclass(frozen=True)
class Row:
    """A question, the pictures that it is about, and the answer if there is one.

    Attributes:
        index: of the row in the input, from 0.
        id: the user's name for it; its index where there is none.
        images: each a path or the bytes of a file, not decoded.
        answer: as text; None, without `answer_ids` too, lets the model write it.
        answer_ids: as the model wrote them; preferred to `answer`.
        occurrence: how many rows before this one have the same id.
        error: why the row cannot be used, or None.
    """

    index: int
    id: str
    images: tuple[Path | bytes, ...] = ()
    prompt: str = ""
    answer: str | None = None
    answer_ids: tuple[int, ...] | None = None
    occurrence: int = 0
    error: str | None = None


def to_row(index: int, values: Mapping[str, Any], folder: Path, prompt: str | None) -> Row:
    """The row of a table; one that cannot be used carries its error.

    Args:
        index: of the row.
        values: by column; None and absent are the same.
        folder: what relative paths start from.
        prompt: for rows that have none.
    """
    name = values.get("id")
    row_id = str(index if name is None or name == "" else name)
    try:
        if values.get("messages") is not None:
            raise InputError("messages: not read yet; give the user's question as prompt")
        several = values.get("images")
        given = [values.get("image")] if several is None else _listed("images", several)
        images = tuple(_image(image, folder) for image in given)
        text = values.get("prompt") or prompt
        if not isinstance(text, str):
            raise InputError(f"prompt: expected text; got {type(text).__name__}. Name one for all rows with prompt")
        answer = values.get("answer")
        if answer is not None and not isinstance(answer, str):
            raise InputError(f"answer: expected text; got {type(answer).__name__}")
        ids = values.get("answer_ids")
        return Row(index, row_id, images, text, answer, None if ids is None else _ids(ids))
    except InputError as error:
        return Row(index, row_id, error=f"InputError: {error}")


def decode(data: bytes) -> Image.Image:
    """The picture in a file's bytes, RGB and upright.

    Raises:
        InputError: no raster picture of one of `FORMATS`, cut off, or of more than `MAX_PIXELS` pixels.
    """
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as opened:
            width, height = opened.size
            if width * height > MAX_PIXELS:
                raise InputError(
                    f"image: expected at most {MAX_PIXELS} pixels; got {width} x {height}. Make it smaller"
                )
            return load_image(opened)
    except Image.DecompressionBombError as error:
        raise InputError(f"image: expected at most {MAX_PIXELS} pixels; got a decompression bomb ({error})") from error
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"image: not a readable picture ({', '.join(FORMATS)}), or cut off ({error})") from error


def read_image(image: Path | bytes) -> bytes:
    """The bytes of a picture's file.

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    if isinstance(image, bytes):
        return image
    try:
        return image.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise InputError(f"image: cannot read {image} ({error})") from error


def _image(image: Any, folder: Path) -> Path | bytes:
    if isinstance(image, Mapping):  # as `datasets` keeps pictures
        image = image["path"] if image.get("bytes") is None else image["bytes"]
    if isinstance(image, bytes):
        return image
    if not isinstance(image, str) or not image:
        raise InputError(f"image: expected a path, bytes, a data URI or a struct of bytes and path; got {image!r:.80}")
    if image.startswith("data:"):
        try:
            return base64.b64decode(image.partition(",")[2], validate=True)
        except binascii.Error as error:
            raise InputError(f"image: its data URI is not base64 ({error})") from error
    return folder / image


def _ids(ids: Any) -> tuple[int, ...]:
    values = _listed("answer_ids", ids)
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        raise InputError("answer_ids: expected whole numbers")
    return tuple(values)


def _listed(name: str, values: Any) -> list[Any]:
    """A list, also where a CSV file holds it as JSON."""
    if isinstance(values, str):
        try:
            values = json.loads(values)
        except json.JSONDecodeError as error:
            raise InputError(f"{name}: expected a JSON list; got {values!r:.80}") from error
    if not isinstance(values, list) or not values:
        raise InputError(f"{name}: expected a list of at least one; got {values!r:.80}")
    return values
