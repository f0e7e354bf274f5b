"""One file per explanation: safetensors or npz, with a JSON header. Readable without torch, never a pickle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save as to_bytes

from ..errors import InputError
from ..layout.per_image import as_tuple, one_or_tuple
from . import saved
from .atomic import write_atomically
from .explanation import Explanation
from .method_maps import MAPS, MethodMaps

FORMAT = "dexar_fast.result.explanation"
FORMAT_VERSION = 3  # 1 knew no targets and no foils, 2 one method only

_SCORES = ("token_weights", "image_scores", "text_scores", "token_map_ranges")
_KINDS = ((MAPS, np.float16), (_SCORES, np.float32))  # what a method fills, and its dtype in a compact file


_HEADER = "explanation"
_ZIP = b"PK\x03\x04"  # how an npz begins
_OTHERS = {
    ".json": "to_json",
    ".csv": "to_csv",
    ".parquet": "to_arrow",
    ".arrow": "to_arrow",
    ".html": "to_html",
    **dict.fromkeys((".png", ".jpg", ".jpeg"), "overlay"),
    **dict.fromkeys((".pkl", ".pickle", ".pt", ".pth", ".bin", ".npy", ".h5"), ""),
}
"""What names of files promise that are no explanation, and what writes it."""


def save(explanation: Explanation, path: str | PathLike[str], *, exact: bool = False) -> Path:
    """See `Explanation.save`. Maps as float16 (error at most 2.5e-4), scores as float32; if ``exact`` bit for bit."""
    suffix = Path(path).suffix.lower()
    if suffix in _OTHERS:
        way = _OTHERS[suffix] and f"; {_OTHERS[suffix]}() makes {suffix[1:]}"
        raise InputError(f"path: expected a name that ends in .safetensors or .npz; got {Path(path).name}{way}")
    arrays: dict[str, np.ndarray[Any, Any]] = {"token_ids": explanation.token_ids}

    def keep(name: str, values: Any, compact: type) -> None:
        for index, array in enumerate(() if values is None else as_tuple(values)):
            arrays[_name(name, index)] = np.ascontiguousarray(array if exact else array.astype(compact))

    keep("log_probabilities", explanation.log_probabilities, np.float32)
    for number, maps in enumerate((MethodMaps.of(explanation), *explanation.beside.values())):
        for names, compact in _KINDS:
            for name in names:
                keep(_of_method(name, number), getattr(maps, name), compact)
    if explanation.image is not None:
        for index, image in enumerate(as_tuple(explanation.image)):
            png = BytesIO()
            image.save(png, "PNG")
            arrays[_name("image_png", index)] = np.frombuffer(png.getvalue(), dtype=np.uint8)
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "tokens": explanation.tokens,
        "layers": explanation.layers,
        "methods": explanation.methods,
        "grids": [asdict(grid) for grid in explanation.grids],  # one per image
        "settings": explanation.settings,
        "targets": None if explanation.targets is None else [asdict(target) for target in explanation.targets],
        "foils": None if explanation.foils is None else [foil and asdict(foil) for foil in explanation.foils],
    }
    text = json.dumps(header)
    if suffix != ".npz":
        return write_atomically(path, to_bytes(arrays, metadata={_HEADER: text}))
    npz = BytesIO()
    named: Any = {_HEADER: np.array(text), **arrays}
    np.savez(npz, **named)
    return write_atomically(path, npz.getvalue())


def load(path: str | PathLike[str]) -> Explanation:
    """See `Explanation.load`. Compact maps come back as float32."""
    path = Path(path)
    try:
        text, arrays = _read(path)
        header = saved.parse(text)
    except FileNotFoundError as error:
        raise InputError(f"path: no file {path}") from error
    # Another format, a folder, a foreign header; safetensors raises what NumPy does where a dtype is none of its.
    except (SafetensorError, OSError, ValueError, TypeError, LookupError, AttributeError, MemoryError) as error:
        raise InputError(f"path: {path} is not a saved explanation, or is cut off ({error})") from error
    if header.get("format") != FORMAT:
        raise InputError(f"path: {path} holds something other than an explanation")
    version = header.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise InputError(
            f"path: {path} has format version {version}, this release reads up to {FORMAT_VERSION}; upgrade dexar-fast"
        )
    try:
        return _checked(header, arrays)
    except saved.Damaged as error:
        raise InputError(f"path: {path} {error}; it was not written by Explanation.save, or is damaged") from error


def _read(path: Path) -> tuple[str, dict[str, np.ndarray[Any, Any]]]:
    """The header's text and all arrays of a file, which is what it holds, whatever it is called."""
    with path.open("rb") as opened:
        if opened.read(len(_ZIP)) == _ZIP:
            return _read_npz(path)
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        text = (file.metadata() or {}).get(_HEADER, "{}")
        return text, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a mapping


def _read_npz(path: Path) -> tuple[str, dict[str, np.ndarray[Any, Any]]]:
    try:
        with ZipFile(path) as file:
            # What is compressed could be larger than any memory.
            if any(entry.compress_type != ZIP_STORED for entry in file.infolist()):
                raise ValueError("expected an npz without compression, as save writes it")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return str(arrays.pop(_HEADER)), arrays
    except Exception as error:  # zipfile and NumPy raise what their parsers come across
        raise ValueError(error) from error


def _checked(header: dict[str, Any], arrays: dict[str, np.ndarray[Any, Any]]) -> Explanation:
    """What a file holds, field by field.

    Raises:
        saved.Damaged: a field is missing, of another type, or does not fit the others.
    """
    version = header.get("format_version")
    if type(version) is not int or version < 1:
        raise saved.Damaged(f"has format version {str(version)[:40]}")

    def per_image(name: str) -> Any:
        found: list[Any] = []
        while _name(name, len(found)) in arrays:
            found.append(arrays.pop(_name(name, len(found))))
        return found or None

    pngs = per_image("image_png")
    methods, of_methods = saved.methods(header), []
    for number in range(len(methods)):
        maps = {name: per_image(_of_method(name, number)) for name in MAPS}
        scores = {name: arrays.pop(_of_method(name, number), None) for name in _SCORES}
        of_methods.append((maps, scores))
    unknown = sorted(set(arrays) - {"token_ids", "log_probabilities"})
    if unknown:
        raise saved.Damaged(f"has unknown arrays {', '.join(unknown)}")
    tokens, layers, grids = saved.tokens(header), saved.layers(header), saved.grids(header)
    targets, foils = saved.targets(header, len(tokens)), saved.foils(header, len(tokens))
    n_rows = len(tokens if targets is None else targets)
    saved.check_tokens(arrays, len(tokens))
    for maps, scores in of_methods:
        saved.check_scores(scores, n_rows, len(layers))
        saved.check_maps(maps, grids, n_rows)
    if pngs and grids and len(pngs) != len(grids):
        raise saved.Damaged(f"expected {len(grids)} pictures, one for each grid; got {len(pngs)}")
    sizes: Sequence[tuple[int, int] | None] = [grid.image_size for grid in grids] or [None] * len(pngs or ())
    log_probabilities = arrays.get("log_probabilities")
    first, *beside = (_widened(maps, scores) for maps, scores in of_methods)
    return Explanation(
        tokens=tokens,
        token_ids=arrays.pop("token_ids").astype(np.int64),
        layers=layers,
        grid=one_or_tuple(grids) if grids else None,
        settings=saved.settings(header),
        targets=targets,
        foils=foils,
        image=pngs and one_or_tuple([saved.picture(png, size) for png, size in zip(pngs, sizes)]),
        log_probabilities=None if log_probabilities is None else _widen(log_probabilities),
        beside=dict(zip(methods[1:], beside, strict=True)),
        **first.as_fields,
    )


def _name(name: str, image: int) -> str:
    """Name of an array of the image of this index; that of the first is plain."""
    return f"{name}.{image}" if image else name


def _of_method(name: str, number: int) -> str:
    """Name of an array of the method of this number; that of the first is plain."""
    return f"{name}@{number}" if number else name


def _widened(maps: dict[str, Any], scores: dict[str, Any]) -> MethodMaps:
    """What one method fills, its maps one an image."""
    of_images = {name: found and one_or_tuple([_widen(values) for values in found]) for name, found in maps.items()}
    return MethodMaps(**of_images, **{name: _widen(values) for name, values in scores.items()})


def _widen(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return values.astype(np.float32) if values.dtype == np.float16 else values
