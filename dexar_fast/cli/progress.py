"""How far a run has come, on stderr, gone when the run is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from ..progress import ProgressCallback

_LABELS = {
    "loading": "Loading the model",
    "waiting": "Waiting for the model",
    "generating": "Writing the answer",
    "explaining": "Explaining",
    "saving": "Saving",
    "evaluating": "Evaluating",
    "checking": "Checking sanity",
    "grounding": "Measuring grounding",
    "varying": "Varying options",
}


@contextmanager
def shown_progress(quiet: bool) -> Iterator[ProgressCallback]:
    """A callback `(stage, done, total)` that draws one line per stage; silent when quiet, or when nobody looks on."""
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as display:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int | None) -> None:
            if stage not in tasks:
                for task in display.tasks:
                    # A stage may end before its total: an answer is mostly shorter than its limit.
                    display.update(task.id, total=1, completed=1)
                tasks[stage] = display.add_task(_LABELS.get(stage, stage), count="")
            display.update(tasks[stage], completed=done, total=total, count=f"{done}/{total}" if total else "")

        yield show
