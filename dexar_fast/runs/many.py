"""Many requests, batch by batch: the prompts run one after the other, their answers together (`batch_pass`)."""

from __future__ import annotations

import hashlib
import traceback
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count, islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..engine.answer_pass import Prefill, prefill, sharing
from ..engine.assemble import to_numpy
from ..engine.batch_pass import Batch, accumulate_batch, batch_states, runs_in_batches
from ..engine.grounding import blank
from ..engine.logit_lens import token_lens
from ..engine.pipeline import require_finite
from ..engine.request import Request
from ..engine.row_chunk import rows_at_once
from ..engine.teacher_forcing import token_log_probabilities
from ..engine.written_cache import rewritable
from ..errors import DexarFastError, InputError, check_count
from ..inputs.contrast import Contrast, contrasted, find_foils
from ..inputs.images import ImageInput, load_images
from ..inputs.layers import LayerSelection
from ..inputs.methods import METHODS
from ..inputs.options import Options, TextSet
from ..inputs.targets import Foil, TargetSelection
from ..models.state import evaluating
from ..progress import ProgressCallback, report_progress, silent
from ..result.explanation import Explanation, Floats

if TYPE_CHECKING:
    from ..explainer import Explainer


@dataclass(frozen=True)
class ExplainRequest:
    """What `Explainer.explain` takes: image or images, prompt, and answer; None lets the model write it.

    A plain tuple ``(image, prompt)`` or ``(image, prompt, answer)`` means the same.
    """

    image: ImageInput | Sequence[ImageInput]
    prompt: str
    answer: str | None = None


@dataclass(frozen=True, eq=False)
class ExplainIdsRequest:
    """What `Explainer.explain_ids` takes for an answer that was made elsewhere: model inputs and ids.

    The pictures and the prompt as text are only shown.
    """

    model_inputs: Mapping[str, Tensor]
    answer_ids: Tensor | NDArray[np.integer[Any]] | Sequence[int]
    image: ImageInput | Sequence[ImageInput] | None = None
    prompt: str | None = None


Foils = tuple[Foil | None, ...] | None
Result = TypeVar("Result")

AnyRequest = (
    ExplainRequest
    | ExplainIdsRequest
    | tuple[ImageInput | Sequence[ImageInput], str]
    | tuple[ImageInput | Sequence[ImageInput], str, str | None]
)


def explain_many(
    explainer: Explainer,
    requests: Iterable[AnyRequest],
    *,
    batch_size: int = 8,
    return_exceptions: bool = False,
    layers: LayerSelection = None,
    method: str = "dexar",
    normalization: str = "paper",
    text_set: TextSet = "all_non_image",
    unfiltered: bool = False,
    targets: TargetSelection = "tokens",
    contrast: Contrast = None,
    grounding: bool = False,
    thumbnail: str = "blend",
    max_new_tokens: int = 256,
    row_chunk: int | str = "auto",
    progress: bool | ProgressCallback = False,
) -> Iterator[Explanation | Exception]:
    """See `Explainer.explain_many`. Options are checked now, a request when its batch is due."""
    check_count("batch_size", batch_size, "requests")
    if not isinstance(text_set, str):
        raise InputError("text_set: expected a name; got a mask, which is of one prompt and answer. Use explain().")
    options = explainer.check_options(
        layers, method, normalization, text_set, unfiltered, thumbnail, row_chunk, targets, contrast
    )
    batches = _Batches(explainer, options, grounding, max_new_tokens, progress)
    return _in_order(batches, iter(requests), batch_size, return_exceptions)


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
class _Prompt:
    """A prompt with its images, shared by all requests that have the same.

    Attributes:
        inputs: model inputs.
        fingerprint: of text and pixels, where the prompt came as these.
        template: ``(P,)`` bool, for the text set "content_only".
        ran: its cache and what comes with it, as long as they are needed.
    """

    inputs: Mapping[str, Tensor]
    fingerprint: Hashable = None
    template: Tensor | None = None
    ran: Prefill | None = None


@dataclass(eq=False)
class _Sample:
    """A request as the model takes it.

    Attributes:
        number: of the request, from 0.
        prompt: shared with other requests.
        answer_ids: ``(T,)``.
        images: the user's, or None.
        template: ``(P + T,)`` bool, or None.
        settings: what the result is to record.
    """

    number: int
    prompt: _Prompt
    answer_ids: Tensor
    images: list[Image.Image] | None
    template: Tensor | None
    settings: dict[str, Any]


@dataclass
class _Batches:
    """Explains one batch after the other, with the same options."""

    explainer: Explainer
    options: Options
    grounding: bool
    max_new_tokens: int
    progress: bool | ProgressCallback
    prompts: list[_Prompt] = field(default_factory=list)  # of this batch, and the last one of the batch before
    report: ProgressCallback = silent
    warned: bool = False

    def explain(self, requests: Mapping[int, AnyRequest]) -> list[Explanation | Exception]:
        """What each request of one batch gives, in their order.

        Args:
            requests: by number.
        """
        self.explainer.refuse_while_streaming()
        results: dict[int, Explanation | Exception] = {}
        with evaluating(self.explainer.model), report_progress(self.progress) as self.report:
            samples = []
            for number, request in requests.items():
                try:
                    samples.append(self._with_room(partial(self._prepare, number, request)))
                except Exception as error:
                    results[number] = _numbered(error, number)
            while samples:
                group = self._next_group(samples)
                samples = samples[len(group) :]
                results |= self._explain_group(group)
                self._release_all_but([sample.prompt for sample in samples] or self.prompts[-1:])
        self.prompts = self.prompts[-1:]
        return [results[number] for number in requests]

    def _prepare(self, number: int, request: AnyRequest) -> _Sample:
        """Encode a request; the model writes the answer if there is none."""
        explainer = self.explainer
        if isinstance(request, tuple) and len(request) in (2, 3):
            request = ExplainRequest(*request)
        if isinstance(request, ExplainIdsRequest):
            inputs, answer_ids = explainer.tensors(request.model_inputs, request.answer_ids)
            images = None if request.image is None else load_images(request.image)
            settings: dict[str, Any] = {"prompt": request.prompt, "generated": False}
            return _Sample(number, self._met(_Prompt(inputs)), answer_ids, images, None, settings)
        if not isinstance(request, ExplainRequest):
            raise InputError(
                "requests: expected ExplainRequest, ExplainIdsRequest, (image, prompt) or (image, prompt, answer); got "
                + (f"a tuple of {len(request)}" if isinstance(request, tuple) else type(request).__name__)
            )
        images, text, answer = load_images(request.image), request.prompt, request.answer
        fingerprint = (text, *(_fingerprint(image) for image in images))
        prompt = next((known for known in self.prompts if known.fingerprint == fingerprint), None)
        if prompt is None or answer is None:
            inputs, answer_ids, ran = explainer.encode_or_write(images, text, answer, self.max_new_tokens, self.report)
            prompt = prompt or _Prompt(inputs, fingerprint)
            if prompt.ran is None and ran is not None and ran.cache is not None:
                prompt.ran = replace(ran, cache=rewritable(ran.cache))  # other answers may share it
        else:
            _, answer_ids = explainer.tensors(prompt.inputs, explainer.prompt_encoder.encode_answer(answer))
        prompt, template = self._met(prompt), None
        if self.options.text_set == "content_only":
            encoder = explainer.prompt_encoder
            if prompt.template is None:
                prompt.template = encoder.template(images, text, explainer.decoder.prompt_ids(prompt.inputs)[0])
            template = torch.cat((prompt.template, encoder.special(answer_ids)))
        settings = {"prompt": text, "generated": answer is None, "max_new_tokens": self.max_new_tokens}
        return _Sample(number, prompt, answer_ids, images, template, settings)

    def _met(self, prompt: _Prompt) -> _Prompt:
        """The prompt met before that has the same inputs, or else this one; it moves to the end of `prompts`."""
        same = next((known for known in self.prompts if known is prompt or _equal(known, prompt)), prompt)
        self.prompts = [known for known in self.prompts if known is not same] + [same]
        return same

    def _next_group(self, samples: list[_Sample]) -> list[_Sample]:
        """The first samples, as many as run together."""
        decoder = self.explainer.decoder
        if self.options.method not in METHODS or self.options.targets != "tokens":
            return samples[:1]
        if not runs_in_batches(decoder.family):
            return samples[:1]
        most, longest = rows_at_once(decoder, self.options.row_chunk), 0
        for n, sample in enumerate(samples):
            longest = max(longest, len(sample.answer_ids))
            if n and (n + 1) * longest > most:
                return samples[:n]
        return samples

    def _explain_group(self, group: list[_Sample]) -> dict[int, Explanation | Exception]:
        """What each sample gives, by number of the request."""
        if len(group) == 1:
            return self._one_by_one(group)
        try:
            return self._together(group)
        except torch.OutOfMemoryError:
            size = len(group) // 2
            self._warn(f"with {len(group)} requests at once: going on with half as many")
        except Exception as error:
            size = 0
            what = f"{type(error).__name__}: {error}"
            warnings.warn(f"{len(group)} requests failed together, and are explained one by one ({what})", stacklevel=2)
        # Here the error is gone, and with it the tensors of the run.
        if size == 0:
            return self._one_by_one(group)
        self._release_all_but([])
        return self._explain_group(group[:size]) | self._explain_group(group[size:])

    def _one_by_one(self, samples: Sequence[_Sample]) -> dict[int, Explanation | Exception]:
        """As `_explain_group`, one sample after the other."""
        results: dict[int, Explanation | Exception] = {}
        for sample in samples:
            try:
                results[sample.number] = self._with_room(partial(self._alone, sample))
            except Exception as error:
                results[sample.number] = _numbered(error, sample.number)
        return results

    def _alone(self, sample: _Sample) -> Explanation:
        """What `Explainer.explain` makes of a sample."""
        explainer, inputs, ran = self.explainer, sample.prompt.inputs, None
        if self.options.method in METHODS and explainer.family.rows == "cached":
            ran = self._run_prompt(sample)
        explanation = explainer.explain_tensors(
            inputs,
            sample.answer_ids,
            self.options,
            sample.template,
            sample.images,
            self.grounding,
            sample.settings,
            self.report,
            ran and replace(ran, cache=sharing(ran.cache)),
        )
        return replace(explanation, settings=explanation.settings | sample.settings | {"batch": 1})

    def _with_room(self, run: Callable[[], Result]) -> Result:
        """What it returns; where memory ends, once more without the caches that prompts wait with."""
        try:
            return run()
        except torch.OutOfMemoryError:
            if all(prompt.ran is None for prompt in self.prompts):
                raise
        self._warn("beside the caches of a batch's prompts: they go, and their prompts run again")
        self._release_all_but([])
        return run()

    def _warn(self, what: str) -> None:
        """That memory ended, once."""
        if not self.warned:
            message = f"out of memory {what}. Pass a smaller batch_size to begin there."
            warnings.warn(message, stacklevel=3)
        self.warned = True

    def _together(self, samples: Sequence[_Sample]) -> dict[int, Explanation | Exception]:
        """As `_explain_group`, in a common answer pass; who has an error is left out.

        Raises:
            torch.OutOfMemoryError: they do not fit.
            UnsupportedModelError, SelfCheckError: the model does not run in batches as it should.
        """
        explainer, options = self.explainer, self.options
        results: dict[int, Explanation | Exception] = {}
        ready: list[tuple[_Sample, Request, Prefill, Foils]] = []
        for sample in samples:
            sizes = None if sample.images is None else [image.size for image in sample.images]
            try:
                inputs = sample.prompt.inputs
                request = explainer.request(inputs, sample.answer_ids, options, sample.template, sizes)
                foils = find_foils(options.contrast, explainer.decoder, explainer.tokenizer, sample.answer_ids.tolist())
                ready.append((sample, request, self._run_prompt(sample), foils))
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                results[sample.number] = _numbered(error, sample.number)
        if len(ready) < 2:
            return results | self._one_by_one([sample for sample, *_ in ready])
        # The self-check looks at the last one: that has most padding.
        ready.sort(key=lambda of_one: of_one[1].prompt_length, reverse=True)
        together, requests, prompts, foils_of = zip(*ready)
        batch = Batch(explainer.decoder, requests, prompts)
        if not batch.fits_together:
            return results | self._one_by_one(together)
        lens = token_lens(batch.decoder, batch.answer_ids)
        if options.contrast is not None:
            lens = contrasted(lens, [foil for foils in foils_of for foil in foils])
        parts, states = accumulate_batch(
            batch, options, lens, backend=explainer.backend, checked=explainer.checked_in_batches, report=self.report
        )
        log_p = _log_probabilities(batch, states) if self.grounding else [None] * len(ready)
        for sample, request, foils, part, of_answer in zip(together, requests, foils_of, parts, log_p):
            try:
                require_finite(part, options.layers, sample.answer_ids)
                settings = sample.settings | {"batch": len(ready)}
                explanation = explainer.result(request, part, options, sample.images, settings, foils=foils)
                results[sample.number] = replace(explanation, log_probabilities=of_answer)
            except Exception as error:
                results[sample.number] = _numbered(error, sample.number)
        return results

    def _run_prompt(self, sample: _Sample) -> Prefill:
        """The sample's prompt, run now if it was not; the sample notes which."""
        prompt = sample.prompt
        if prompt.ran is None:
            prompt.ran = prefill(self.explainer.decoder, prompt.inputs)
            sample.settings["cache"] = "new"
        sample.settings.setdefault("cache", "reused")
        return prompt.ran

    def _release_all_but(self, needed: Sequence[_Prompt]) -> None:
        """Let the caches of all other prompts go."""
        for prompt in self.prompts:
            if prompt not in needed:
                prompt.ran = None


def _log_probabilities(batch: Batch, states: Tensor) -> list[Floats]:
    """``(T, 2)`` per request, as `grounding.log_probabilities`; the first run is that of the batch."""
    decoder = batch.decoder
    blanks = {id(prompt): prefill(decoder, blank(prompt.inputs)) for prompt in batch.prompts}
    without = batch_states(replace(batch, prompts=[blanks[id(prompt)] for prompt in batch.prompts]))
    both = torch.stack([token_log_probabilities(decoder, each, batch.answer_ids)[0] for each in (states, without)], 1)
    return [to_numpy(of_answer) for of_answer in both.split(batch.answer_rows.counts)]


def _fingerprint(image: Image.Image) -> Hashable:
    return image.size, hashlib.blake2b(image.tobytes()).digest()


def _equal(one: _Prompt, other: _Prompt) -> bool:
    """Whether two prompts have the same model inputs."""
    return one.inputs.keys() == other.inputs.keys() and all(
        torch.equal(value, other.inputs[name]) for name, value in one.inputs.items()
    )


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
