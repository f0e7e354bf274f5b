"""Pictures that nobody can read: named for what they are, and never an error of another library."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dexar_fast.errors import InputError
from dexar_fast.inputs.images import load_image


def closed_file() -> BytesIO:
    file = BytesIO(b"anything")
    file.close()
    return file


def black(width: int, height: int) -> bytes:
    """A file of a few kB."""
    file = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


def cut_animation() -> bytes:
    frames, file = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")], BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()[:-30]


BROKEN: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "no path": (str, {}, r"image: expected a path; got an empty text"),
    "no such user": (lambda: "~nobody_of_this_name/a.png", {}, r"image: there is no user as in ~nobody_of_this_name/a"),
    "a device": (lambda: "/dev/null", {}, r"image: expected a file; /dev/null is a device, a pipe or a socket"),
    "a bomb": (lambda: black(12000, 12000), {}, r"image: expected at most 128 million pixels; .*Make it smaller"),
    "a bomb for Pillow": (lambda: black(20000, 20000), {}, r"image: expected at most 128 million pixels"),
    "closed file": (closed_file, {}, r"image: expected an open file; got one that is closed"),
    "cut in a later frame": (cut_animation, {"frame": 2}, r"image: the picture of \d+ bytes is not a readable image"),
    "no pixels": (lambda: Image.new("RGB", (0, 5)), {}, r"image: expected a picture with pixels; got one of 0 x 5"),
    "half an address": (lambda: "http://[::1/a.png", {}, r"image: expected an http\(s\) URL; .*Invalid IPv6 URL"),
    "a space in a host": (lambda: "http://ho st/a.png", {"allow_urls": True}, r"image: http://ho st/a.png cannot be"),
    "a port that is none": (lambda: "http://h:x/a.png", {"allow_urls": True}, r"cannot be fetched \(InvalidURL\)"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_read_is_named(case: str) -> None:
    given, options, message = BROKEN[case]
    with pytest.raises(InputError, match=message):
        load_image(given(), **options)


def test_a_pipe_that_nobody_writes_to(tmp_path: Path) -> None:
    """Opening it would wait for ever."""
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(InputError, match="is a device, a pipe or a socket"):
        load_image(tmp_path / "a.png")


def test_animations_cut_anywhere() -> None:
    whole = cut_animation()
    for n in range(1, len(whole)):
        with pytest.raises(InputError, match=r"is not a readable image|expected a number from 0 to"):
            load_image(whole[:n], frame=2)


def test_a_page_without_its_width() -> None:
    page, file = Image.new("RGB", (4, 4)), BytesIO()
    page.save(file, "TIFF", save_all=True, append_images=[page])
    before, width, behind = file.getvalue().rpartition(b"\x00\x01\x04\x00")
    assert width
    with pytest.raises(InputError, match=r"is not a readable image, or is cut off \(Missing dimensions\)"):
        load_image(before + b"\xfe\x00\x04\x00" + behind, frame=1)
