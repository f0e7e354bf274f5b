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
from ..result.method_maps import MethodMaps
from .keys import exact_name
from .parts import part_paths
from .rows import decode, read_image


class Results:
    """Explanations by id, read when they are asked for; `dexar_fast.batch.open` makes one of a folder."""

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
        """The explanation of an answer; where the run kept exact files, bit for bit.

        Otherwise maps are as they were rounded. Head scores that were not kept are zeros ``(T, L, H)``. The picture is
        as it was kept, or read from its path; where that is gone, or came as bytes or from a URL, `image` is None.

        Raises:
            KeyError: no such id.
            InputError: the answer could not be explained, or the maps of its tokens were not kept; says why.
        """
        path, n = self._places[row_id]
        row = pq.read_table(path).slice(n, 1).to_pylist()[0]
        if row["error"] is not None:
            raise InputError(f"id {row_id!r}: was not explained ({row['error']})")
        exact = self.folder / exact_name(row_id)
        if exact.is_file():
            return Explanation.load(exact)
        if row["maps"] is None:
            raise InputError(
                f"id {row_id!r}: the maps of its tokens were not kept. Read the columns of {path.name}, or run again "
                "with keep=tokens"
            )
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
    n_heads, n_layers, dtype = row["heads"], len(row["layers"]), row["maps_dtype"]

    def of_method(values: dict[str, Any]) -> MethodMaps:
        n_rows = len(values["weights"])

        def scores(name: str) -> Any:
            if (kept := values[name]) is None:
                return np.zeros((n_rows, n_layers, n_heads), np.float32)
            return np.frombuffer(kept, np.float32).reshape(n_rows, n_layers, -1).copy()  # comparisons have one "head"

        def maps(name: str, *rows: int) -> Any:
            kept = values[name]
            return None if kept is None else one_or_tuple(_maps(kept, dtype, [(*rows, *shape) for shape in shapes]))

        return MethodMaps(
            token_maps=maps("maps", n_rows),
            answer_map=maps("answer_map"),
            token_weights=np.array(values["weights"], np.float32),
            image_scores=scores("image_scores"),
            text_scores=scores("text_scores"),
            token_map_ranges=np.array(values["map_ranges"], np.float32).reshape(n_rows, 2),
            unfiltered_token_maps=maps("unfiltered_maps", n_rows),
            unfiltered_answer_map=maps("unfiltered_answer_map"),
        )

    targets, foils, log_p = row["targets"], row["foils"], row["log_probabilities"]
    return Explanation(
        tokens=row["tokens"],
        token_ids=np.array(row["token_ids"], np.int64),
        layers=tuple(row["layers"]),
        grid=one_or_tuple(grids) if grids else None,
        settings=json.loads(row["settings"]),
        image=_pictures(row["images"]),
        log_probabilities=None if log_p is None else np.array(log_p),
        targets=None if targets is None else tuple(Target(**target) for target in json.loads(targets)),
        foils=None if foils is None else tuple(foil and Foil(**foil) for foil in json.loads(foils)),
        beside={values["method"]: of_method(values) for values in row["beside"]},
        **of_method(row).as_fields,
    )


def _maps(data: bytes, dtype: str, shapes: list[Any]) -> list[Any]:
    values = np.frombuffer(data, dtype).astype(np.float32) / (255 if dtype == "uint8" else 1)
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    return [part.reshape(shape) for part, shape in zip(np.split(values, ends[:-1]), shapes)]


def _pictures(images: list[dict[str, Any]]) -> Any:
    """As they were kept, or from where they are."""
    files = [image["bytes"] or (Path(image["path"]) if image["path"] else None) for image in images]
    there = [file for file in files if isinstance(file, bytes) or (file is not None and file.is_file())]
    return one_or_tuple([decode(read_image(file)) for file in there]) if there and there == files else None
