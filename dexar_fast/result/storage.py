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
    maps = {name: per_image(name) for name in _MAPS}
    unknown = sorted(set(arrays) - {"token_ids", *_SCORES})
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
        **{name: found and one_or_tuple([_widen(values) for values in found]) for name, found in maps.items()},
        **{name: _widen(values) for name, values in arrays.items()},
    )


def _name(name: str, image: int) -> str:
    """Name of an array of the image of this index; that of the first is plain."""
    return f"{name}.{image}" if image else name


def _widen(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return values.astype(np.float32) if values.dtype == np.float16 else values
