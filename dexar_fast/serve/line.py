"""Who has the model, and who waits for it: a line of bounded length."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class FullError(Exception):
    """Too many wait already.

    Attributes:
        retry_after: whole seconds after which the line will have moved on.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the server is busy; come again in {retry_after} s")
        self.retry_after = retry_after


class Line:
    """One has its turn, at most `length` wait, in the order in which they came.

    Attributes:
        waiting: how many do.
    """

    def __init__(self, length: int) -> None:
        self.length, self.waiting = length, 0
        self._turn = asyncio.Lock()  # first come, first served
        self._seconds = 1.0  # that a turn takes, the last ones counting most

    @property
    def busy(self) -> bool:
        """Whether somebody has the turn."""
        return self._turn.locked()

    def require_place(self) -> None:
        """Raise FullError if nobody more may wait."""
        if self.busy and self.waiting >= self.length:
            raise FullError(max(1, math.ceil(self._seconds * (self.waiting + 1))))

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """The turn, inside; whoever is cancelled while waiting leaves the line.

        Raises:
            FullError: too many wait.
        """
        self.require_place()
        self.waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self.waiting -= 1
        start = time.monotonic()
        try:
            yield
        finally:
            self._seconds += 0.2 * (time.monotonic() - start - self._seconds)
            self._turn.release()
