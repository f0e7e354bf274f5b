"""Explanations in MLflow. Run with mlflow-skinny 3.17 and a local file store."""

from __future__ import annotations

from typing import Any

from ..render.html import render_html
from ..render.languages import ENGLISH, Language
from ..render.montage import montage
from ..result.explanation import Explanation
from .words import lowest_grounding


def log_explanation(
    mlflow: Any,
    explanation: Explanation,
    name: str = "explanation",
    step: int | None = None,
    *,
    lang: Language = ENGLISH,
) -> None:
    """Log the report, the answer map and the words as artifacts of the active run, and the lowest grounding.

    Args:
        mlflow: the module ``mlflow`` with an active run.
        explanation: several images are shown side by side.
        name: folder of the artifacts ``report.html``, ``answer_map.png`` and ``words.csv``; the metric, if grounding
            was asked for, is ``name/lowest_grounding``.
        step: of the metric.
        lang: of the report, as for `Explanation.to_html`.

    Raises:
        InputError: there is no 2-D map, or no such language.
    """
    mlflow.log_text(render_html(explanation, lang=lang), f"{name}/report.html")  # refuses before anything is logged
    mlflow.log_image(montage(explanation).overlay(), f"{name}/answer_map.png")
    mlflow.log_text(explanation.to_csv(), f"{name}/words.csv")
    lowest = lowest_grounding(explanation.words())
    if lowest is not None:
        mlflow.log_metric(f"{name}/lowest_grounding", lowest, step=step)
