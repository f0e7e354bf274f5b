"""Maps while the answer is being written: tokens are explained in blocks behind generation, over its own cache."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from .aggregate import Accumulator, joined
from .answer_pass import Prefill, new_cache, prompt_call, sharing
from .errors import InputError
from .explanation import Explanation, Floats, Maps
from .generation import end_ids, write
from .model_state import evaluating, main_device
from .options import Options
from .request import Request

if TYPE_CHECKING:
    from .explainer import Explainer


@dataclass(frozen=True)
class StreamedToken:
    """One explained token of an answer that is still being written.

    Attributes:
        index: its place in the answer, from 0.
        token, token_id: its piece of the text; its id.
        token_map: ``(h, w)`` in [0, 1]; of several images a tuple, one per image.
        token_weight: delta of Eq. 6.
        image_scores, text_scores: ``(L, H)``.
    """

    index: int
    token: str
    token_id: int
    token_map: Maps
    token_weight: float
    image_scores: Floats
    text_scores: Floats


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
        explainer: Explainer,
        inputs: Mapping[str, Tensor],
        options: Options,
        on_token: Callable[[StreamedToken], None],
        *,
        block: int,
        images: Sequence[Image.Image] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        if explainer.family.rows != "cached":
            raise InputError(
                f"stream: answers of the family {explainer.family.name!r} do not run over a cache, and are explained "
                "as a whole. Use explain()."
            )
        if block < 1:
            raise InputError(f"block: expected at least 1 token; got {block}")
        self.explainer, self.inputs, self.options, self.on_token = explainer, inputs, options, on_token
        self.block, self.images = block, images
        self.settings = {"prompt": None, "generated": True, **(settings or {}), "cache": "reused", "block": block}
        self.cache = new_cache()
        self.explanation: Explanation | None = None
        self._ids: list[int] = []
        self._parts: list[Accumulator] = []
        self._request: Request | None = None
        self._prompt_was_put = False
        self._stack = ExitStack()
        self._seen: dict[str, Any] = {}

    def __enter__(self) -> ExplainingStreamer:
        self._seen = self._stack.enter_context(prompt_call(self.explainer.decoder))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def put(self, value: Tensor) -> None:
        """Called by `generate`, with the prompt's ids first and then with each token."""
        if not self._prompt_was_put:
            self._prompt_was_put = True
            return
        token = int(value.reshape(-1)[0])
        if token in end_ids(self.explainer.decoder):
            return
        self._ids.append(token)
        if len(self._ids) - self._n_explained == self.block:
            self._explain()

    def end(self) -> None:
        """Called by `generate` when the answer is complete."""
        if len(self._ids) > self._n_explained:
            self._explain()
        if self._request is not None:
            settings = {**self.settings, "max_new_tokens": self.settings.get("max_new_tokens")}
            self.explanation = self.explainer.result(
                self._request, joined(self._parts), self.options, self.images, settings
            )

    @property
    def _n_explained(self) -> int:
        return self._parts[-1].rows.stop if self._parts else 0

    def _explain(self) -> None:
        """The tokens since the last block."""
        explainer, rows = self.explainer, slice(self._n_explained, len(self._ids))
        ids = torch.tensor(self._ids, device=main_device(explainer.model))
        with evaluating(explainer.model):
            self._request, sums = explainer.run(
                self.inputs,
                ids,
                self.options,
                image_sizes=None if self.images is None else [image.size for image in self.images],
                ran=Prefill(self.inputs, sharing(self.cache), self._seen["inputs_embeds"], self._seen),
                rows=rows,
            )
            self._parts.append(sums)
            of_block = explainer.result(self._request, sums, self.options, self.images, self.settings)
        for i, index in enumerate(range(rows.start, rows.stop)):
            maps = of_block.token_maps
            self.on_token(
                StreamedToken(
                    index=index,
                    token=of_block.tokens[i],
                    token_id=self._ids[index],
                    token_map=tuple(one[i] for one in maps) if isinstance(maps, tuple) else maps[i],
                    token_weight=float(of_block.token_weights[i]),
                    image_scores=of_block.image_scores[i],
                    text_scores=of_block.text_scores[i],
                )
            )


class _Stopped(Exception):
    """Nobody wants the rest of the answer."""


class AnswerStream:
    """Tokens with their maps, as the model writes them: an iterator, and an asynchronous one.

    The model runs in a thread of its own, which ends with the answer or with `close`. What goes wrong there is raised
    here.

    Attributes:
        explanation: of the whole answer; None until the stream has ended.
    """

    def __init__(self, streamer: ExplainingStreamer, max_new_tokens: int) -> None:
        self._streamer = streamer
        self._tokens: queue.Queue[StreamedToken | BaseException | None] = queue.Queue()
        self._closed = threading.Event()
        streamer.on_token = self._pass_on
        self._thread = threading.Thread(target=self._write, args=(max_new_tokens,), daemon=True)
        self._thread.start()

    @property
    def explanation(self) -> Explanation | None:
        return self._streamer.explanation

    def __iter__(self) -> Iterator[StreamedToken]:
        return self

    def __next__(self) -> StreamedToken:
        item = None if self._closed.is_set() else self._tokens.get()
        if isinstance(item, StreamedToken):
            return item
        self.close()
        if item is None:
            raise StopIteration
        raise item

    def __aiter__(self) -> AsyncIterator[StreamedToken]:
        return self

    async def __anext__(self) -> StreamedToken:
        item = await asyncio.to_thread(next, self, None)
        if item is None:
            raise StopAsyncIteration
        return item

    def close(self) -> None:
        """Stop writing; waits until the model is as it was."""
        self._closed.set()
        self._thread.join()

    def __enter__(self) -> AnswerStream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _pass_on(self, token: StreamedToken) -> None:
        if self._closed.is_set():
            raise _Stopped
        self._tokens.put(token)

    def _write(self, max_new_tokens: int) -> None:
        streamer = self._streamer
        try:
            with evaluating(streamer.explainer.model), streamer:
                write(streamer.explainer.decoder, streamer.inputs, max_new_tokens, streamer, streamer.cache)
        except _Stopped:
            pass
        except BaseException as error:  # handed over, to be raised where the stream is read
            self._tokens.put(error)
        finally:
            self._tokens.put(None)
