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

from .atomic import write_atomically
from .errors import InputError
from .explanation import Explanation
from .geometry import Grid

FORMAT = "dexar_fast.explanation"
FORMAT_VERSION = 1

_MAPS = ("token_maps", "answer_map", "unfiltered_token_maps", "unfiltered_answer_map")
_SCORES = ("token_weights", "image_scores", "text_scores", "token_map_ranges", "log_probabilities")


def save(explanation: Explanation, path: str | PathLike[str], *, exact: bool = False) -> Path:
    """See `Explanation.save`. Maps as float16 (error at most 2.5e-4), scores as float32; if ``exact`` bit for bit."""
    arrays: dict[str, np.ndarray[Any, Any]] = {"token_ids": explanation.token_ids}
    for names, compact in ((_MAPS, np.float16), (_SCORES, np.float32)):
        for name in names:
            values = getattr(explanation, name)
            if values is not None:
                arrays[name] = np.ascontiguousarray(values if exact else values.astype(compact))
    if explanation.image is not None:
        png = BytesIO()
        explanation.image.save(png, "PNG")
        arrays["image_png"] = np.frombuffer(png.getvalue(), dtype=np.uint8)
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "tokens": explanation.tokens,
        "layers": explanation.layers,
        "grids": [asdict(explanation.grid)],  # one per image
        "settings": explanation.settings,
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
    (grid,) = header["grids"]
    png = arrays.pop("image_png", None)
    token_ids = arrays.pop("token_ids")
    floats = {name: _widen(values) for name, values in arrays.items()}
    return Explanation(
        tokens=header["tokens"],
        token_ids=token_ids,
        layers=tuple(header["layers"]),
        grid=Grid(grid["rows"], grid["cols"], tuple(grid["box"]), tuple(grid["image_size"])),
        settings=header["settings"],
        image=None if png is None else Image.open(BytesIO(png.tobytes())).convert("RGB"),
        **floats,
    )


def _widen(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return values.astype(np.float32) if values.dtype == np.float16 else values
