"""One file per explanation: safetensors with a JSON header. Readable without torch, never a pickle."""

from __future__ import annotations

import json
from dataclasses import asdict
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import save as to_bytes

from ..errors import InputError
from ..inputs.targets import Foil, Target
from ..layout.grid import Grid
from ..layout.per_image import as_tuple, one_or_tuple
from .atomic import write_atomically
from .explanation import Explanation
from .method_maps import MAPS, MethodMaps

FORMAT = "dexar_fast.result.explanation"
FORMAT_VERSION = 3  # 1 knew no targets and no foils, 2 one method only

_SCORES = ("token_weights", "image_scores", "text_scores", "token_map_ranges")
_KINDS = ((MAPS, np.float16), (_SCORES, np.float32))  # what a method fills, and its dtype in a compact file


def save(explanation: Explanation, path: str | PathLike[str], *, exact: bool = False) -> Path:
    """See `Explanation.save`. Maps as float16 (error at most 2.5e-4), scores as float32; if ``exact`` bit for bit."""
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
    return write_atomically(path, to_bytes(arrays, metadata={"explanation": json.dumps(header)}))


def load(path: str | PathLike[str]) -> Explanation:
    """See `Explanation.load`. Compact maps come back as float32."""
    from safetensors import safe_open

    path = Path(path)
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {}).get("explanation", "{}"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a mapping
    except FileNotFoundError as error:
        raise InputError(f"path: no file {path}") from error
    except (SafetensorError, OSError, json.JSONDecodeError) as error:  # another format, a folder, a foreign header
        raise InputError(f"path: {path} is not a saved explanation, or is cut off ({error})") from error
    if header.get("format") != FORMAT:
        raise InputError(f"path: {path} holds something other than an explanation")
    if header["format_version"] > FORMAT_VERSION:
        raise InputError(
            f"path: {path} has format version {header['format_version']}, this release reads up to {FORMAT_VERSION}; "
            "upgrade dexar-fast"
        )
    grids = [Grid(g["rows"], g["cols"], tuple(g["box"]), tuple(g["image_size"])) for g in header["grids"]]

    def per_image(name: str) -> Any:
        found: list[Any] = []
        while _name(name, len(found)) in arrays:
            found.append(arrays.pop(_name(name, len(found))))
        return found or None

    pngs = per_image("image_png")
    methods = header.get("methods", [header["settings"].get("method")])
    of_methods = []
    for number in range(len(methods)):
        maps = {name: per_image(_of_method(name, number)) for name in MAPS}
        scores = {name: arrays.pop(_of_method(name, number), None) for name in _SCORES}
        of_methods.append(
            {
                **{name: found and one_or_tuple([_widen(values) for values in found]) for name, found in maps.items()},
                **{name: values if values is None else _widen(values) for name, values in scores.items()},
            }
        )
    log_probabilities = arrays.pop("log_probabilities", None)
    unknown = sorted(set(arrays) - {"token_ids"})
    if unknown or "token_ids" not in arrays:
        what = f"has unknown arrays {', '.join(unknown)}" if unknown else "lacks token_ids"
        raise InputError(f"path: {path} {what}; it was not written by Explanation.save of this release")
    token_ids = arrays.pop("token_ids")
    targets, foils = header.get("targets"), header.get("foils")
    return Explanation(
        tokens=header["tokens"],
        token_ids=token_ids,
        layers=tuple(header["layers"]),
        grid=one_or_tuple(grids) if grids else None,
        settings=header["settings"],
        targets=None if targets is None else tuple(Target(**target) for target in targets),
        foils=None if foils is None else tuple(foil and Foil(**foil) for foil in foils),
        image=pngs and one_or_tuple([Image.open(BytesIO(png.tobytes())).convert("RGB") for png in pngs]),
        log_probabilities=None if log_probabilities is None else _widen(log_probabilities),
        beside={name: MethodMaps(**fields) for name, fields in zip(methods[1:], of_methods[1:], strict=True)},
        **of_methods[0],
    )


def _name(name: str, image: int) -> str:
    """Name of an array of the image of this index; that of the first is plain."""
    return f"{name}.{image}" if image else name


def _of_method(name: str, number: int) -> str:
    """Name of an array of the method of this number; that of the first is plain."""
    return f"{name}@{number}" if number else name


def _widen(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return values.astype(np.float32) if values.dtype == np.float16 else values
