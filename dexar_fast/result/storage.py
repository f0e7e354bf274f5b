"""One file per explanation: safetensors with a JSON header. Readable without torch, never a pickle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save as to_bytes

from ..errors import InputError
from ..layout.per_image import as_tuple, one_or_tuple
from . import saved
from .atomic import write_atomically
from .explanation import Explanation

FORMAT = "dexar_fast.result.explanation"
FORMAT_VERSION = 2  # 1 knew no targets and no foils

_MAPS = ("token_maps", "answer_map", "unfiltered_token_maps", "unfiltered_answer_map")
_SCORES = ("token_weights", "image_scores", "text_scores", "token_map_ranges", "log_probabilities")


def save(explanation: Explanation, path: str | PathLike[str], *, exact: bool = False) -> Path:
    """See `Explanation.save`. Maps as float16 (error at most 2.5e-4), scores as float32; if ``exact`` bit for bit."""
    arrays: dict[str, np.ndarray[Any, Any]] = {"token_ids": explanation.token_ids}
    for names, compact in ((_MAPS, np.float16), (_SCORES, np.float32)):
        for name in names:
            values = getattr(explanation, name)
            if values is not None:
                for index, array in enumerate(as_tuple(values)):
                    compacted = array if exact else array.astype(compact)
                    arrays[_name(name, index)] = np.ascontiguousarray(compacted)
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
        "grids": [asdict(grid) for grid in explanation.grids],  # one per image
        "settings": explanation.settings,
        "targets": None if explanation.targets is None else [asdict(target) for target in explanation.targets],
        "foils": None if explanation.foils is None else [foil and asdict(foil) for foil in explanation.foils],
    }
    return write_atomically(path, to_bytes(arrays, metadata={"explanation": json.dumps(header)}))


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
    """The header's text and all arrays of a file."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        text = (file.metadata() or {}).get("explanation", "{}")
        return text, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a mapping


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
    maps = {name: per_image(name) for name in _MAPS}
    unknown = sorted(set(arrays) - {"token_ids", *_SCORES})
    if unknown:
        raise saved.Damaged(f"has unknown arrays {', '.join(unknown)}")
    tokens, layers, grids = saved.tokens(header), saved.layers(header), saved.grids(header)
    targets, foils = saved.targets(header, len(tokens)), saved.foils(header, len(tokens))
    n_rows = len(tokens if targets is None else targets)
    saved.check_scores(arrays, len(tokens), n_rows, len(layers))
    saved.check_maps(maps, grids, n_rows)
    if pngs and grids and len(pngs) != len(grids):
        raise saved.Damaged(f"expected {len(grids)} pictures, one for each grid; got {len(pngs)}")
    sizes: Sequence[tuple[int, int] | None] = [grid.image_size for grid in grids] or [None] * len(pngs or ())
    return Explanation(
        tokens=tokens,
        token_ids=arrays.pop("token_ids").astype(np.int64),
        layers=layers,
        grid=one_or_tuple(grids) if grids else None,
        settings=saved.settings(header),
        targets=targets,
        foils=foils,
        image=pngs and one_or_tuple([saved.picture(png, size) for png, size in zip(pngs, sizes)]),
        **{name: found and one_or_tuple([_widen(values) for values in found]) for name, found in maps.items()},
        **{name: _widen(values) for name, values in arrays.items()},
    )


def _name(name: str, image: int) -> str:
    """Name of an array of the image of this index; that of the first is plain."""
    return f"{name}.{image}" if image else name


def _widen(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return values.astype(np.float32) if values.dtype == np.float16 else values
