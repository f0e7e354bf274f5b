"""Ctrl-C between two steps of a run, not within one: it never falls where a user's model is half restored."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def between_steps() -> Iterator[None]:
    """SIGINT waits inside for the next `check`, or for the end; a second one does not wait.

    It is served by the handler that was there. Only the main thread is ever interrupted; elsewhere, and where the
    signal is ignored, nothing is changed.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before) or before == _interrupt.note:
        yield
        return
    _interrupt.serve = before
    signal.signal(signal.SIGINT, _interrupt.note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        check()


def check() -> None:
    """Serve an interrupt that waits; called where everything that changes the model can be undone."""
    if _interrupt.waits and threading.current_thread() is threading.main_thread():
        _interrupt.waits = False
        _interrupt.serve(signal.SIGINT, None)


class _Interrupt:
    """The one that waits, if one does."""

    waits = False
    serve: Callable[[int, Any], Any] = staticmethod(signal.default_int_handler)

    def note(self, signum: int, frame: Any) -> None:
        if self.waits:
            check()
        else:
            self.waits = True


_interrupt = _Interrupt()
