"""One loaded model, and the way from an encoded prompt and answer to an explanation, stage by stage."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from .. import __version__
from ..errors import InputError, UnsupportedModelError
from ..inputs.contrast import Contrast, contrasted, find_foils
from ..inputs.layers import LayerSelection
from ..inputs.methods import METHODS
from ..inputs.options import Options, TextSet, check_options
from ..inputs.prompts import PromptEncoder
from ..inputs.targets import Foil, Target, TargetSelection, find_targets
from ..inputs.tokens import token_pieces
from ..models.decoder import Decoder
from ..models.loading import check_processor
from ..models.registry import family_of
from ..models.state import evaluating, main_device, offloaded_weights, unwrapped
from ..ops import check_backend, resolve_backend
from ..progress import ProgressCallback, silent
from ..result.explanation import Explanation
from .aggregate import Accumulator, Aggregate, aggregate, aggregate_plain
from .answer_pass import Prefill
from .assemble import assemble, to_numpy
from .generation import generate_answer
from .grounding import log_probabilities
from .logit_lens import LogitLens, token_lens
from .pipeline import accumulate_layers
from .request import Request, check_answer, lay_out, make_request
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

    def check_options(
        self,
        layers: LayerSelection,
        method: str,
        normalization: str,
        text_set: TextSet,
        unfiltered: bool,
        thumbnail: str = "blend",
        row_chunk: int | str = "auto",
        targets: TargetSelection = "tokens",
        contrast: Contrast = None,
    ) -> Options:
        """The options of one call to this model, checked.

        Raises:
            InputError: one of them is not usable.
        """
        return check_options(
            layers,
            method,
            normalization,
            text_set,
            unfiltered,
            len(self.decoder.layers),
            with_attention=self.decoder.attentions,
            thumbnail=thumbnail,
            row_chunk=row_chunk,
            targets=targets,
            contrast=contrast,
        )

    def tensors(
        self, model_inputs: Mapping[str, Tensor], answer_ids: Tensor | NDArray[np.integer[Any]] | Sequence[int]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Model inputs on the model's device, floating point in its dtype, and answer ids ``(T,)`` int64 beside them.

        Raises:
            InputError: not tensors, no `input_ids`, or ids of another form.
        """
        ids = torch.as_tensor(answer_ids)
        if ids.ndim == 2 and len(ids) == 1:
            ids = ids[0]
        if ids.ndim != 1 or (len(ids) and (ids.is_floating_point() or ids.dtype == torch.bool)):
            raise InputError(f"answer_ids: expected integers (T,) or (1, T); got {ids.dtype} {tuple(ids.shape)}")
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

    def encode(
        self,
        images: Sequence[Image.Image],
        prompt: str,
        answer: str | None,
        *,
        max_new_tokens: int = 256,
        report: ProgressCallback = silent,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Model inputs of prompt and images, and the ids ``(T,)`` of the answer, written by the model if None.

        Raises:
            InputError: no processor, or a prompt or answer that cannot be used.
        """
        inputs, ids, _ = self.encode_or_write(images, prompt, answer, max_new_tokens, report)
        return inputs, ids

    def encode_or_write(
        self,
        images: Sequence[Image.Image],
        prompt: str,
        answer: str | None,
        max_new_tokens: int,
        report: ProgressCallback,
    ) -> tuple[dict[str, Tensor], Tensor, Prefill | None]:
        """As `encode`; and the prompt as it ran while the model wrote the answer."""
        if self.processor is None:
            raise InputError(
                "processor: expected one to encode image and prompt; this Explainer has none. "
                "Pass Explainer(model, processor), or use explain_ids()."
            )
        encoder = self.prompt_encoder
        given = encoder.encode_answer(answer) if answer is not None else torch.empty(0, dtype=torch.int64)
        inputs, ids = self.tensors(encoder.encode(images, prompt), given)
        if answer is not None:
            return inputs, ids, None
        with evaluating(self.model):
            return inputs, *generate_answer(self.decoder, inputs, max_new_tokens, report)

    def template(
        self,
        options: Options,
        inputs: Mapping[str, Tensor],
        images: Sequence[Image.Image],
        prompt: str,
        answer_ids: Tensor,
    ) -> Tensor | None:
        """``(P + T,)`` bool, which tokens are the template's, if the text set asks for it."""
        if not isinstance(options.text_set, str) or options.text_set != "content_only":
            return None
        of_prompt = self.prompt_encoder.template(images, prompt, self.decoder.prompt_ids(inputs)[0])
        return torch.cat((of_prompt, self.prompt_encoder.special(answer_ids)))

    def request(
        self,
        inputs: Mapping[str, Tensor],
        answer_ids: Tensor,
        options: Options,
        template: Tensor | None,
        image_sizes: Sequence[tuple[int, int]] | None,
    ) -> Request:
        """The prompt and answer with their image tokens laid out and their keys sorted; arguments as for `run`.

        Raises:
            InputError: see `lay_out` and `make_request`.
        """
        layout = lay_out(self.decoder, self.processor, inputs, image_sizes, options.thumbnail)
        return make_request(self.decoder, inputs, answer_ids, layout, options.text_set, template)

    def run(
        self,
        inputs: Mapping[str, Tensor],
        answer_ids: Tensor,
        options: Options,
        *,
        template: Tensor | None = None,
        image_sizes: Sequence[tuple[int, int]] | None = None,
        report: ProgressCallback = silent,
        adapt: Callable[[Request, LogitLens], tuple[Request, LogitLens]] | None = None,
        ran: Prefill | None = None,
        rows: slice | None = None,
        targets: TargetRows | None = None,
    ) -> tuple[Request, Accumulator]:
        """The engine alone: scores and sums of every chosen layer, not yet normalised.

        Args:
            inputs, answer_ids: as `tensors` or `encode` return them.
            options: as `check_options` returns them.
            template: ``(P + T,)`` bool, which tokens are the template's; the text set "content_only" needs it.
            image_sizes: ``(width, height)`` of the user's images in pixels.
            report: progress callback.
            adapt: changes the request and the lens before the run, for those who reproduce another tool.
            ran: the prompt, if it ran already.
            rows: the answer tokens to explain, None for all.
            targets: what is explained of these rows, None for each token.

        Raises:
            InputError, UnsupportedModelError, SelfCheckError, NotFiniteError: as for `explain`.
        """
        with evaluating(self.model):
            request = self.request(inputs, answer_ids, options, template, image_sizes)
            lens = token_lens(self.decoder, answer_ids)
            if adapt is not None:
                request, lens = adapt(request, lens)
            sums = accumulate_layers(
                self.decoder,
                request,
                options.layers,
                lens,
                method=options.method,
                unfiltered=options.unfiltered,
                backend=self.backend,
                checked=self.checked_layers,
                report=report,
                row_chunk=options.row_chunk,
                prompt=ran,
                rows=rows,
                targets=targets,
            )
        return request, sums

    def explain_tensors(
        self,
        inputs: Mapping[str, Tensor],
        answer_ids: Tensor,
        options: Options,
        template: Tensor | None,
        images: Sequence[Image.Image] | None,
        grounding: bool,
        settings: dict[str, Any],
        report: ProgressCallback,
        ran: Prefill | None,
    ) -> Explanation:
        """The explanation of one encoded prompt and answer, by any method.

        Args:
            inputs, answer_ids, options, template, report, ran: as for `run`.
            images: the user's, or None.
            grounding: as for `Explainer.explain`.
            settings: what else the result is to record, the prompt as text among it.

        Raises:
            InputError, UnsupportedModelError, SelfCheckError, NotFiniteError: as for `Explainer.explain`.
        """
        image_sizes = None if images is None else [image.size for image in images]
        check_answer(self.decoder, answer_ids)
        ids = answer_ids.tolist()
        targets = find_targets(options.targets, token_pieces(self.tokenizer, ids))
        foils = find_foils(options.contrast, self.decoder, self.tokenizer, ids)
        if options.method in METHODS:
            request, sums = self.run(
                inputs,
                answer_ids,
                options,
                template=template,
                image_sizes=image_sizes,
                report=report,
                adapt=None if foils is None else lambda request, lens: (request, contrasted(lens, foils)),
                ran=ran,
                targets=None if targets is None else TargetRows(tuple((t.start, t.stop) for t in targets)),
            )
            cache = "none" if self.family.rows != "cached" else "new" if ran is None else "reused"
            explanation = self.result(request, sums, options, images, {**settings, "cache": cache}, targets, foils)
        else:
            request = self.request(inputs, answer_ids, options, template, image_sizes)
            explanation = self._compare(request, options, images, settings)
        if grounding:
            log_p = log_probabilities(self.decoder, inputs, answer_ids)
            explanation = replace(explanation, log_probabilities=to_numpy(log_p))
        return explanation

    def _compare(
        self, request: Request, options: Options, images: Sequence[Image.Image] | None, settings: Mapping[str, Any]
    ) -> Explanation:
        """The explanation by a method that is not ours."""
        from ..methods.comparisons import relevance  # imported by those who compare
        from ..methods.subject import Subject

        found = relevance(options.method, Subject(self, request, options.layers, images, settings["prompt"]))
        none = found.new_zeros(len(found), len(options.layers), 1)
        maps = aggregate_plain(found, options.normalization)
        return self._result(request, maps, (none, none), slice(None), options, images, settings)

    def result(
        self,
        request: Request,
        sums: Accumulator,
        options: Options,
        images: Sequence[Image.Image] | None,
        settings: Mapping[str, Any],
        targets: tuple[Target, ...] | None = None,
        foils: tuple[Foil | None, ...] | None = None,
    ) -> Explanation:
        """The explanation of the rows that were summed up.

        Args:
            request, sums: as `run` returns them.
            options: those of the run.
            images: the user's, or None.
            settings: what else the result is to record.
            targets: that these rows stand for, None for the tokens themselves.
            foils: of the answer's tokens, if there are any.
        """
        maps = aggregate(sums, request.layout, options.normalization)
        scores = sums.image_scores, sums.text_scores
        tokens = sums.rows if targets is None else slice(None)
        return self._result(request, maps, scores, tokens, options, images, settings, targets, foils)

    def _result(
        self,
        request: Request,
        maps: Aggregate,
        scores: tuple[Tensor, Tensor],
        rows: slice,
        options: Options,
        images: Sequence[Image.Image] | None,
        settings: Mapping[str, Any],
        targets: tuple[Target, ...] | None = None,
        foils: tuple[Foil | None, ...] | None = None,
    ) -> Explanation:
        text_set, ids = options.text_set, request.answer_ids
        pieces = token_pieces(self.tokenizer, ids.tolist())
        return assemble(
            maps,
            scores,
            request.layout,
            tokens=pieces[rows],
            token_ids=ids[rows],
            layers=options.layers,
            images=images,
            settings={
                **settings,
                **self._provenance(),
                "layers": list(options.layers),
                "method": options.method,
                "normalization": options.normalization,
                "text_set": text_set if isinstance(text_set, str) else request.text_keys.nonzero().flatten().tolist(),
                **options.asked,
                "unfiltered": options.unfiltered,
                "thumbnail": options.thumbnail,
                "row_chunk": options.row_chunk,
                "prompt_ids": self.decoder.prompt_ids(request.inputs)[0].tolist(),
            },
            targets=targets,
            foils=foils,
        )

    def _provenance(self) -> dict[str, Any]:
        device = main_device(self.model)
        return {
            "model": self.model_name,
            "revision": getattr(self.model.config, "_commit_hash", None),
            "model_class": type(self.model).__name__,
            "family": self.family.name,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": str(device),
            "attention": self.decoder.attention_implementation,
            "gradient_path": self.family.gradient_path,
            "backend": resolve_backend(self.backend, device, self.model.dtype),
            "versions": {
                "python": platform.python_version(),
                "dexar_fast": __version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
        }
