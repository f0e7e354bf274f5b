"""Anybody's data: a JSONL or Parquet file, one sample a row, that names images and masks beside it.

| column | |
|---|---|
| `image` | path of the picture, relative to the file |
| `prompt` | what is asked |
| `answer` | optional; without it the model answers |
| `mask` | optional path of a picture, nonzero where the answer is about |
| `words` | optional list of `{"index": 3, "kind": "noun", "mask": "dog.png"}`: word 3 of the answer (from 0, between
  white space) is about that mask; without a mask it has no pixels |
| `key` | optional; by default the row's number |
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...errors import InputError
from ...inputs.images import load_image, readable_formats
from .sample import Mask, Sample, WordTruth


class Listed:
    """The samples of one file.

    Args:
        path: ends in `.jsonl` or `.parquet`.

    Raises:
        InputError: no such file, not readable, or of another kind; two rows with one key.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        self.path = path
        if not path.is_file():
            raise InputError(f"data: no file {path}")
        if path.suffix == ".jsonl":
            self.rows = _read_lines(path)
        elif path.suffix == ".parquet":
            self.rows = _read_parquet(path)
        else:
            raise InputError(f"data: expected a .jsonl or .parquet file; got {path}")
        keys = [self.key(index) for index in range(len(self))]
        for index, key in enumerate(keys):
            if any("\ud800" <= character <= "\udfff" for character in key):
                raise InputError(f"data: expected characters in a key; row {index} of {path} has half of one: {key!a}")
        if len(set(keys)) < len(keys):
            repeated = next(key for key in keys if keys.count(key) > 1)
            raise InputError(f"data: expected every key once; got {repeated!r} several times in {path}")

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, index: int) -> str:
        key = self.rows[index].get("key")
        return f"{index:06d}" if key is None else str(key)

    def __getitem__(self, index: int) -> Sample:
        row = self.rows[index]
        for column in ("image", "prompt"):
            if not isinstance(row.get(column), str):
                raise InputError(f"data: expected text in column {column!r}; row {index} has {row.get(column)!r}")
        image = load_image(self.path.parent / row["image"])
        words = {}
        if not isinstance(row.get("words") or [], list):
            raise InputError(f"data: expected a list of words; row {index} has {row['words']!r}")
        for word in row.get("words") or ():
            if not isinstance(word, dict) or not isinstance(word.get("index"), int):
                raise InputError(f"data: expected words as {{index, kind, mask}}; row {index} has {word!r}")
            words[word["index"]] = WordTruth(str(word.get("kind") or "word"), self._mask(word.get("mask"), image))
        return Sample(
            self.key(index), image, row["prompt"], row.get("answer"), self._mask(row.get("mask"), image), words
        )

    def _mask(self, name: object, image: Image.Image) -> Mask | None:
        if name is None:
            return None
        if not isinstance(name, str):
            raise InputError(f"data: expected the path of a mask; got {name!r}")
        path = self.path.parent / name
        try:
            with Image.open(path, formats=readable_formats()) as opened:
                pixels = np.asarray(opened)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(f"data: {path} is not a readable mask ({error})") from error
        mask = pixels != 0 if pixels.ndim == 2 else (pixels[..., :3] != 0).any(axis=-1)
        if mask.shape != (image.height, image.width):
            raise InputError(f"data: expected a mask of {image.size} pixels; {path} has {mask.shape[::-1]}")
        return np.asarray(mask)


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet

    try:
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's own errors are among them
        raise InputError(f"data: {path} is not a readable Parquet file ({error})") from error
    return rows


def _read_lines(path: Path) -> list[dict[str, Any]]:
    rows = []
    try:
        text = path.read_text(encoding="utf-8")
    except ValueError as error:
        raise InputError(f"data: {path} is not UTF-8 text ({error})") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"data: line {number} of {path} is not JSON ({error})") from error
        if not isinstance(row, dict):
            raise InputError(f"data: expected an object in line {number} of {path}; got {type(row).__name__}")
        rows.append(row)
    return rows
