"""Maps as files, for metrics that other tools compute (F_syn, and whatever comes)."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np

from ..result.atomic import write_atomically
from ..result.explanation import Explanation
from .data import Sample

MAPS = "maps"


def write_maps(folder: Path, index: int, sample: Sample, explanations: Mapping[str, Explanation]) -> Path:
    """Write all maps of one sample to ``folder/maps/<index>.npz``.

    The arrays, without pickles: ``key``, ``answer``, ``words`` (W texts), ``box`` (left, top, right, bottom of the maps
    in the image's pixels), ``image_size`` (width, height), ``mask`` (height, width) bool where the sample has one; and
    for each method ``<method>/answer`` (rows, cols) and ``<method>/words`` (W, rows, cols), float32 in [0, 1].
    """
    first = next(iter(explanations.values()))
    arrays = {
        "key": np.array(sample.key),
        "answer": np.array(first.answer),
        "words": np.array([word.text for word in first.words()]),
        "box": np.array(first.grid.box),
        "image_size": np.array(first.grid.image_size),
    }
    if sample.mask is not None:
        arrays["mask"] = sample.mask
    for method, e in explanations.items():
        arrays[f"{method}/answer"] = np.asarray(e.answer_map, dtype=np.float32)
        arrays[f"{method}/words"] = np.stack([word.map for word in e.words()]).astype(np.float32)
    (folder / MAPS).mkdir(parents=True, exist_ok=True)
    packed = BytesIO()
    np.savez_compressed(packed, **arrays)  # type: ignore[arg-type]
    return write_atomically(folder / MAPS / f"{index:06d}.npz", packed.getvalue())
