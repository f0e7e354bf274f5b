"""The columns of a part, and an explanation as a row of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from ..layout.per_image import as_tuple
from ..result.explanation import Explanation
from .rows import Row

SCHEMA_VERSION = 1
DTYPES = ("uint8", "float16", "float32")
_BOXES = pa.list_(pa.list_(pa.float64()))
_WORD = pa.struct([("word", pa.string()), ("start", pa.int32()), ("stop", pa.int32()), ("weight", pa.float32()),
                   ("grounding", pa.float32()), ("peak", pa.float32()), ("box", pa.list_(pa.float64()))])  # fmt: skip
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("occurrence", pa.int32()),
        ("key", pa.string()),
        ("images", pa.list_(pa.string())),  # paths; null where the picture came as bytes
        ("prompt", pa.string()),
        ("answer", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("tokens", pa.list_(pa.string())),
        ("words", pa.list_(_WORD)),
        ("rows", pa.list_(pa.int32())),  # one per picture, as columns, boxes and sizes
        ("cols", pa.list_(pa.int32())),
        ("boxes", _BOXES),
        ("image_sizes", pa.list_(pa.list_(pa.int32()))),
        ("weights", pa.list_(pa.float32())),
        ("grounding", pa.list_(pa.float32())),
        ("log_probabilities", pa.list_(pa.list_(pa.float64()))),
        ("map_ranges", pa.list_(pa.list_(pa.float32()))),
        ("maps_dtype", pa.string()),
        ("maps", pa.binary()),
        ("answer_map", pa.binary()),
        ("layers", pa.list_(pa.int32())),
        ("targets", pa.string()),
        ("foils", pa.string()),
        ("settings", pa.string()),
        ("schema_version", pa.int32()),
        ("error", pa.string()),
    ]
)


def failed(row: Row, key: str, error: str) -> dict[str, Any]:
    """The row of an answer that could not be explained."""
    return {**_asked(row, key), "error": error}


def explained(row: Row, key: str, explanation: Explanation, dtype: str) -> dict[str, Any]:
    """The row of an explanation; what is not a column of it can be computed from the columns."""
    grids = explanation.grids
    token_maps, answer_maps = as_tuple(explanation.token_maps), as_tuple(explanation.answer_map)
    # Queries without a place (BLIP-2) are one line of cells without a box.
    shapes = [(grid.rows, grid.cols) for grid in grids] or [(1, answer_maps[0].shape[0])]
    targets, foils, log_p = explanation.targets, explanation.foils, explanation.log_probabilities
    return {
        **_asked(row, key),
        "answer": explanation.answer,
        "token_ids": explanation.token_ids.tolist(),
        "tokens": explanation.tokens,
        "words": words_of(explanation),
        "rows": [rows for rows, _ in shapes],
        "cols": [cols for _, cols in shapes],
        "boxes": [[float(end) for end in grid.box] for grid in grids],
        "image_sizes": [list(grid.image_size) for grid in grids],
        "weights": explanation.token_weights.tolist(),
        "grounding": None if explanation.grounding is None else explanation.grounding.tolist(),
        "log_probabilities": None if log_p is None else log_p.tolist(),
        "map_ranges": explanation.token_map_ranges.tolist(),
        "maps_dtype": dtype,
        "maps": b"".join(compact(maps, dtype) for maps in token_maps),
        "answer_map": b"".join(compact(maps, dtype) for maps in answer_maps),
        "layers": list(explanation.layers),
        "targets": None if targets is None else json.dumps([asdict(target) for target in targets]),
        "foils": None if foils is None else json.dumps([foil and asdict(foil) for foil in foils]),
        "settings": json.dumps(explanation.settings, sort_keys=True),
    }


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


def compact(maps: Any, dtype: str) -> bytes:
    """Maps in [0, 1] as bytes, C order; uint8 in steps of 1/255."""
    values = np.rint(maps * 255) if dtype == "uint8" else maps
    return values.astype(dtype).tobytes()


def _asked(row: Row, key: str) -> dict[str, Any]:
    paths = [None if isinstance(image, bytes) else str(image) for image in row.images]
    return {"id": row.id, "occurrence": row.occurrence, "key": key, "images": paths, "prompt": row.prompt,
            "answer": row.answer, "schema_version": SCHEMA_VERSION}  # fmt: skip
