"""Inseq's face: an explanation as its ``FeatureAttributionOutput``, for ``show()``, ``save()`` and its aggregators.

Inseq explains text by text and has no images: the cells of the image stand where it has source tokens. Run with Inseq
0.7.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import torch

from ..errors import InputError
from ..result.explanation import Explanation
from .requires import require


def to_inseq(explanation: Explanation) -> Any:
    """An explanation in Inseq's form.

    Returns:
        ``inseq.FeatureAttributionOutput`` of one sequence: the cells ``"row,column"`` as source, the answer's tokens as
        target, ``source_attributions`` ``(h * w, T)`` float32 in [0, 1], and ``step_scores`` ``weight`` and, if it was
        asked for, ``grounding``, ``(T,)``.

    Raises:
        ImportError: Inseq is not installed.
        InputError: rows are targets, there is no 2-D map, or there are several images.
    """
    data = require("inseq.data.attribution", "inseq", "to_inseq()")
    token = require("inseq.utils.typing", "inseq", "to_inseq()").TokenWithId
    explanation.require_map()
    if explanation.targets is not None:
        raise InputError('explanation: Inseq has a column for each token; explain with targets="tokens"')
    if len(explanation.grids) != 1:
        raise InputError(f"explanation: expected one image; got {len(explanation.grids)}. Take one with of_image(0).")
    (grid,) = explanation.grids
    cells = [f"{row},{column}" for row, column in product(range(grid.rows), range(grid.cols))]
    scores = {"weight": torch.from_numpy(explanation.token_weights).float()}
    if explanation.grounding is not None:
        scores["grounding"] = torch.from_numpy(explanation.grounding).float()
    sequence = data.CoarseFeatureAttributionSequenceOutput(
        source=[token(cell, index) for index, cell in enumerate(cells)],
        target=[token(text, int(i)) for text, i in zip(explanation.tokens, explanation.token_ids)],
        source_attributions=torch.from_numpy(explanation.token_maps).float().flatten(1).T.contiguous(),
        step_scores=scores,
        sequence_scores={},
    )
    info = {
        "attribution_method": explanation.method,
        "model_name": explanation.settings.get("model"),
        "input_texts": [explanation.prompt],
        "generated_texts": [explanation.answer],
    }
    return data.FeatureAttributionOutput([sequence], info=info)
