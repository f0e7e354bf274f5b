"""Read a folder of results back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ..errors import InputError
from ..inputs.targets import Foil, Target
from ..layout.grid import Grid
from ..layout.per_image import one_or_tuple
from ..result.explanation import Explanation
from .parts import part_paths
from .rows import decode, read_image


class Results:
    """Explanations by id, read when they are asked for. See `open_results`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._places: dict[str, tuple[Path, int]] = {}
        for path in part_paths(folder):
            table = pq.read_table(path, columns=["id", "occurrence"]).to_pylist()
            self._places |= {row["id"]: (path, n) for n, row in enumerate(table) if row["occurrence"] == 0}

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __getitem__(self, row_id: str) -> Explanation:
        """The explanation of an answer.

        Head scores are not kept: `image_scores` and `text_scores` are zeros ``(T, L, 1)``. The picture is read from
        its path; where that is gone or came as bytes, `image` is None.

        Raises:
            KeyError: no such id.
            InputError: the answer could not be explained; says why.
        """
        path, n = self._places[row_id]
        row = pq.read_table(path).slice(n, 1).to_pylist()[0]
        if row["error"] is not None:
            raise InputError(f"id {row_id!r}: was not explained ({row['error']})")
        return _explanation(row)


def open_results(folder: str | PathLike[str]) -> Results:
    """The results of `run` in a folder.

    Raises:
        InputError: there are none.
    """
    path = Path(folder)
    if not part_paths(path):
        raise InputError(f"folder: {path} holds no parts; name the folder that a batch wrote")
    return Results(path)


def _explanation(row: dict[str, Any]) -> Explanation:
    grids = [
        Grid(rows, cols, tuple(box), tuple(size))
        for rows, cols, box, size in zip(row["rows"], row["cols"], row["boxes"], row["image_sizes"])
    ]
    shapes = list(zip(row["rows"], row["cols"])) if grids else [(row["cols"][0],)]
    n_rows, dtype = len(row["weights"]), row["maps_dtype"]
    zeros = np.zeros((n_rows, len(row["layers"]), 1), np.float32)
    targets, foils, log_p = row["targets"], row["foils"], row["log_probabilities"]
    return Explanation(
        tokens=row["tokens"],
        token_ids=np.array(row["token_ids"], np.int64),
        token_maps=one_or_tuple(_maps(row["maps"], dtype, [(n_rows, *shape) for shape in shapes])),
        answer_map=one_or_tuple(_maps(row["answer_map"], dtype, shapes)),
        token_weights=np.array(row["weights"], np.float32),
        image_scores=zeros,
        text_scores=zeros,
        token_map_ranges=np.array(row["map_ranges"], np.float32).reshape(n_rows, 2),
        layers=tuple(row["layers"]),
        grid=one_or_tuple(grids) if grids else None,
        settings=json.loads(row["settings"]),
        image=_pictures(row["images"]),
        log_probabilities=None if log_p is None else np.array(log_p),
        targets=None if targets is None else tuple(Target(**target) for target in json.loads(targets)),
        foils=None if foils is None else tuple(foil and Foil(**foil) for foil in json.loads(foils)),
    )


def _maps(data: bytes, dtype: str, shapes: list[Any]) -> list[Any]:
    values = np.frombuffer(data, dtype).astype(np.float32) / (255 if dtype == "uint8" else 1)
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    return [part.reshape(shape) for part, shape in zip(np.split(values, ends[:-1]), shapes)]


def _pictures(paths: list[str | None]) -> Any:
    if not paths or any(path is None or not Path(path).is_file() for path in paths):
        return None
    return one_or_tuple([decode(read_image(Path(path))) for path in paths if path is not None])
