"""Many requests, batch by batch: the prompts run one after the other, their answers together (`batch_pass`)."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count, islice
from typing import Any, TypeVar, Unpack

import torch
from torch import Tensor

from ..engine.assemble import to_numpy
from ..engine.batch_pass import Batch, accumulate_batch, batch_states, runs_in_batches
from ..engine.encoded import Encoded
from ..engine.engine import Engine, asked_as
from ..engine.grounding import blank
from ..engine.logit_lens import contrasted, token_lens
from ..engine.pipeline import require_finite
from ..engine.prefill import Prefill, prefill, sharing
from ..engine.request import Request
from ..engine.row_chunk import rows_at_once
from ..engine.teacher_forcing import token_log_probabilities
from ..engine.written_cache import rewritable
from ..errors import DexarFastError, InputError, check_count
from ..inputs.contrast import find_foils
from ..inputs.options import AskedOptions, Options
from ..inputs.question import read_question
from ..inputs.targets import Foil
from ..inputs.tokens import printable
from ..progress import ProgressCallback, silent
from ..result.explanation import Explanation, Floats
from .requests import AnyRequest, ExplainIdsRequest, ExplainRequest
from .shared_prompts import SharedPrompt, SharedPrompts, fingerprint
from .single import explain_encoded

Foils = tuple[Foil | None, ...] | None
Result = TypeVar("Result")


def explain_many(
    engine: Engine,
    requests: Iterable[AnyRequest],
    *,
    batch_size: int = 8,
    return_exceptions: bool = False,
    progress: bool | ProgressCallback = False,
    **asked: Unpack[AskedOptions],
) -> Iterator[Explanation | Exception]:
    """See `Explainer.explain_many`. Options are checked now, a request when its batch is due."""
    check_count("batch_size", batch_size, "requests")
    options = engine.options(**asked)
    if not isinstance(options.text_set, str):
        raise InputError("text_set: expected a name; got a mask, which is of one prompt and answer. Use explain().")
    return _in_order(_Batches(engine, options, progress), iter(requests), batch_size, return_exceptions)


def _in_order(
    batches: _Batches, requests: Iterator[AnyRequest], batch_size: int, return_exceptions: bool
) -> Iterator[Explanation | Exception]:
    """The results of one batch after the other. While the caller has the turn, the model is as it was."""
    numbers = count()
    while batch := list(islice(requests, batch_size)):
        for result in batches.explain({number: request for request, number in zip(batch, numbers)}):
            if isinstance(result, Exception) and not return_exceptions:
                raise result
            yield result


@dataclass(eq=False)
class _Queued:
    """A request as the model takes it.

    Attributes:
        number: of the request, from 0.
        prompt: shared with other requests.
        encoded: the request; `ran` is left to the prompt.
        options: those of the call, with the request's own settings of the processor.
    """

    number: int
    prompt: SharedPrompt
    encoded: Encoded
    options: Options

    def note(self, **settings: Any) -> None:
        """Record what the request's result is to tell besides."""
        self.encoded = replace(self.encoded, settings={**self.encoded.settings, **settings})


@dataclass
class _Batches:
    """Explains one batch after the other, with the same options."""

    engine: Engine
    options: Options
    progress: bool | ProgressCallback
    prompts: SharedPrompts = field(default_factory=SharedPrompts)
    report: ProgressCallback = silent
    warned: bool = False

    def explain(self, requests: Mapping[int, AnyRequest]) -> list[Explanation | Exception]:
        """What each request of one batch gives, in their order.

        Args:
            requests: by number.
        """
        results: dict[int, Explanation | Exception] = {}
        with self.engine.running(self.progress) as self.report:
            queue = []
            for number, request in requests.items():
                try:
                    queue.append(self._with_room(partial(self._prepare, number, request)))
                except Exception as error:
                    results[number] = _numbered(error, number)
            while queue:
                group = self._next_group(queue)
                queue = queue[len(group) :]
                results |= self._explain_group(group)
                self.prompts.release_all_but([queued.prompt for queued in queue] or self.prompts.known[-1:])
        self.prompts.keep_last()
        return [results[number] for number in requests]

    def _prepare(self, number: int, request: AnyRequest) -> _Queued:
        """Encode a request; the model writes the answer if there is none."""
        engine = self.engine
        if isinstance(request, tuple) and len(request) in (2, 3):
            request = ExplainRequest(*request)
        if isinstance(request, ExplainIdsRequest):
            inputs, answer_ids = engine.given(request.model_inputs, request.answer_ids)
            options = self._options_of(request.processor_kwargs)
            images = None if request.image is None else options.pictures(request.image, turn=False)
            settings: dict[str, Any] = {"prompt": request.prompt, "generated": False}
            prompt = self.prompts.met(SharedPrompt(inputs))
            encoded = Encoded(prompt.inputs, answer_ids, images, settings=settings, prompt=request.prompt)
            return _Queued(number, prompt, encoded, options)
        if not isinstance(request, ExplainRequest):
            raise InputError(
                "requests: expected ExplainRequest, ExplainIdsRequest, (image, prompt) or (image, prompt, answer); got "
                + (f"a tuple of {len(request)}" if isinstance(request, tuple) else type(request).__name__)
            )
        images, text = read_question(self.options, request.image, request.prompt, request.messages)
        answer = request.answer
        pixels = fingerprint(text, images)
        known = self.prompts.with_fingerprint(pixels)
        if known is None or answer is None:
            encoded = engine.encoded(images, text, answer, self.options, self.report)
            prompt = known or SharedPrompt(encoded.inputs, pixels)
            if prompt.ran is None and encoded.ran is not None and encoded.ran.cache is not None:
                prompt.ran = replace(encoded.ran, cache=rewritable(encoded.ran.cache))  # other answers may share it
            prompt.template, encoded = encoded.template, replace(encoded, ran=None)
        else:
            prompt = known
            _, answer_ids = engine.tensors(prompt.inputs, engine.prompt_encoder.encode_answer(answer))
            settings = {**asked_as(text), "generated": False, "max_new_tokens": self.options.max_new_tokens}
            encoded = Encoded(prompt.inputs, answer_ids, images, prompt.template, settings, prompt=text)
        return _Queued(number, self.prompts.met(prompt), encoded, self.options)

    def _options_of(self, processor_kwargs: Mapping[str, Any] | None) -> Options:
        """The options, with what the processor of one request was called with."""
        return self.options if processor_kwargs is None else replace(self.options, image_kwargs=dict(processor_kwargs))

    def _next_group(self, queue: list[_Queued]) -> list[_Queued]:
        """The first requests, as many as run together."""
        decoder = self.engine.decoder
        if not self.options.our_own or self.options.targets != "tokens" or self.options.only is not None:
            return queue[:1]
        if not runs_in_batches(decoder.family):
            return queue[:1]
        most, longest = rows_at_once(decoder, self.options.row_chunk), 0
        for n, queued in enumerate(queue):
            longest = max(longest, len(queued.encoded.answer_ids))
            if n and (n + 1) * longest > most:
                return queue[:n]
        return queue

    def _explain_group(self, group: Sequence[_Queued]) -> dict[int, Explanation | Exception]:
        """What each request gives, by its number."""
        if len(group) == 1:
            return self._one_by_one(group)
        try:
            return self._together(group)
        except torch.OutOfMemoryError:
            size = len(group) // 2
            self._warn(f"with {len(group)} requests at once: going on with half as many")
        except Exception as error:
            size = 0
            what = printable(f"{type(error).__name__}: {error}")
            warnings.warn(f"{len(group)} requests failed together, and are explained one by one ({what})", stacklevel=2)
        # Here the error is gone, and with it the tensors of the run.
        if size == 0:
            return self._one_by_one(group)
        self.prompts.release_all_but([])
        return self._explain_group(group[:size]) | self._explain_group(group[size:])

    def _one_by_one(self, group: Sequence[_Queued]) -> dict[int, Explanation | Exception]:
        """As `_explain_group`, one request after the other."""
        results: dict[int, Explanation | Exception] = {}
        for queued in group:
            try:
                results[queued.number] = self._with_room(partial(self._alone, queued))
            except Exception as error:
                results[queued.number] = _numbered(error, queued.number)
        return results

    def _alone(self, queued: _Queued) -> Explanation:
        """What `Explainer.explain` makes of a request."""
        ran = None
        if self.options.our_own and self.engine.family.rows == "cached":
            ran = self._run_prompt(queued)
            ran = replace(ran, cache=ran.cache and sharing(ran.cache))
        explanation = explain_encoded(self.engine, replace(queued.encoded, ran=ran), queued.options, self.report)
        return replace(explanation, settings={**explanation.settings, **queued.encoded.settings, "batch": 1})

    def _with_room(self, run: Callable[[], Result]) -> Result:
        """What it returns; where memory ends, once more without the caches that prompts wait with."""
        try:
            return run()
        except torch.OutOfMemoryError:
            if not self.prompts.hold_memory:
                raise
        self._warn("beside the caches of a batch's prompts: they go, and their prompts run again")
        self.prompts.release_all_but([])
        return run()

    def _warn(self, what: str) -> None:
        """That memory ended, once."""
        if not self.warned:
            message = f"out of memory {what}. Pass a smaller batch_size to begin there."
            warnings.warn(message, stacklevel=3)
        self.warned = True

    def _together(self, group: Sequence[_Queued]) -> dict[int, Explanation | Exception]:
        """As `_explain_group`, in a common answer pass; who has an error is left out.

        Raises:
            torch.OutOfMemoryError: they do not fit.
            UnsupportedModelError, SelfCheckError: the model does not run in batches as it should.
        """
        engine, options = self.engine, self.options
        results: dict[int, Explanation | Exception] = {}
        ready: list[tuple[_Queued, Request, Prefill, Foils]] = []
        for queued in group:
            try:
                request = engine.request(queued.encoded, queued.options)
                ids = request.answer_ids.tolist()
                foils = find_foils(options.contrast, engine.decoder, engine.tokenizer, ids)
                ready.append((queued, request, self._run_prompt(queued), foils))
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                results[queued.number] = _numbered(error, queued.number)
        if len(ready) < 2:
            return results | self._one_by_one([queued for queued, *_ in ready])
        # The self-check looks at the last one: that has most padding.
        ready.sort(key=lambda of_one: of_one[1].prompt_length, reverse=True)
        together, requests, prompts, foils_of = zip(*ready)
        batch = Batch(engine.decoder, requests, prompts)
        if not batch.fits_together:
            return results | self._one_by_one(together)
        lens = token_lens(batch.decoder, batch.answer_ids)
        if options.contrast is not None:
            lens = contrasted(lens, [foil for foils in foils_of for foil in foils])
        parts, states = accumulate_batch(
            batch, options, lens, backend=engine.backend, checked=engine.checked_in_batches, report=self.report
        )
        log_p = _log_probabilities(batch, states) if options.grounding else [None] * len(ready)
        for queued, request, foils, part, of_answer in zip(together, requests, foils_of, parts, log_p):
            try:
                require_finite(part, options.layers, request.answer_ids)
                queued.note(batch=len(ready))
                explanation = engine.result(request, part, queued.options, queued.encoded, foils=foils)
                results[queued.number] = replace(explanation, log_probabilities=of_answer)
            except Exception as error:
                results[queued.number] = _numbered(error, queued.number)
        return results

    def _run_prompt(self, queued: _Queued) -> Prefill:
        """The request's prompt, run now if it was not; the request notes which."""
        prompt, cache = queued.prompt, "reused"
        if prompt.ran is None:
            prompt.ran, cache = prefill(self.engine.decoder, prompt.inputs), "new"
        if "cache" not in queued.encoded.settings or cache == "new":
            queued.note(cache=cache)
        return prompt.ran


def _log_probabilities(batch: Batch, states: Tensor) -> list[Floats]:
    """``(T, 2)`` per request, as `grounding.log_probabilities`; the first run is that of the batch."""
    decoder = batch.decoder
    blanks = {id(prompt): prefill(decoder, blank(prompt.inputs)) for prompt in batch.prompts}
    without = batch_states(replace(batch, prompts=[blanks[id(prompt)] for prompt in batch.prompts]))
    both = torch.stack([token_log_probabilities(decoder, each, batch.answer_ids)[0] for each in (states, without)], 1)
    return [to_numpy(of_answer) for of_answer in both.split(batch.answer_rows.counts)]


def _numbered(error: Exception, number: int) -> Exception:
    """The error, just caught, with the number of its request.

    It lets go of what the functions held that it went through: who collects errors must not collect caches.
    """
    assert error.__traceback__ is not None
    error.__traceback__ = error.__traceback__.tb_next  # without the function that caught it, which still runs
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__
    if isinstance(error, DexarFastError):
        numbered = type(error)(f"request {number}: {error}")
        numbered.__cause__ = error
        return numbered
    error.add_note(f"This is about request {number}.")
    return error
