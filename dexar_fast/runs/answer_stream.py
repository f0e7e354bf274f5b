"""An answer and its maps as an iterator: a thread writes, and whoever reads gets every token, once."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack

from torch import Tensor, nn
from transformers.generation.streamers import BaseStreamer

from ..engine.generation import write
from ..errors import InputError
from ..models.state import evaluating, keeping
from ..models.turns import step_aside, turn_of
from ..result.explanation import Explanation
from .stream import ExplainingStreamer, StreamedToken

EXIT_SECONDS = 60.0
"""How long the end of the process waits for a thread to come to its next token."""

_open: set[_Writing] = set()
"""Those whose thread runs."""


class _Stopped(Exception):
    """Nobody wants the rest of the answer."""


class _Writing:
    """The thread that writes one answer, and the tokens that wait to be read.

    A reader only ever waits for something to be there, and takes it when it is: one who is cancelled, or times out,
    takes nothing along. The end is a state, not an item, so any number may read it.

    Attributes:
        stopped: nobody wants the rest. A plain attribute: a finaliser sets it, which may run anywhere, also inside any
            lock of this class.
    """

    def __init__(self, streamer: ExplainingStreamer) -> None:
        self.streamer = streamer
        self.stopped = False
        self.process = os.getpid()
        self._items: deque[StreamedToken] = deque()
        self._error: BaseException | None = None
        self._ended = False
        self._changed = threading.Condition()
        self._sleeping: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        # A daemon: the process does not wait at its end for an answer that nobody reads, see `_stop_all`.
        self.thread = threading.Thread(target=self._run, name="dexar-fast stream", daemon=True)

    def start(self) -> None:
        _open.add(self)
        try:
            self.thread.start()
        except BaseException:  # no thread to be had
            _open.discard(self)
            raise

    @property
    def waits_for_caller(self) -> bool:
        """Whether it cannot go on as long as the thread that asks has the model's turn."""
        return turn_of(self.streamer.engine.model).mine

    def read(self) -> StreamedToken | None:
        """The next token, when it is there; None at the end.

        Raises:
            Exception: what went wrong, once.
        """
        self._require_same_process()
        with self._changed:
            while not self._ready():
                self._changed.wait()
            return self._take()

    async def read_async(self) -> StreamedToken | None:
        """`read`, without blocking the event loop."""
        self._require_same_process()
        while True:
            with self._changed:
                if self._ready():
                    return self._take()
                loop = asyncio.get_running_loop()
                sleeper = loop, loop.create_future()
                self._sleeping.append(sleeper)
            try:
                await sleeper[1]
            finally:
                with self._changed:
                    if sleeper in self._sleeping:
                        self._sleeping.remove(sleeper)

    def close(self) -> None:
        """Stop, and wait until the model is as it was.

        Raises:
            Exception: what went wrong and was not yet raised.
        """
        self.stopped = True
        if self.process != os.getpid():  # a fork does not take the thread along
            return
        if not self.waits_for_caller:
            self.thread.join()
        with self._changed:
            self._items.clear()
            self._take()

    def _require_same_process(self) -> None:
        if self.process != os.getpid():
            raise InputError(
                "stream: it is written in the process that opened it, and this one was forked from that. Open one here."
            )

    def _ready(self) -> bool:
        if self._items or self._ended:
            return True
        if self.waits_for_caller:
            raise InputError(
                "stream: its next token waits for the model, which this thread has to itself meanwhile. Read it "
                "outside of turn() and of progress callbacks."
            )
        return False

    def _take(self) -> StreamedToken | None:
        if self._items:
            return self._items.popleft()
        error, self._error = self._error, None
        if error is not None:
            raise error
        return None

    def _give(self, token: StreamedToken) -> None:
        with self._changed:
            self._items.append(token)
            self._wake()

    def _wake(self) -> None:
        self._changed.notify_all()
        sleeping, self._sleeping = self._sleeping, []
        for loop, sleeper in sleeping:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_wake_one, sleeper)

    def _run(self) -> None:
        streamer = self.streamer
        streamer.on_token = self._give
        decoder = streamer.engine.decoder
        error: BaseException | None = None
        try:
            with evaluating(decoder.model), keeping(decoder.base, decoder.family.run_state) as notes, streamer:

                def between_tokens() -> None:
                    if self.stopped:
                        raise _Stopped
                    step_aside(decoder.model, notes.exchange)

                write(
                    decoder,
                    streamer.encoded.inputs,
                    streamer.options.max_new_tokens,
                    _Stoppable(streamer, between_tokens),
                    streamer.cache,
                    streamer.engine.tokenizer,
                )
        except _Stopped:
            pass
        except BaseException as raised:  # handed over, to be raised where the stream is read
            error = raised
        finally:
            _open.discard(self)
            # Else this and the streamer hold each other, and caches with them, until the garbage collector comes by.
            streamer.on_token = _nobody
            with self._changed:
                self._error, self._ended = error, True
                self._wake()
            error = None  # whose traceback holds this frame


class _Stoppable(BaseStreamer):
    """Hands on what `generate` writes, and looks up between two tokens."""

    def __init__(self, streamer: ExplainingStreamer, between_tokens: Callable[[], None]) -> None:
        self.streamer, self.between_tokens = streamer, between_tokens

    def put(self, value: Tensor) -> None:
        self.between_tokens()
        self.streamer.put(value)

    def end(self) -> None:
        self.streamer.end()


def _nobody(token: StreamedToken) -> None:
    """Hears nothing."""


def _wake_one(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)


def _signal(writing: _Writing) -> None:
    writing.stopped = True


class AnswerStream:
    """Tokens with their maps, as the model writes them: an iterator, and an asynchronous one.

    The model runs in a thread of its own, and others may use it between two tokens. The thread ends with the answer,
    with `close`, or at the next token when nobody holds the stream any more or Ctrl-C ended the wait for one; what
    goes wrong there is raised here. Several threads or tasks may read one stream: each token goes to one of them. A
    wait for the next token may be cancelled, and loses none.
    """

    def __init__(self, streamer: ExplainingStreamer) -> None:
        self._streamer = streamer
        # The thread must not hold the stream: one that is forgotten could never end.
        self._writing = _Writing(streamer)
        self._forgotten = weakref.finalize(self, _signal, self._writing)
        self._forgotten.atexit = False
        self._closed = False
        self._writing.start()

    @property
    def explanation(self) -> Explanation | None:
        """Of the whole answer; None until the stream has ended."""
        return self._streamer.explanation

    @property
    def running(self) -> bool:
        """Whether the model still writes."""
        return self._writing.thread.is_alive()

    def __iter__(self) -> Iterator[StreamedToken]:
        return self

    def __next__(self) -> StreamedToken:
        try:
            token = None if self._closed else self._writing.read()
        except KeyboardInterrupt:
            self._writing.stopped = True
            raise
        if token is None:
            raise StopIteration
        return token

    def __aiter__(self) -> AsyncIterator[StreamedToken]:
        return self

    async def __anext__(self) -> StreamedToken:
        token = None if self._closed else await self._writing.read_async()
        if token is None:
            raise StopAsyncIteration
        return token

    def close(self) -> None:
        """Stop writing, and wait until the model is as it was: at most to the next token.

        Called where this thread has the model to itself (`Explainer.turn`, a progress callback) it does not wait.

        Raises:
            Exception: what went wrong and was not yet raised.
        """
        self._closed = True
        self._writing.close()

    async def aclose(self) -> None:
        """`close`, without blocking the event loop."""
        self._writing.stopped = True
        if self._writing.waits_for_caller:
            self.close()
        else:
            await asyncio.to_thread(self.close)

    def __enter__(self) -> AnswerStream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def __aenter__(self) -> AnswerStream:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()


def close_streams(model: nn.Module) -> None:
    """Stop every stream that writes on a model, and wait until the model is as it was."""
    with ExitStack() as all_of_them:  # also those behind one that fails
        for writing in list(_open):
            if writing.streamer.engine.model is model:
                all_of_them.callback(writing.close)


def _stop_all() -> None:
    """At the end of the process: no thread may be inside the model when the interpreter goes."""
    writings = list(_open)
    for writing in writings:
        writing.stopped = True
    for writing in writings:
        writing.thread.join(EXIT_SECONDS)


atexit.register(_stop_all)
