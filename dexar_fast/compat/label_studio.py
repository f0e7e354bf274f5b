"""Maps as pre-annotations of Label Studio: a brush mask for each word. Run with label-studio-converter 0.0.59."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from ..result.explanation import Explanation
from .requires import require
from .words import lowest_grounding


def to_label_studio(
    explanation: Explanation,
    words: Sequence[int | str],
    *,
    share: float = 0.5,
    from_name: str = "tag",
    to_name: str = "image",
) -> dict[str, Any]:
    """A prediction in Label Studio's JSON, for ``{"data": {"image": ...}, "predictions": [it]}``.

    Args:
        explanation: of one image.
        words: as `Explanation.word` takes them; each is a label, its mask where the map reaches ``share`` of its
            largest value.
        share: above 0 and at most 1.
        from_name, to_name: names of ``BrushLabels`` and ``Image`` in the labelling configuration.

    Returns:
        JSON values: ``model_version``, ``score`` (the lowest grounding of the words, if it was asked for) and
        ``result``.

    Raises:
        ImportError: label-studio-converter is not installed.
        InputError: several images, no such word, or another share.
    """
    brush = require("label_studio_converter.brush", "label-studio-converter", "to_label_studio()")
    if len(explanation.grids) != 1:
        raise InputError(f"explanation: expected one image with a 2-D map; got {len(explanation.grids)}")
    width, height = explanation.grid.image_size
    found = [explanation.word(word) for word in words]
    result = [
        {
            "id": f"word-{word.start}-{word.stop}",
            "type": "brushlabels",
            "from_name": from_name,
            "to_name": to_name,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {
                "format": "rle",
                "rle": brush.mask2rle(word.mask(share).astype(np.uint8) * 255),
                "brushlabels": [word.text],
            },
        }
        for word in found
    ]
    lowest = lowest_grounding(found)
    score = {} if lowest is None else {"score": lowest}
    return {"model_version": f"dexar_fast {explanation.method}", **score, "result": result}
