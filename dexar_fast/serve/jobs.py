"""Questions before the model: one at a time, each of them stopped as soon as nobody waits for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ..result.explanation import Explanation
from ..runs.stream import StreamedToken
from .limits import Limits
from .line import Line
from .question import Question

T = TypeVar("T")


class _StoppedError(Exception):
    """Nobody waits for it any more."""


class Jobs:
    """The line before the model and the thread that works it off.

    Cancelling a call ends its work at the next layer or token; it returns when the model is free.
    """

    def __init__(self, limits: Limits) -> None:
        self.line = Line(limits.queue)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dexar-fast serve")

    async def explain(self, question: Question, finish: Callable[[Explanation], T]) -> T:
        """What `finish` makes of the explanation, in the model's thread.

        Raises:
            FullError: too many wait.
            DexarFastError: as for `Explainer.explain`.
        """
        stop = threading.Event()

        def progress(stage: str, done: int, total: int | None) -> None:
            if stop.is_set():
                raise _StoppedError

        async with self.line.turn():
            try:
                return await self._in_thread(lambda: finish(question.explain(progress)), stop.set)
            except _StoppedError:
                raise asyncio.CancelledError from None

    async def stream(
        self, question: Question, opened: Callable[[], None], give: Callable[[StreamedToken], None]
    ) -> Explanation:
        """Call `opened` when the model begins and `give` with each token; the explanation of the whole answer.

        Whoever reads the tokens does not hold up the model: `give` must not wait.

        Raises:
            FullError: too many wait.
            DexarFastError: as for `Explainer.stream`.
        """
        async with self.line.turn():
            stream = None

            def open_stream() -> None:
                nonlocal stream
                stream = question.stream()

            try:
                await self._in_thread(open_stream)
                assert stream is not None
                opened()
                async for token in stream:
                    give(token)
                assert stream.explanation is not None
                return stream.explanation
            finally:
                if stream is not None:
                    await asyncio.shield(stream.aclose())

    async def _in_thread(self, work: Callable[[], T], stop: Callable[[], None] = lambda: None) -> T:
        """The result of `work`, also waited for after a cancellation, so that the model is free afterwards."""
        future = asyncio.get_running_loop().run_in_executor(self._thread, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            stop()
            await asyncio.wait({future})
            raise
