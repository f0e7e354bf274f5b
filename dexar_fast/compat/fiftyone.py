"""Explanations as samples of FiftyOne: a heat map for each word, and how far words rest on the image."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import InputError
from ..layout.grid import to_pixels
from ..result.explanation import Explanation
from .requires import require
from .words import lowest_grounding


def to_sample(explanation: Explanation, image_path: str | PathLike[str], folder: str | PathLike[str]) -> Any:
    """A ``fiftyone.Sample`` of the picture.

    Its fields: ``prompt``, ``answer``, ``answer_map`` and ``word_000``, ``word_001``, ... (``Heatmap``, in the order of
    the answer, each with ``word`` and ``grounding``), and ``lowest_grounding``, to sort and filter by.

    Args:
        explanation: of one image.
        image_path: the picture's file.
        folder: where the heat maps are written as grey PNG files; made if it is not there.

    Raises:
        ImportError: FiftyOne is not installed.
        InputError: several images, or no 2-D map.
    """
    fo = require("fiftyone", "fiftyone", "to_sample()")
    if len(explanation.grids) != 1:
        raise InputError(f"explanation: expected one image with a 2-D map; got {len(explanation.grids)}")
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)

    def heatmap(name: str, cell_map: Any, **values: Any) -> Any:
        path = target / f"{Path(image_path).stem}-{name}.png"
        pixels = np.rint(to_pixels(cell_map, explanation.grid) * 255).astype(np.uint8)
        Image.fromarray(pixels).save(path)
        return fo.Heatmap(map_path=str(path.absolute()), range=[0, 255], **values)

    words = explanation.words()
    fields = {
        f"word_{index:03d}": heatmap(f"word_{index:03d}", word.map, word=word.text, grounding=word.grounding)
        for index, word in enumerate(words)
    }
    return fo.Sample(
        filepath=str(Path(image_path).absolute()),
        prompt=explanation.prompt,
        answer=explanation.answer,
        answer_map=heatmap("answer_map", explanation.answer_map),
        lowest_grounding=lowest_grounding(words),
        **fields,
    )
