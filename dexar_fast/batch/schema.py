"""The columns of a part, and an explanation as a row of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from itertools import zip_longest
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from ..errors import InputError
from ..layout.per_image import as_tuple
from ..result.explanation import Explanation
from ..result.method_maps import MethodMaps
from .rows import Row

SCHEMA_VERSION = 4
DTYPES = ("uint8", "float16", "float32")
KEPT = ("answer", "words", "tokens", "scores")
_PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # as `datasets` keeps pictures
_BOXES = pa.list_(pa.list_(pa.float64()))
_WORD = pa.struct([("word", pa.string()), ("start", pa.int32()), ("stop", pa.int32()), ("weight", pa.float32()),
                   ("grounding", pa.float32()), ("peak", pa.float32()), ("box", pa.list_(pa.float64()))])  # fmt: skip
_OF_METHOD = [
    ("weights", pa.list_(pa.float32())),
    ("map_ranges", pa.list_(pa.list_(pa.float32()))),
    ("answer_map", pa.binary()),
    ("maps", pa.binary()),
    ("word_maps", pa.binary()),
    ("unfiltered_answer_map", pa.binary()),
    ("unfiltered_maps", pa.binary()),
    ("image_scores", pa.binary()),
    ("text_scores", pa.binary()),
]
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("occurrence", pa.int32()),
        ("key", pa.string()),
        ("images", pa.list_(_PICTURE)),
        ("prompt", pa.string()),
        ("answer", pa.string()),
        ("answer_from", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("tokens", pa.list_(pa.string())),
        ("words", pa.list_(_WORD)),
        ("rows", pa.list_(pa.int32())),  # one per picture, as columns, boxes and sizes
        ("cols", pa.list_(pa.int32())),
        ("boxes", _BOXES),
        ("image_sizes", pa.list_(pa.list_(pa.int32()))),
        ("grounding", pa.list_(pa.float32())),
        ("log_probabilities", pa.list_(pa.list_(pa.float64()))),
        ("maps_dtype", pa.string()),
        ("answer_map_png", pa.binary()),
        ("method", pa.string()),
        *_OF_METHOD,
        ("beside", pa.list_(pa.struct([("method", pa.string()), *_OF_METHOD]))),
        ("layers", pa.list_(pa.int32())),
        ("heads", pa.int32()),
        ("targets", pa.string()),
        ("foils", pa.string()),
        ("settings", pa.string()),
        ("schema_version", pa.int32()),
        ("error", pa.string()),
    ]
)


@dataclass(frozen=True)
class Keep:
    """What of an explanation a row holds.

    Attributes:
        what: "answer", its map; "words", also theirs; "tokens", also theirs; "scores", also those of the heads.
        dtype: of the maps, one of `DTYPES`.
        exact: whether a file of `Explanation.save` with everything, bit for bit, stands beside.
        pictures: whether the bytes of the pictures and the answer map as PNG are in the row, too.

    Raises:
        InputError: another name.
    """

    what: str = "tokens"
    dtype: str = "uint8"
    exact: bool = False
    pictures: bool = False

    def __post_init__(self) -> None:
        if self.what not in KEPT:
            raise InputError(f"keep: expected one of {', '.join(KEPT)}; got {self.what!r}")
        if self.dtype not in DTYPES:
            raise InputError(f"maps: expected one of {', '.join(DTYPES)}; got {self.dtype!r}")

    def at_least(self, what: str) -> bool:
        """Whether this is kept, too."""
        return KEPT.index(self.what) >= KEPT.index(what)


def failed(row: Row, key: str, error: str) -> dict[str, Any]:
    """The row of an answer that could not be explained."""
    return {**_asked(row, key), "error": error}


def explained(row: Row, key: str, explanation: Explanation, keep: Keep, files: Sequence[bytes] = ()) -> dict[str, Any]:
    """The row of an explanation; what is not a column of it can be computed from the columns.

    Args:
        row, key: what was asked.
        explanation: what came.
        keep: what of it.
        files: the bytes of the pictures, where they are kept.
    """
    grids = explanation.grids
    # Queries without a place (BLIP-2) are one line of cells without a box.
    shapes = [(grid.rows, grid.cols) for grid in grids] or [(1, as_tuple(explanation.answer_map)[0].shape[0])]
    targets, foils, log_p = explanation.targets, explanation.foils, explanation.log_probabilities
    return {
        **_asked(row, key, files),
        "answer": explanation.answer,
        "token_ids": explanation.token_ids.tolist(),
        "tokens": explanation.tokens,
        "words": words_of(explanation),
        "rows": [rows for rows, _ in shapes],
        "cols": [cols for _, cols in shapes],
        "boxes": [[float(end) for end in grid.box] for grid in grids],
        "image_sizes": [list(grid.image_size) for grid in grids],
        "grounding": None if explanation.grounding is None else explanation.grounding.tolist(),
        "log_probabilities": None if log_p is None else log_p.tolist(),
        "maps_dtype": keep.dtype,
        "answer_map_png": _png(as_tuple(explanation.answer_map)[0]) if keep.pictures else None,
        "method": explanation.method,
        **_of_method(explanation, keep),
        "beside": [
            {"method": method, **_of_method(explanation.of_method(method), keep)} for method in explanation.beside
        ],
        "layers": list(explanation.layers),
        "heads": explanation.image_scores.shape[-1],
        "targets": None if targets is None else json.dumps([asdict(target) for target in targets]),
        "foils": None if foils is None else json.dumps([foil and asdict(foil) for foil in foils]),
        "settings": json.dumps(explanation.settings, sort_keys=True),
    }


def _of_method(explanation: Explanation, keep: Keep) -> dict[str, Any]:
    """What the method in front made, as far as it is kept."""
    maps = MethodMaps.of(explanation)
    found: dict[str, Any] = {
        "weights": maps.token_weights.tolist(),
        "map_ranges": maps.token_map_ranges.tolist(),
        "answer_map": compact(maps.answer_map, keep.dtype),
        "unfiltered_answer_map": compact(maps.unfiltered_answer_map, keep.dtype),
    }
    if keep.what == "words":
        words = [as_tuple(word.map) for word in explanation.words()]
        found["word_maps"] = compact(tuple(np.stack(of_image) for of_image in zip(*words)), keep.dtype)
    if keep.at_least("tokens"):
        found["maps"] = compact(maps.token_maps, keep.dtype)
        found["unfiltered_maps"] = compact(maps.unfiltered_token_maps, keep.dtype)
    if keep.at_least("scores"):
        found |= {name: getattr(maps, name).astype(np.float32).tobytes() for name in ("image_scores", "text_scores")}
    return found


def words_of(explanation: Explanation) -> list[dict[str, Any]]:
    """Its words; `peak` is the largest cell before normalisation of the map, `box` that cell's in pixels."""
    words = []
    for word in explanation.words():
        box = None
        if len(explanation.grids) == 1:
            grid, cell = explanation.grid, int(np.argmax(word.map))
            left, top, right, bottom = grid.box
            width, height = (right - left) / grid.cols, (bottom - top) / grid.rows
            x, y = left + cell % grid.cols * width, top + cell // grid.cols * height
            box = [x, y, x + width, y + height]
        ranges = explanation.token_map_ranges
        peak = None if explanation.targets is not None else float(ranges[word.start : word.stop, 1].max())
        words.append({"word": word.text, "start": word.start, "stop": word.stop, "weight": float(word.weight),
                      "grounding": word.grounding, "peak": peak, "box": box})  # fmt: skip
    return words


def compact(maps: Any, dtype: str) -> bytes | None:
    """Maps in [0, 1], of one image or a tuple, as bytes, C order; uint8 in steps of 1/255. None for None."""
    if maps is None:
        return None
    return b"".join(
        (np.rint(of_image * 255) if dtype == "uint8" else of_image).astype(dtype).tobytes()
        for of_image in as_tuple(maps)
    )


def _png(map_: Any) -> bytes:
    """A map in [0, 1] as a grey PNG, one pixel a cell."""
    file = BytesIO()
    Image.fromarray(np.rint(np.atleast_2d(map_) * 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def _asked(row: Row, key: str, files: Sequence[bytes] = ()) -> dict[str, Any]:
    paths = [None if isinstance(image, bytes) else str(image) for image in row.images]
    images = [{"bytes": data, "path": path} for data, path in zip_longest(files, paths)]
    return {"id": row.id, "occurrence": row.occurrence, "key": key, "images": images, "prompt": row.prompt,
            "answer": row.answer, "answer_from": row.answer_from, "schema_version": SCHEMA_VERSION}  # fmt: skip
