"""One loaded model, and the way from an encoded prompt and answer to an explanation, stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from ..errors import InputError, UnsupportedModelError
from ..inputs.messages import Conversation
from ..inputs.options import AskedOptions, Options, check_options
from ..inputs.prompts import Prompt, PromptEncoder
from ..inputs.targets import Foil, Target
from ..inputs.tokens import token_pieces
from ..interrupts import between_steps
from ..models.decoder import Decoder
from ..models.loading import check_processor, model_and_processor
from ..models.registry import family_of
from ..models.state import evaluating, main_device, offloaded_weights, unwrapped
from ..models.turns import turn_of
from ..ops import check_backend
from ..progress import ProgressCallback, cancelling, report_progress, silent
from ..result.explanation import Explanation
from .aggregate import Accumulator, Aggregate, aggregate
from .assemble import assemble
from .encoded import Encoded
from .generation import generate_answer
from .logit_lens import LogitLens, token_lens
from .mistakes import check_given_answer, check_one_prompt, one_answer
from .pipeline import accumulate_layers
from .prefill import Prefill
from .provenance import provenance
from .request import Request, lay_out, make_request
from .target_rows import TargetRows


class Engine:
    """A model with its processor; `Explainer`, which describes the arguments, is its public face.

    Attributes:
        model, processor, backend: as they were given, the model without its wrappers.
        model_name: for the record.
        family, decoder: what is known of the model.
        checked_layers: indices of the layers that passed the self-check; `checked_in_batches` the same for batches
            without (False) and with padding (True).
    """

    def __init__(
        self, model: PreTrainedModel, processor: ProcessorMixin | None = None, *, backend: str = "auto"
    ) -> None:
        model, processor = model_and_processor(model, processor)
        model = unwrapped(model)
        self.family = family_of(model.config)
        on_meta = [
            f"{path}.{name}"
            for path, module in model.named_modules()
            for name, parameter in module.named_parameters(recurse=False)
            if parameter.is_meta and name not in offloaded_weights(module)
        ]
        if on_meta:
            raise UnsupportedModelError(
                f"model: {len(on_meta)} weights are on the meta device (first: {on_meta[0]}), they have no values. "
                "Load the whole model onto a device."
            )
        if processor is not None:
            check_processor(processor)
        self.model = model
        self.processor = processor
        self.model_name = str(model.config.name_or_path)
        check_backend(backend)  # an unknown name is told now
        self.backend = backend
        self.decoder = Decoder(model, self.family)
        self.checked_layers: set[int] = set()  # passed the self-check
        self.checked_in_batches: dict[bool, set[int]] = {False: set(), True: set()}  # without and with padding

    @property
    def tokenizer(self) -> Any:
        """Of the processor, or None."""
        return getattr(self.processor, "tokenizer", None)

    @property
    def prompt_encoder(self) -> PromptEncoder:
        """Of the processor, as the family asks for it."""
        family = self.family
        return PromptEncoder(
            self.processor, family.prompt_image, family.encode, family.prompt_needed, family.several_images
        )

    def options(self, **asked: Unpack[AskedOptions]) -> Options:
        """The options of one call to this model, checked; keyword arguments of `Explainer.explain`.

        Raises:
            InputError: one of them is not usable.
        """
        return check_options(len(self.decoder.layers), self.decoder.attentions, **asked)

    @contextmanager
    def running(self, progress: bool | ProgressCallback = False) -> Iterator[ProgressCallback]:
        """The model ready for an explanation inside, and as it was after it; gives the callback that tells progress.

        Here every call begins. It waits until other threads have done with the model, and reports the stage "waiting"
        meanwhile. What the caller's own callback raises ends the call at once, whatever it was doing.

        Raises:
            InputError: the call comes from within another one on this model, such as from its progress callback.
        """
        turn = turn_of(self.model)
        if turn.mine and turn.calling:
            raise InputError(
                "progress: this call comes from within another one on the same model (its progress callback, a hook), "
                "which is not done. Note there what you want, and call when that one has returned."
            )
        with between_steps(), report_progress(progress) as report, cancelling(report) as report:
            turn.take(lambda: report("waiting", 0, None))
            try:
                turn.calling = True
                with evaluating(self.model):
                    yield report
            finally:
                turn.calling = False
                turn.release()

    def tensors(
        self, model_inputs: Mapping[str, Tensor], answer_ids: Tensor | NDArray[np.integer[Any]] | Sequence[int]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Model inputs on the model's device, floating point in its dtype, and answer ids ``(T,)`` int64 beside them.

        Raises:
            InputError: not tensors, no `input_ids`, or ids of another form.
        """
        ids = one_answer(answer_ids)
        if not isinstance(model_inputs, Mapping):
            raise InputError(
                "model_inputs: expected what the processor returned, a mapping of names to tensors; got "
                f"{type(model_inputs).__name__}"
            )
        if "input_ids" in self.family.inputs and "input_ids" not in model_inputs:
            raise InputError(f"model_inputs: expected input_ids; got {', '.join(sorted(model_inputs)) or 'nothing'}")
        device, dtype = main_device(self.model), self.model.dtype
        inputs = {}
        for name, value in model_inputs.items():
            if name == "labels":  # some processors add them; they only serve training
                continue
            if not isinstance(value, Tensor):
                raise InputError(
                    f"model_inputs: expected tensors; {name} is {type(value).__name__}. Use return_tensors='pt'."
                )
            inputs[name] = value.to(device, dtype) if value.is_floating_point() else value.to(device)
        return inputs, ids.to(device, torch.int64)

    def given(
        self, model_inputs: Mapping[str, Tensor], answer_ids: Tensor | NDArray[np.integer[Any]] | Sequence[int]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """As `tensors`, of one prompt and an answer that somebody else made; see `mistakes` for what is refused.

        Raises:
            InputError: as for `tensors`; a batch, `generate`'s whole output, or padding.
        """
        inputs, ids = self.tensors(model_inputs, answer_ids)
        check_one_prompt(self.decoder, inputs)
        check_given_answer(self.decoder, inputs, ids, self.tokenizer)
        return inputs, ids

    def encode(
        self,
        images: Sequence[Image.Image],
        prompt: Prompt,
        answer: str | None,
        *,
        max_new_tokens: int = 256,
        image_kwargs: Mapping[str, Any] | None = None,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Model inputs of prompt and images, and the ids ``(T,)`` of the answer, written by the model if None.

        Raises:
            InputError: no processor, or a prompt or answer that cannot be used.
        """
        with self.running() if answer is None else nullcontext():
            inputs, ids, _ = self._encode_or_write(images, prompt, answer, max_new_tokens, image_kwargs, silent)
        return inputs, ids

    def encoded(
        self,
        images: Sequence[Image.Image],
        prompt: Prompt,
        answer: str | None,
        options: Options,
        report: ProgressCallback = silent,
    ) -> Encoded:
        """As `encode`, with all that an explanation needs, and the prompt as it ran if the model wrote the answer."""
        inputs, ids, ran = self._encode_or_write(
            images, prompt, answer, options.max_new_tokens, options.image_kwargs, report
        )
        settings = {**asked_as(prompt), "generated": answer is None, "max_new_tokens": options.max_new_tokens}
        template = self._template(options, images, prompt, inputs)
        return Encoded(inputs, ids, images, template, settings, ran, prompt)

    def _encode_or_write(
        self,
        images: Sequence[Image.Image],
        prompt: Prompt,
        answer: str | None,
        max_new_tokens: int,
        image_kwargs: Mapping[str, Any] | None,
        report: ProgressCallback,
    ) -> tuple[dict[str, Tensor], Tensor, Prefill | None]:
        if self.processor is None:
            raise InputError(
                "processor: expected one to encode image and prompt; this Explainer has none. "
                "Pass Explainer(model, processor), or use explain_ids()."
            )
        encoder = self.prompt_encoder
        given: Tensor | Sequence[int] = [] if answer is None else encoder.encode_answer(answer)
        inputs, ids = self.tensors(encoder.encode(images, prompt, image_kwargs), given)
        encoder.warn_of_unknown(prompt=self.decoder.prompt_ids(inputs), answer=ids)
        if answer is not None:
            return inputs, ids, None
        with evaluating(self.model):
            return inputs, *generate_answer(self.decoder, inputs, max_new_tokens, report, self.tokenizer)

    def _template(
        self, options: Options, images: Sequence[Image.Image], prompt: Prompt, inputs: Mapping[str, Tensor]
    ) -> Tensor | None:
        """``(P,)`` bool, which tokens of the prompt are the template's, if the text set asks for it."""
        if not isinstance(options.text_set, str) or options.text_set != "content_only":
            return None
        ids = self.decoder.prompt_ids(inputs)[0]
        return self.prompt_encoder.template(images, prompt, ids, options.image_kwargs)

    def request(self, encoded: Encoded, options: Options) -> Request:
        """The prompt and answer with their image tokens laid out and their keys sorted.

        Raises:
            InputError: see `lay_out` and `make_request`.
        """
        sizes, settings = encoded.image_sizes, options.image_kwargs
        layout = lay_out(self.decoder, self.processor, encoded.inputs, sizes, options.thumbnail, settings)
        template = encoded.template
        if template is not None:
            template = torch.cat((template, self.prompt_encoder.special(encoded.answer_ids)))
        return make_request(self.decoder, encoded.inputs, encoded.answer_ids, layout, options.text_set, template)

    def run(
        self,
        encoded: Encoded,
        options: Options,
        *,
        report: ProgressCallback = silent,
        adapt: Callable[[Request, LogitLens], tuple[Request, LogitLens]] | None = None,
        rows: slice | None = None,
        targets: TargetRows | None = None,
    ) -> tuple[Request, Accumulator]:
        """Scores and sums of every chosen layer, not yet normalised.

        Args:
            encoded: prompt and answer.
            options: with one of our own methods.
            report: progress callback.
            adapt: changes the request and the lens before the run, for those who reproduce another tool.
            rows: the answer tokens to explain, None for all.
            targets: what is explained of these rows, None for each token.

        Raises:
            InputError, UnsupportedModelError, SelfCheckError, NotFiniteError: as for `Explainer.explain`.
        """
        with evaluating(self.model):
            request = self.request(encoded, options)
            lens = token_lens(self.decoder, encoded.answer_ids)
            if adapt is not None:
                request, lens = adapt(request, lens)
            sums = accumulate_layers(
                self.decoder,
                request,
                options,
                lens,
                backend=self.backend,
                checked=self.checked_layers,
                report=report,
                prompt=encoded.ran,
                rows=rows,
                targets=targets,
            )
        return request, sums

    def result(
        self,
        request: Request,
        sums: Accumulator,
        options: Options,
        encoded: Encoded,
        targets: tuple[Target, ...] | None = None,
        foils: tuple[Foil | None, ...] | None = None,
    ) -> Explanation:
        """The explanation of the rows that were summed up.

        Args:
            request, sums: as `run` returns them.
            options, encoded: those of the run.
            targets: that these rows stand for, None for the tokens themselves.
            foils: of the answer's tokens, if there are any.
        """
        rows = sums.rows if targets is None else slice(None)

        def of(acc: Accumulator) -> Explanation:
            maps = aggregate(acc, request.layout, options.normalization)
            scores = acc.image_scores, acc.text_scores
            return self.explanation(request, maps, scores, rows, options, encoded, targets, foils)

        explanation = of(sums)
        for name, other in sums.beside.items():
            explanation = explanation.with_beside(name, of(other))
        return explanation

    def explanation(
        self,
        request: Request,
        maps: Aggregate,
        scores: tuple[Tensor, Tensor],
        rows: slice,
        options: Options,
        encoded: Encoded,
        targets: tuple[Target, ...] | None = None,
        foils: tuple[Foil | None, ...] | None = None,
    ) -> Explanation:
        """The explanation with maps and scores of any method; `rows` of the answer are its tokens."""
        text_set, ids = options.text_set, request.answer_ids
        return assemble(
            maps,
            scores,
            request.layout,
            tokens=token_pieces(self.tokenizer, ids.tolist())[rows],
            token_ids=ids[rows],
            layers=options.layers,
            images=encoded.images,
            settings={
                **encoded.settings,
                **provenance(self.decoder, self.model_name, self.backend),
                **options.asked,
                "text_set": text_set if isinstance(text_set, str) else request.text_keys.nonzero().flatten().tolist(),
                "prompt_ids": self.decoder.prompt_ids(request.inputs)[0].tolist(),
            },
            targets=targets,
            foils=foils,
        )


def asked_as(prompt: Prompt) -> dict[str, Any]:
    """What a result records of a prompt: its text, and of a chat the messages, pictures left out."""
    if isinstance(prompt, Conversation):
        return {"prompt": prompt.question, "messages": [dict(message) for message in prompt.messages]}
    return {"prompt": prompt}
