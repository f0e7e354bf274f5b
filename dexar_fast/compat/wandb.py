"""Explanations in Weights & Biases. Run with wandb 0.31, offline."""

from __future__ import annotations

from typing import Any

from ..render.languages import ENGLISH, Language
from ..render.montage import montage
from ..render.notebook import frame
from ..result.explanation import Explanation
from ..result.tables import COLUMNS, columns
from .requires import require
from .words import lowest_grounding


def log_explanation(
    run: Any,
    explanation: Explanation,
    name: str = "explanation",
    step: int | None = None,
    *,
    lang: Language = ENGLISH,
) -> None:
    """Log the answer map, the words as a table, and the report.

    Args:
        run: of ``wandb.init``.
        explanation: several images are shown side by side.
        name: prefix of the keys: ``name/answer_map``, ``name/words``, ``name/report``, and ``name/lowest_grounding`` if
            it was asked for.
        step: of the run.
        lang: of the report, as for `Explanation.to_html`.

    Raises:
        ImportError: wandb is not installed.
        InputError: there is no 2-D map, or no such language.
    """
    wandb = require("wandb", "wandb", "log_explanation()")
    found = columns(explanation, "words")
    values = {
        f"{name}/answer_map": wandb.Image(montage(explanation).overlay(), caption=explanation.answer),
        f"{name}/words": wandb.Table(columns=list(COLUMNS["words"]), data=[list(row) for row in zip(*found.values())]),
        f"{name}/report": wandb.Html(frame(explanation, lang=lang), inject=False),
    }
    lowest = lowest_grounding(explanation.words())
    if lowest is not None:
        values[f"{name}/lowest_grounding"] = lowest
    run.log(values, step=step)
