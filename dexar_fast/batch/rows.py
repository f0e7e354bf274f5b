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
from ..inputs.images import load_image, readable_formats
from ..inputs.messages import read_messages
from ..inputs.pixels import Colour

MAX_PIXELS = 100_000_000
_URLS = ("http://", "https://")
_STARTS = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "Qk0")  # of PNG, JPEG, GIF, WebP and BMP files in base64
_SHORTEST = 512  # characters of base64; shorter text is a path

Picture = Path | str | bytes
"""A file, a URL, or the bytes of a file."""


@dataclass(frozen=True)
class Row:
    """A question, the pictures that it is about, and the answer if there is one.

    Attributes:
        index: of the row in the input, from 0.
        id: the user's name for it; its index where there is none.
        images: not decoded.
        prompt: the question; of a chat the last one, for people.
        messages: a chat in place of the prompt, ``{"type": "image"}`` where a picture stands; or None.
        answer: as text; None, without `answer_ids` too, lets the model write it.
        answer_ids: as the model wrote them; preferred to `answer`.
        prompt_length: how many ids the prompt had for who wrote the answer, if that is known.
        occurrence: how many rows before this one have the same id.
        error: why the row cannot be used, or None.
    """

    index: int
    id: str
    images: tuple[Picture, ...] = ()
    prompt: str = ""
    messages: tuple[dict[str, Any], ...] | None = None
    answer: str | None = None
    answer_ids: tuple[int, ...] | None = None
    prompt_length: int | None = None
    occurrence: int = 0
    error: str | None = None

    @property
    def answer_from(self) -> str:
        """Where the answer's ids are from: "ids" as given, "text" tokenized here, or written by this "model"."""
        return "ids" if self.answer_ids is not None else "text" if self.answer is not None else "model"

    @property
    def length(self) -> int:
        """About how many tokens the answer has; rows of like length run together."""
        return len(self.answer_ids) if self.answer_ids is not None else len(self.answer or "") // 4


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
        if values.get("error"):  # of the one who was to write the answer
            raise InputError(f"answer: was not written ({str(values['error'])[:200]})")
        given = _pictures(values)
        answer, ids = values.get("answer"), values.get("answer_ids")
        messages, text = None, values.get("prompt") or prompt
        if values.get("messages") is not None:
            if values.get("prompt"):
                raise InputError("messages: expected a prompt or messages; got both")
            chat = _without_nothing(_listed("messages", values["messages"]))
            if answer is None and ids is None:
                chat, answer = _apart(chat)
            conversation, given = read_messages(chat, given or None)
            messages, text = conversation.messages, conversation.question
        if not isinstance(text, str):
            raise InputError(f"prompt: expected text; got {type(text).__name__}. Name one for all rows with prompt")
        if not given:
            raise InputError("image: expected a path, bytes, a data URI or a struct of bytes and path; got none")
        if answer is not None and not isinstance(answer, str):
            raise InputError(f"answer: expected text; got {type(answer).__name__}")
        return Row(
            index,
            row_id,
            tuple(picture(image, folder) for image in given),
            text,
            messages,
            answer,
            None if ids is None else _ids(ids),
            values.get("prompt_length"),
        )
    except InputError as error:
        return Row(index, row_id, error=f"InputError: {error}")


def decode(data: bytes, background: Colour = "white", frame: int | None = None) -> Image.Image:
    """The picture in a file's bytes, RGB and upright.

    Raises:
        InputError: no picture that `inputs.images.load_image` reads, or one of more than `MAX_PIXELS` pixels.
    """
    try:
        with Image.open(BytesIO(data), formats=readable_formats()) as opened:
            width, height = opened.size
    except Image.DecompressionBombError as error:
        raise InputError(f"image: expected at most {MAX_PIXELS} pixels; got a decompression bomb ({error})") from error
    except (OSError, SyntaxError, ValueError):
        width = height = 0  # `load_image` says what is wrong
    if width * height > MAX_PIXELS:
        raise InputError(f"image: expected at most {MAX_PIXELS} pixels; got {width} x {height}. Make it smaller")
    return load_image(data, background=background, frame=frame)


def read_image(image: Picture, allow_urls: bool = False) -> bytes:
    """The bytes of a picture's file; of one from a URL, those of a PNG file with its pixels.

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, str):
        png = BytesIO()
        load_image(image, allow_urls=allow_urls).save(png, "PNG")
        return png.getvalue()
    try:
        return image.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise InputError(f"image: cannot read {image} ({error})") from error


def _pictures(values: Mapping[str, Any]) -> list[Any]:
    several, one = values.get("images"), values.get("image")
    return _listed("images", several) if several is not None else [] if one is None else [one]


def picture(image: Any, folder: Path) -> Picture:
    """What a cell of a table names.

    Raises:
        InputError: no picture in one of these forms.
    """
    if isinstance(image, Mapping):  # as `datasets` keeps pictures
        image = image.get("path") if image.get("bytes") is None else image["bytes"]
    if isinstance(image, bytes | Path):
        return image
    if not isinstance(image, str) or not image:
        raise InputError(f"image: expected a path, bytes, a data URI or a struct of bytes and path; got {image!r:.80}")
    is_uri = image.startswith("data:")
    if is_uri or (len(image) > _SHORTEST and image.startswith(_STARTS)):
        try:
            return base64.b64decode(image.partition(",")[2] if is_uri else image, validate=True)
        except binascii.Error as error:
            raise InputError(f"image: its {'data URI' if is_uri else 'text'} is not base64 ({error})") from error
    if image.startswith(_URLS):
        return image
    return folder / image.removeprefix("file://")


def _apart(chat: list[Any]) -> tuple[list[Any], str | None]:
    """A chat that ends with its answer, as training data do, and that answer."""
    last = chat[-1]
    if isinstance(last, Mapping) and last.get("role") == "assistant" and isinstance(last.get("content"), str):
        return chat[:-1], last["content"]
    return chat, None


def _without_nothing(value: Any) -> Any:
    """Parquet gives each struct all the fields that any has: those that are None go."""
    if isinstance(value, Mapping):
        return {name: _without_nothing(each) for name, each in value.items() if each is not None}
    return [_without_nothing(each) for each in value] if isinstance(value, list) else value


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
