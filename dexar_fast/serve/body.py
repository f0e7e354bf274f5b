"""A request's body, JSON or a form, within the limits."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.types import Message, Receive

from ..errors import InputError
from .limits import Limits

TEXTS = {"prompt", "answer", "method", "normalization", "text_set", "thumbnail", "background", "maps"}
"""Fields of a form that are text as they stand; others are read as JSON where they can be."""


async def read_body(request: Request, limits: Limits) -> dict[str, Any]:
    """The fields of a request; pictures of a form as bytes.

    Raises:
        HTTPException: 408 if it comes too slowly, 413 if it is too large, 415 if it is neither JSON nor a form.
        InputError: it is cut off or malformed.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    bounded = Request(request.scope, _bounded(request.receive, request.headers.get("content-length"), limits))
    if kind == "multipart/form-data":
        return await _form(bounded, limits)
    if kind != "application/json":
        raise HTTPException(415, f"content-type: expected application/json or multipart/form-data; got {kind!r:.80}")
    try:
        values = json.loads(await bounded.body())
    except (ValueError, RecursionError) as error:
        raise InputError(f"body: expected JSON; got something else ({error})") from error
    if not isinstance(values, dict):
        raise InputError(f"body: expected a JSON object; got {type(values).__name__}")
    return values


async def _form(request: Request, limits: Limits) -> dict[str, Any]:
    values: dict[str, Any] = {}
    images: list[bytes] = []
    try:
        async with request.form(max_files=limits.most_images, max_fields=64, max_part_size=limits.most_bytes) as form:
            for name, value in form.multi_items():
                if isinstance(value, UploadFile):
                    if name != "image":
                        raise InputError(f"{name:.40}: expected a file in the field image alone")
                    images.append(await value.read())
                elif name in values:
                    raise InputError(f"{name:.40}: it is given twice")
                else:
                    values[name] = value if name in TEXTS else _json_or_text(value)
    except MultiPartException as error:
        raise InputError(f"body: expected a form ({error.message})") from error
    except HTTPException as error:
        if error.status_code != 400:
            raise
        raise InputError(f"body: expected a form ({error.detail})") from error
    if images:
        if "image" in values:
            raise InputError("image: expected files or text; got both")
        values["image"] = images
    return values


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _bounded(receive: Receive, length: str | None, limits: Limits) -> Receive:
    """`receive`, which gives up where a body is too large or too slow."""
    too_large = HTTPException(413, f"body: expected at most {limits.most_bytes} bytes; send a smaller picture")
    received, until = 0, time.monotonic() + limits.transfer_seconds
    if length is not None and length.isdecimal() and int(length) > limits.most_bytes:
        raise too_large

    async def bounded() -> Message:
        nonlocal received
        try:
            message = await asyncio.wait_for(receive(), max(0.0, until - time.monotonic()))
        except TimeoutError as error:
            raise HTTPException(408, f"body: it did not come within {limits.transfer_seconds:g} s") from error
        received += len(message.get("body", b""))
        if received > limits.most_bytes:
            raise too_large
        return message

    return bounded
