"""Run an evaluation and write everything about it into a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..progress import ProgressCallback, silent

if TYPE_CHECKING:
    from ..explainer import Explainer
    from .data import DataSet
    from .run import Plan
    from .tables import Table


def write_evaluation(
    explainer: Explainer,
    data: DataSet,
    plan: Plan,
    folder: Path,
    *,
    extra: Sequence[Table] = (),
    progress: ProgressCallback = silent,
) -> Path:
    """Run a plan and write everything about it into a folder; returns the path of `report.html`.

    Args:
        explainer, data, plan, folder, progress: as for `run.evaluate`.
        extra: further tables for the report.
    """
    from .figures import write_curves
    from .pictures import order_of_panels, write_pictures
    from .records import SETTINGS
    from .report import write_report
    from .run import evaluate

    records = evaluate(explainer, data, plan, folder, progress=progress)
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    _, page = write_report(
        records,
        settings,
        folder,
        curves=write_curves(records, folder),
        pictures=write_pictures(explainer, data, plan, records, folder),
        panels=order_of_panels(plan),
        extra=extra,
    )
    return page
