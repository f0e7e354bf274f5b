"""Files that are cut off, changed or made to harm: refused by one error, or loaded and of use; some of each kind."""

import json
import random
import struct
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load as arrays_of
from safetensors.numpy import save as pack

from dexar_fast import Explanation, InputError
from dexar_fast.inputs.targets import Foil, Target
from dexar_fast.result import saved
from dexar_fast.result.heads import scores_heads

from .explanations import make_explanation

HOSTILE: list[Any] = [None, [], {}, "x", "", 7, -1, 0, True, [1], [[1]], {"a": 1}, 1e308, 2**70, "\ud800", [None] * 3]
TOKENS = [" a", " red", " tree", ".", " and", " a"]


def written(explanation: Explanation, folder: Path) -> bytes:
    return explanation.save(folder / "whole").read_bytes()


@pytest.fixture(scope="module", params=["tokens", "targets"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """With everything that a file may hold."""
    explanation = make_explanation(TOKENS, rows=3, cols=4, image=Image.new("RGB", (16, 12)), layers=2, heads=2)
    explanation = replace(
        explanation,
        unfiltered_token_maps=explanation.token_maps,
        unfiltered_answer_map=explanation.answer_map,
        log_probabilities=np.log(np.full((len(TOKENS), 2), 0.5)),
        foils=(None, *[Foil(5, " b")] * (len(TOKENS) - 1)),
    )
    if request.param == "targets":
        targets = tuple(Target(text.strip(), i, i + 1, 3, 0.5) for i, text in enumerate(TOKENS))
        explanation = replace(explanation, targets=targets)
    return written(explanation, tmp_path_factory.mktemp("whole"))


def use(explanation: Explanation, folder: Path) -> None:
    """Everything that reads it."""
    explanation.words()
    if scores_heads(explanation):
        explanation.top_heads(3)
    assert explanation.answer is not None
    assert explanation.grounding is None or len(explanation.grounding)
    explanation.rather_than(0, len(explanation.tokens))
    if explanation.grid is not None and explanation.image is not None:
        explanation.overlay()
        explanation.overlay(word=0) if explanation.words() else None
        explanation.to_html(folder / "report.html")
    explanation.save(folder / "again")
    Explanation.load(folder / "again")


def outcome(data: bytes, folder: Path) -> str:
    """Refused, or of use; anything else is raised."""
    path = folder / "damaged"
    path.write_bytes(data)
    try:
        explanation = Explanation.load(path)
    except InputError:
        return "refused"
    use(explanation, folder)
    return "of use"


def header_of(data: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    length = struct.unpack("<Q", data[:8])[0]
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]["explanation"]
    return json.loads(metadata), arrays_of(data)


def packed(header: Any, arrays: dict[str, Any]) -> bytes:
    text = header if isinstance(header, str) else json.dumps(header)
    return pack({name: np.ascontiguousarray(a) for name, a in arrays.items()}, metadata={"explanation": text})


def test_the_whole_file_is_of_use(whole: bytes, tmp_path: Path) -> None:
    assert outcome(whole, tmp_path) == "of use"


def test_cut_off_anywhere(whole: bytes, tmp_path: Path) -> None:
    for length in {*range(0, len(whole), max(1, len(whole) // 60)), 7, 8, 9, len(whole) - 1}:
        assert outcome(whole[:length], tmp_path) == "refused"


def test_npz_cut_off_or_changed(tmp_path: Path) -> None:
    image = Image.new("RGB", (16, 12))
    path = make_explanation(TOKENS, rows=3, cols=4, image=image, layers=2, heads=2).save(tmp_path / "whole.npz")
    data, chance = path.read_bytes(), random.Random(0)
    assert outcome(data, tmp_path) == "of use"
    for length in range(0, len(data), max(1, len(data) // 40)):
        assert outcome(data[:length], tmp_path) == "refused"
    for _ in range(300):
        changed = bytearray(data)
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        outcome(bytes(changed), tmp_path)


def test_changed_bits(whole: bytes, tmp_path: Path) -> None:
    chance = random.Random(0)
    for _ in range(200):
        changed = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        outcome(bytes(changed), tmp_path)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every field of the header, and every field inside it."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(min(2, len(value))):
            yield from places(value[key], (*path, key))


def changed_at(header: Any, path: tuple[Any, ...], change: Any) -> Any:
    """A copy with something else at this place, or with nothing there (`...`)."""
    copy = json.loads(json.dumps(header))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    if change is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = change
    return copy


def test_another_value_in_a_field(whole: bytes, tmp_path: Path) -> None:
    header, arrays = header_of(whole)
    every = [(path, change) for path in places(header) for change in [*HOSTILE, ...]]
    for path, change in random.Random(1).sample(every, min(len(every), 300)):
        outcome(packed(changed_at(header, path, change), arrays), tmp_path)


def test_another_array(whole: bytes, tmp_path: Path) -> None:
    header, arrays = header_of(whole)
    for name, array in arrays.items():
        others = [array[:-1], array[..., None], array.astype(np.int8), array.astype(bool), np.zeros(0, array.dtype)]
        if array.dtype.kind == "f":
            others += [np.full_like(array, value) for value in (np.nan, np.inf, 6e4)]
        for other in others:
            outcome(packed(header, {**arrays, name: other}), tmp_path)
        outcome(packed(header, {kept: a for kept, a in arrays.items() if kept != name}), tmp_path)


def refused(message: str, data: bytes, folder: Path) -> None:
    (folder / "damaged").write_bytes(data)
    with pytest.raises(InputError, match=message):
        Explanation.load(folder / "damaged")


GRID = {"rows": 3, "cols": 4, "box": [0.0, 0.0, 16.0, 12.0], "image_size": [16, 12]}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("tokens", "text", "expected a list in tokens"),
        ("tokens", ["a", 1], "expected text in tokens; got int"),
        ("tokens", [" a"], r"expected (1 foils|a whole number from 0 to 1 in targets)"),
        ("layers", [0.5, 1], "expected a whole number from 0 to .* in layers"),
        ("layers", [1, 1], "expected every layer once"),
        ("settings", [], "expected an object in settings"),
        ("settings", {"prompt": 5}, r"expected text in settings\.prompt; got int"),
        ("grids", [], "expected floating point token_maps|expected 1 token_maps"),
        ("grids", [{**GRID, "rows": 10**9}], "expected a grid of at most"),
        ("grids", [{**GRID, "image_size": [10**6, 10**6]}], "expected a grid of at most"),
        ("grids", [{**GRID, "box": [4.0, 0.0, 4.0, 12.0]}], "expected a box"),
        ("grids", [{**GRID, "rows": 4}], r"expected floating point token_maps of shape \(6, 4, 4\)"),
        ("grids", [GRID, GRID], "expected 2 token_maps, one for each grid; got 1"),
        ("targets", [{"text": "a"}], "expected text, start, stop, token_id, probability in targets"),
        ("foils", [None], "expected 6 foils, one for each token; got 1"),
        ("format_version", "2", "has format version 2"),
        ("format_version", 2.5, r"has format version 2\.5"),
    ],
    ids=lambda value: str(value)[:24] if not isinstance(value, str) else value[:24],
)
def test_what_does_not_fit_is_named(whole: bytes, tmp_path: Path, field: str, value: Any, message: str) -> None:
    header, arrays = header_of(whole)
    refused(message, packed({**header, field: value}, arrays), tmp_path)


def test_settings_nested_too_deep(whole: bytes, tmp_path: Path) -> None:
    header, arrays = header_of(whole)
    for depth, message in ((150, "nested at most 100 deep"), (100_000, "its header is not JSON")):
        deep = json.dumps(header).replace('"settings": {', '"settings": {"deep": ' + "[" * depth + "]" * depth + ", ")
        refused(message, packed(deep, arrays), tmp_path)


def encoded(image: Image.Image, kind: str) -> np.ndarray:
    data = BytesIO()
    image.save(data, kind)
    return np.frombuffer(data.getvalue(), np.uint8)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "JPEG", "EPS"])
def test_pictures_are_png_files_and_nothing_else(whole: bytes, tmp_path: Path, kind: str) -> None:
    """Other formats have larger parsers; EPS even runs another program."""
    header, arrays = header_of(whole)
    arrays["image_png"] = encoded(Image.new("RGB", (16, 12)), kind)
    refused("image_png is not a readable PNG file", packed(header, arrays), tmp_path)


def test_large_pictures_are_refused_before_they_are_decoded(
    whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header, arrays = header_of(whole)
    pictures = [encoded(Image.new("1", size), "PNG") for size in ((20_000, 9_000), (16, 13))]
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    for png, message in zip(pictures, ("expected a picture of|is not a readable", r"expected a picture of \(16, 12\)")):
        refused(message, packed(header, {**arrays, "image_png": png}), tmp_path)
    monkeypatch.setattr(saved, "MOST_PIXELS", 16 * 12 - 1)
    refused("at most 191 pixels", packed(header, arrays), tmp_path)
