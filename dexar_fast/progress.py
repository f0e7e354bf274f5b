"""Tell the caller how far a run has come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .interrupts import check

ProgressCallback = Callable[[str, int, int | None], None]
"""Called with the stage ("loading", "waiting", "generating", "explaining"), the steps done, and their number or None.

What it raises ends the run at once."""


def silent(stage: str, done: int, total: int | None) -> None:
    """The callback that says nothing."""


@contextmanager
def report_progress(progress: bool | ProgressCallback) -> Iterator[ProgressCallback]:
    """A callback for one run: the caller's own, a bar on stderr for True, or silence."""
    if callable(progress):
        yield progress
    elif not progress:
        yield silent
    else:
        from tqdm.auto import tqdm

        bars: dict[str, tqdm] = {}

        def show(stage: str, done: int, total: int | None) -> None:
            if stage not in bars:
                bars[stage] = tqdm(desc=stage, total=total)
            bars[stage].update(done - bars[stage].n)

        try:
            yield show
        finally:
            for bar in bars.values():
                bar.close()


class Cancelled(BaseException):
    """Carries what a caller's callback raised past everything that expects a model's or an input's failure."""

    def __init__(self, error: Exception) -> None:
        super().__init__()  # without the error in its args
        self.error: Exception | None = error


@contextmanager
def cancelling(report: ProgressCallback) -> Iterator[ProgressCallback]:
    """A callback whose errors end everything inside, also what goes on after other errors; and serves Ctrl-C."""

    def step(stage: str, done: int, total: int | None) -> None:
        check()
        try:
            report(stage, done, total)
        except Exception as error:
            raise Cancelled(error) from error

    error: Exception | None = None
    try:
        yield step
    except Cancelled as cancelled:
        error = cancelled.error
        # The two must not hold each other, and the run's tensors with them, until the garbage collector comes by.
        cancelled.error = cancelled.__cause__ = cancelled.__context__ = None
    if error is not None:
        try:
            raise error from error.__cause__
        finally:
            error = None


class Steps:
    """Counts the steps of the stage "explaining"."""

    def __init__(self, report: ProgressCallback, done: int, total: int) -> None:
        self.report, self.done, self.total = report, done, total

    def next(self) -> None:
        self.done += 1
        self.report("explaining", self.done, self.total)
