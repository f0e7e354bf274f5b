"""How far a run over a data set has come, on stderr: answers, answers per second, and the time that is left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from ..progress import ProgressCallback


class _Rate(ProgressColumn):
    """Of the last half minute."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f} per second")


@contextmanager
def shown_rate(quiet: bool) -> Iterator[ProgressCallback]:
    """A callback `(stage, done, total)` that draws one line; silent when quiet, or when nobody looks on."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as display:
        task = display.add_task("Explaining", total=None)
        yield lambda stage, done, total: display.update(task, completed=done, total=total)
