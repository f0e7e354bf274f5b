"""Explanations in TensorBoard. Run with tensorboard 2.21."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..render.montage import montage
from ..result.explanation import Explanation
from .words import lowest_grounding, markdown_table


def log_explanation(writer: Any, explanation: Explanation, name: str = "explanation", step: int | None = None) -> None:
    """Write the answer map, the words as a table, and the lowest grounding.

    Args:
        writer: ``torch.utils.tensorboard.SummaryWriter``, or what has its ``add_image``, ``add_text``, ``add_scalar``.
        explanation: several images are shown side by side.
        name: prefix of the tags: ``name/answer_map``, ``name/words``, ``name/lowest_grounding`` if it was asked for.
        step: global step.

    Raises:
        InputError: there is no 2-D map.
    """
    picture = np.asarray(montage(explanation).overlay())
    writer.add_image(f"{name}/answer_map", picture, step, dataformats="HWC")
    writer.add_text(f"{name}/words", markdown_table(explanation), step)
    lowest = lowest_grounding(explanation.words())
    if lowest is not None:
        writer.add_scalar(f"{name}/lowest_grounding", lowest, step)
