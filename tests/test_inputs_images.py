"""Pictures in whatever form people have them: each becomes the same 8-bit RGB, upright, or is refused by name."""

from __future__ import annotations

import base64
import threading
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from dexar_fast import InputError
from dexar_fast.inputs.images import FORMATS, load_image, load_images
from dexar_fast.inputs.pixels import colour

from .tiny import picture

SECRET = "c2VjcmV0" * 40  # what a message must not hold


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def pixels(image: Any, **options: Any) -> np.ndarray:
    return np.asarray(load_image(image, **options))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Serves a picture, and nothing at /missing."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = encoded(picture()) if "missing" not in self.path else b""
            self.send_response(200 if body else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    serving = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{serving.server_port}"
    serving.shutdown()
    serving.server_close()


FORMS = {
    "PIL": lambda image, folder: image,
    "path": lambda image, folder: folder / "picture.png",
    "str": lambda image, folder: str(folder / "picture.png"),
    "home": lambda image, folder: "~/picture.png",
    "bytes": lambda image, folder: encoded(image),
    "bytearray": lambda image, folder: bytearray(encoded(image)),
    "open file": lambda image, folder: BytesIO(encoded(image)),
    "data URI": lambda image, folder: "data:image/png;base64," + base64.b64encode(encoded(image)).decode(),
    "array": lambda image, folder: np.asarray(image),
    "float array": lambda image, folder: np.asarray(image) / 255,
    "float32 array": lambda image, folder: (np.asarray(image) / 255).astype(np.float32),
    "uint16 array": lambda image, folder: np.asarray(image).astype(np.uint16) * 257,
    "RGBA array": lambda image, folder: np.asarray(image.convert("RGBA")),
    "tensor": lambda image, folder: torch.from_numpy(np.array(image)).permute(2, 0, 1),
    "float tensor": lambda image, folder: torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255,
    "bfloat16 tensor": lambda image, folder: (torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255).bfloat16(),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_picture(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    image = picture(41, 29)
    image.save(tmp_path / "picture.png")
    found = load_image(FORMS[form](image, tmp_path))
    assert found.mode == "RGB"
    assert found.size == (41, 29)
    difference = np.abs(np.asarray(found).astype(int) - np.asarray(image))
    assert difference.max() <= (1 if form == "bfloat16 tensor" else 0)


def test_grey_arrays_and_masks() -> None:
    grey = np.asarray(picture().convert("L"))
    for array in (grey, grey[..., None], torch.from_numpy(grey.copy()), torch.from_numpy(grey.copy())[None]):
        np.testing.assert_array_equal(pixels(array), np.repeat(grey[..., None], 3, axis=2))
    assert set(np.unique(pixels(grey > 100))) == {0, 255}


def test_transparency_shows_the_page_behind_it() -> None:
    """As transformers' processors see it: black on nothing stays black, and the page is white."""
    logo = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    logo.paste((0, 0, 0, 255), (2, 2, 6, 6))
    logo.putpixel((0, 0), (0, 0, 0, 51))
    found = pixels(logo)
    assert found[1, 1].tolist() == [255, 255, 255]
    assert found[3, 3].tolist() == [0, 0, 0]
    assert found[0, 0].tolist() == [204, 204, 204]
    assert pixels(logo, background="#204060")[1, 1].tolist() == [0x20, 0x40, 0x60]
    assert pixels(logo, background=(1, 2, 3))[1, 1].tolist() == [1, 2, 3]
    np.testing.assert_array_equal(pixels(np.asarray(logo)), found)


@pytest.mark.parametrize("mode", ["LA", "P", "PA", "RGB with a transparent colour"])
def test_every_kind_of_transparency(mode: str) -> None:
    if mode == "P":
        image = Image.new("P", (4, 4), 0)
        image.putpalette([0, 0, 0, 200, 10, 10])
        image.info["transparency"] = 0
    elif mode.startswith("RGB"):
        image = Image.new("RGB", (4, 4), (7, 7, 7))
        image.info["transparency"] = (7, 7, 7)
    else:
        image = Image.new(mode, (4, 4), (0, 0))
    assert pixels(image)[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("background", ["whitish", (1, 2), (1, 2, 300), 7, None], ids=str)
def test_background_is_a_colour(background: Any) -> None:
    with pytest.raises(InputError, match=r'background: expected a colour such as "white".*; got '):
        colour(background)


@pytest.mark.parametrize("written", ["file", "in memory"])
def test_sixteen_bits_are_scaled(written: str) -> None:
    """65535 is white, and 25700 is 100: Pillow alone would clip at 255."""
    image = Image.fromarray(np.array([[0, 257, 25700, 65535]], dtype=np.uint16))
    found = pixels(image if written == "in memory" else encoded(image))
    assert found[0, :, 0].tolist() == [0, 1, 100, 255]


def test_numbers_whose_white_is_not_known() -> None:
    with pytest.raises(InputError, match=r"image: mode 'I' holds whole numbers of 32 bits, .*Scale it to 8 bits"):
        load_image(Image.new("I", (4, 4), 90))
    assert pixels(Image.new("F", (4, 4), 0.5))[0, 0, 0] == 128
    with pytest.raises(InputError, match=r"image: expected floating point values in \[0, 1\]; got 90 to 90"):
        load_image(Image.new("F", (4, 4), 90.0))


def test_phone_photo_is_turned() -> None:
    turned = picture(40, 30).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    photo = encoded(turned, "JPEG", exif=exif, quality=100, subsampling=0)
    assert load_image(photo).size == (40, 30)
    opened = Image.open(BytesIO(photo))
    np.testing.assert_array_equal(pixels(opened), np.asarray(ImageOps.exif_transpose(opened)))
    with pytest.raises(InputError, match=r"image: its EXIF data turn the picture, .*exif_transpose"):
        load_image(photo, turn=False)


def animation() -> bytes:
    frames = [Image.new("RGB", (6, 4), (40 * i, 0, 0)) for i in range(3)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def test_animation_has_a_frame() -> None:
    with pytest.warns(UserWarning, match=r"image: it has 3 frames; the first is explained. Pass frame="):
        assert pixels(animation())[0, 0, 0] == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pixels(animation(), frame=2)[0, 0, 0] == pytest.approx(80, abs=2)
        opened = Image.open(BytesIO(animation()))
        opened.seek(1)
        assert pixels(opened)[0, 0, 0] == pytest.approx(40, abs=2)
        assert pixels(opened, frame=2)[0, 0, 0] == pytest.approx(80, abs=2)
    assert opened.tell() == 1, "the user's picture stands where it stood"
    for frame in (3, -1, True, 1.0):
        with pytest.raises(InputError, match=r"frame: expected a number from 0 to 2"):
            load_image(animation(), frame=frame)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"frame: expected a number from 0 to 0"):
        load_image(picture(), frame=1)


def test_urls_are_fetched_only_when_that_is_asked_for(server: str) -> None:
    url = f"{server}/a.png?token={SECRET}"
    with pytest.raises(InputError, match=r"/a.png is a URL, and nothing is fetched .*allow_urls=True") as told:
        load_image(url)
    assert SECRET not in str(told.value)
    np.testing.assert_array_equal(pixels(url, allow_urls=True), np.asarray(picture()))
    with pytest.raises(InputError, match=r"/missing cannot be fetched \(404 ") as told:
        load_image(f"{server}/missing?token={SECRET}", allow_urls=True)
    assert SECRET not in str(told.value)
    with pytest.raises(InputError, match=r"expected a path or an http\(s\) URL; got ftp://host/a.png"):
        load_image("ftp://user:word@host/a.png", allow_urls=True)


def test_only_pictures_are_opened() -> None:
    """Pillow hands PostScript to Ghostscript, which runs it."""
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    with pytest.raises(InputError, match=r"is not a readable image.*expected one of PNG"):
        load_image(program)
    assert not {"EPS", "PDF", "WMF"} & set(FORMATS)
    with pytest.raises(InputError, match=r"image: expected one of PNG, .*; got a file of format EPS"):
        load_image(Image.open(BytesIO(program)))


BAD: dict[str, tuple[Any, str]] = {
    "nothing": (None, r"expected a PIL image, a path, bytes, .*; got NoneType"),
    "number": (3, r"expected a PIL image, .*; got int"),
    "empty list": ([], r"expected at least one; got an empty list"),
    "empty bytes": (b"", r"the picture of 0 bytes is not a readable image"),
    "text as bytes": (SECRET.encode(), r"the picture of 320 bytes is not a readable image"),
    "base64 without its head": (SECRET * 20, r"image: .*\.\.\. \(6400 characters\)"),
    "data URI cut off": ("data:image/png;base64," + SECRET, r"the data URI of 342 characters is not a readable image"),
    "data URI of something else": ("data:image/png;base64,***" + SECRET, r"the data URI of .* holds no base64 data"),
    "data URI without a comma": ("data:image/png", r"expected a data URI such as .*; got one without a comma"),
    "text file": (open(__file__, encoding="utf-8"), r"expected a file open in binary mode; got one in text mode"),  # noqa: SIM115
    "channels first": (np.zeros((3, 8, 9), np.uint8), r"expected an array .*\. Put the channels last"),
    "batch of arrays": (np.zeros((2, 8, 9, 3), np.uint8), r"expected an array .* one by one"),
    "empty array": (np.zeros((0, 4, 3), np.uint8), r"expected an array .*; got \(0, 4, 3\)"),
    "two channels": (np.zeros((8, 9, 2), np.uint8), r"expected an array .*; got \(8, 9, 2\)"),
    "normalised": (np.full((8, 9, 3), -1.5), r"floating point values in \[0, 1\]; got -1.5 to -1.5\..* scaled back"),
    "0 to 255 as floats": (np.full((8, 9, 3), 200.0), r"floating point values in \[0, 1\]; got 200 to 200\. Divide"),
    "not a number": (np.full((8, 9, 3), np.nan), r"floating point values in \[0, 1\]; got nan"),
    "int64": (np.zeros((8, 9, 3), np.int64), r"expected an array of uint8, .*; got int64\. Convert"),
    "objects": (np.full((8, 9, 3), None), r"expected an array of uint8, .*; got object"),
    "channels last": (torch.zeros(8, 9, 3), r"expected a tensor \(channels, .*\. Put the channels first"),
    "batch of tensors": (torch.zeros(2, 3, 8, 9), r"expected a tensor .* one by one"),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_is_no_picture_is_named(bad: str) -> None:
    given, message = BAD[bad]
    with pytest.raises(InputError, match=message) as told:
        load_images(given)
    assert SECRET not in str(told.value)
