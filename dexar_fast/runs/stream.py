"""Maps while the answer is being written: tokens are explained in blocks behind generation, over its own cache."""

from __future__ import annotations

import asyncio
import queue
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from ..engine.aggregate import Accumulator, aggregate, joined
from ..engine.answer_pass import watch_states
from ..engine.assemble import to_numpy
from ..engine.encoded import Encoded
from ..engine.engine import Engine
from ..engine.generation import end_ids, write
from ..engine.grounding import GrowingGrounding
from ..engine.prefill import Prefill, new_cache, prompt_call
from ..engine.request import Request
from ..engine.written_cache import written
from ..errors import InputError, check_count
from ..inputs.methods import METHODS
from ..inputs.options import Options
from ..inputs.tokens import TokenPieces
from ..layout.per_image import one_or_tuple
from ..models.state import evaluating, main_device
from ..result.explanation import Explanation, Floats, Maps, share

# Others need the whole answer, or the prompt as text.
_TEXT_SETS = ("all_non_image", "generated_only")


@dataclass(frozen=True)
class StreamedToken:
    """One explained token of an answer that is still being written.

    Attributes:
        index: its place in the answer, from 0.
        token: its piece of the text; empty where it ends inside a character, which the token that completes it carries.
        token_id: its id.
        token_map: ``(h, w)`` in [0, 1]; of several images a tuple, one per image.
        token_weight: delta of Eq. 6.
        image_scores, text_scores: ``(L, H)``.
        grounding: how much the image supports the token, in [0, 1] (`Explanation.grounding`), or None if that was not
            asked for.
    """

    index: int
    token: str
    token_id: int
    token_map: Maps
    token_weight: float
    image_scores: Floats
    text_scores: Floats
    grounding: float | None = None


class ExplainingStreamer(BaseStreamer):
    """A streamer, in transformers' sense, that explains what `generate` writes, block by block.

    ::

        with explainer.streamer(inputs, on_token=show) as streamer:
            model.generate(**inputs, streamer=streamer, past_key_values=streamer.cache, do_sample=True)
        streamer.explanation

    Each block runs once more over what the cache held before it; generation goes on as if nothing had happened.

    Attributes:
        cache: `generate` must be given this one.
        explanation: of the whole answer; None until generation has ended.
    """

    def __init__(
        self,
        engine: Engine,
        encoded: Encoded,
        options: Options,
        on_token: Callable[[StreamedToken], None],
        *,
        block: int,
    ) -> None:
        if engine.family.rows != "cached":
            raise InputError(
                f"stream: answers of the family {engine.family.name!r} do not run over a cache, and are explained "
                "as a whole. Use explain()."
            )
        if options.method not in METHODS:
            raise InputError(
                f"method: only {', '.join(METHODS)} explain while the answer is written; got {options.method!r}"
            )
        check_count("block", block, "tokens")
        if options.text_set not in _TEXT_SETS:
            raise InputError(f"text_set: expected one of {', '.join(_TEXT_SETS)} while streaming; use explain()")
        self.engine, self.options, self.on_token, self.block = engine, options, on_token, block
        settings = {**encoded.settings, "generated": True, "cache": "reused", "block": block}
        self.encoded = replace(encoded, settings=settings)
        self.cache = new_cache()
        self.grounding = GrowingGrounding(engine.decoder, encoded.inputs) if options.grounding else None
        self.explanation: Explanation | None = None
        self._prompt_length = 0
        self._ids: list[int] = []
        self._end: int | None = None  # an end token, which belongs to the answer only if the answer goes on
        self._pieces = TokenPieces(engine.tokenizer)
        self._parts: list[Accumulator] = []
        self._log_probabilities: list[Floats] = []
        self._request: Request | None = None
        self._stack = ExitStack()
        self._seen: dict[str, Any] | None = None

    def __enter__(self) -> ExplainingStreamer:
        if self._seen is not None:
            raise InputError("streamer: it has served already. Make a new one for each answer.")
        self._seen = self._stack.enter_context(prompt_call(self.engine.decoder))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def put(self, value: Tensor) -> None:
        """Called by `generate`, with the prompt's ids first and then with each token."""
        if self._seen is None:
            raise InputError("streamer: expected to be entered; write `with explainer.streamer(...) as streamer:`")
        if not self._prompt_length:
            self._prompt_length = value.shape[-1]
            return
        for token in value.flatten().tolist():
            if self._end is not None:
                self._ids.append(self._end)
            self._end = token if token in end_ids(self.engine.decoder) else None
            if self._end is None:
                self._ids.append(token)
        if len(self._ids) - self._n_explained >= self.block:
            self._explain()

    def end(self) -> None:
        """Called by `generate` when the answer is complete."""
        if not self._ids:
            raise InputError("prompt: the model ended its answer at once, there is no token to explain.")
        if len(self._ids) > self._n_explained:
            self._explain(ended=True)
        assert self._request is not None
        explanation = self.engine.result(self._request, joined(self._parts), self.options, self.encoded)
        if self._log_probabilities:
            explanation = replace(explanation, log_probabilities=np.concatenate(self._log_probabilities))
        self.explanation = explanation

    @property
    def _n_explained(self) -> int:
        return self._parts[-1].rows.stop if self._parts else 0

    def _explain(self, *, ended: bool = False) -> None:
        """The tokens since the last block; the answer's last ones if it has ended."""
        assert self._seen is not None
        n_put = len(self._ids) + (self._end is not None)
        expected = self._prompt_length + n_put - 1, self._prompt_length
        found = self.cache.get_seq_length(), self._seen["inputs_embeds"].shape[1]
        if found != expected:
            raise InputError(
                f"generate: expected a cache of {expected[0]} positions, {expected[1]} of them the prompt's; got "
                f"{found[0]} and {found[1]}. Pass past_key_values=streamer.cache, one prompt, and neither beams, an "
                "assistant model nor use_cache=False."
            )
        engine, rows = self.engine, slice(self._n_explained, len(self._ids))
        ids = torch.tensor(self._ids, device=main_device(engine.model))
        with evaluating(engine.model):
            with watch_states(engine.decoder) as states:
                ran = Prefill(self.encoded.inputs, written(self.cache), self._seen["inputs_embeds"], self._seen)
                self.encoded = replace(self.encoded, answer_ids=ids, ran=ran)
                self._request, sums = engine.run(self.encoded, self.options, rows=rows)
            self._parts.append(sums)
            if self.grounding is not None:
                log_p = self.grounding.add(torch.cat(states, dim=1), ids, rows)
                self._log_probabilities.append(to_numpy(log_p))
            layout, maps = self._request.layout, aggregate(sums, self._request.layout, self.options.normalization)
        pieces = self._pieces.add(self._ids[rows], ended=ended)
        token_maps = one_or_tuple(layout.per_image(to_numpy(maps.token_maps)))
        weights, image_scores, text_scores = map(to_numpy, (maps.token_weights, sums.image_scores, sums.text_scores))
        supported = share(self._log_probabilities[-1]) if self._log_probabilities else None
        for i, index in enumerate(range(rows.start, rows.stop)):
            self.on_token(
                StreamedToken(
                    index=index,
                    token=pieces[i],
                    token_id=self._ids[index],
                    token_map=tuple(one[i] for one in token_maps) if isinstance(token_maps, tuple) else token_maps[i],
                    token_weight=float(weights[i]),
                    image_scores=image_scores[i],
                    text_scores=text_scores[i],
                    grounding=None if supported is None else float(supported[i]),
                )
            )


class _Stopped(Exception):
    """Nobody wants the rest of the answer."""


# Tokens; then what went wrong, if anything did; then None.
_Queue = queue.Queue["StreamedToken | BaseException | None"]


class AnswerStream:
    """Tokens with their maps, as the model writes them: an iterator, and an asynchronous one.

    The model runs in a thread of its own. It ends with the answer, with `close`, or when nobody holds the stream any
    more; what goes wrong there is raised here.
    """

    def __init__(self, streamer: ExplainingStreamer) -> None:
        self._streamer = streamer
        self._tokens: _Queue = queue.Queue()
        closed = threading.Event()
        # The thread must not hold the stream: one that is forgotten could never end.
        self._thread = threading.Thread(target=_write, args=(streamer, self._tokens, closed))
        self._end = weakref.finalize(self, _end, closed, self._thread)
        self._thread.start()

    @property
    def explanation(self) -> Explanation | None:
        """Of the whole answer; None until the stream has ended."""
        return self._streamer.explanation

    @property
    def running(self) -> bool:
        """Whether the model still writes."""
        return self._thread.is_alive()

    def __iter__(self) -> Iterator[StreamedToken]:
        return self

    def __next__(self) -> StreamedToken:
        if self._end.alive:
            item = self._tokens.get()
            if isinstance(item, StreamedToken):
                return item
            self._end()
            if item is not None:
                raise item
        raise StopIteration

    def __aiter__(self) -> AsyncIterator[StreamedToken]:
        return self

    async def __anext__(self) -> StreamedToken:
        item = await asyncio.to_thread(next, self, None)
        if item is None:
            raise StopAsyncIteration
        return item

    def close(self) -> None:
        """Stop writing, and wait until the model is as it was.

        Raises:
            Exception: what went wrong and was not yet raised.
        """
        if not self._end.alive:
            return
        self._end()
        while not self._tokens.empty():
            item = self._tokens.get()
            if isinstance(item, BaseException):
                raise item

    async def aclose(self) -> None:
        """`close`, without blocking the event loop."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> AnswerStream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def __aenter__(self) -> AnswerStream:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()


class _StoppableStreamer(BaseStreamer):
    """Hands on what `generate` writes until nobody wants it."""

    def __init__(self, streamer: ExplainingStreamer, closed: threading.Event) -> None:
        self.streamer, self.closed = streamer, closed

    def put(self, value: Tensor) -> None:
        if self.closed.is_set():
            raise _Stopped
        self.streamer.put(value)

    def end(self) -> None:
        self.streamer.end()


def _write(streamer: ExplainingStreamer, tokens: _Queue, closed: threading.Event) -> None:
    """The thread of a stream."""
    streamer.on_token = tokens.put
    decoder = streamer.engine.decoder
    try:
        with evaluating(decoder.model), streamer:
            stoppable, length = _StoppableStreamer(streamer, closed), streamer.options.max_new_tokens
            tokenizer = streamer.engine.tokenizer
            write(decoder, streamer.encoded.inputs, length, stoppable, streamer.cache, tokenizer)
    except _Stopped:
        pass
    except BaseException as error:  # handed over, to be raised where the stream is read
        tokens.put(error)
    finally:
        tokens.put(None)


def _end(closed: threading.Event, thread: threading.Thread) -> None:
    closed.set()
    thread.join()
