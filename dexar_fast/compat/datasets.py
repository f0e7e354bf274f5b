"""Explanations as a Hugging Face data set. Run with datasets 5.2.

For whole data sets, which do not fit the memory, `dexar_fast.batch` writes Parquet that ``load_dataset`` reads.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..layout.per_image import as_tuple
from ..result.explanation import Explanation
from .requires import require


def to_dataset(explanations: Iterable[Explanation]) -> Any:
    """One row for each explanation.

    Returns:
        ``datasets.Dataset`` with ``images`` and ``overlays`` (lists of ``Image``, one for each picture; no images where
        they were not kept, no overlays where there is no 2-D map), ``prompt``, ``answer``, ``model``, ``method`` and
        ``words``, a list of structs with ``word``, ``start``, ``stop``, ``grounding``, ``weight``, ``place``, ``peak``,
        ``box`` and ``image``.

    Raises:
        ImportError: datasets is not installed.
    """
    datasets = require("datasets", "datasets", "to_dataset()")
    number, text, picture = datasets.Value("int64"), datasets.Value("string"), datasets.Image()
    several, real = datasets.List, datasets.Value("float64")
    word = {
        "word": text,
        "start": number,
        "stop": number,
        "grounding": real,
        "weight": real,
        "place": text,
        "peak": several(real),
        "box": several(number),
        "image": number,
    }
    features = datasets.Features(
        {
            "images": several(picture),
            "overlays": several(picture),
            **dict.fromkeys(("prompt", "answer", "model", "method"), text),
            "words": several(word),
        }
    )
    rows = []
    for e in explanations:
        words = [{name: row[name] for name in word} for row in e.to_table()]
        rows.append(
            {
                "images": [] if e.image is None else list(as_tuple(e.image)),
                "overlays": [e.overlay(image=index) for index in range(len(e.grids))],
                "prompt": e.prompt,
                "answer": e.answer,
                "model": str(e.settings.get("model") or ""),
                "method": e.method,
                "words": words,
            }
        )
    return datasets.Dataset.from_list(rows, features=features)
