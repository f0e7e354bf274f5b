"""The public face: everything that can be asked of a loaded model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import Any, Literal, Unpack, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import Cache

from .demo import source_of
from .engine.encoded import Encoded
from .engine.engine import Engine
from .engine.prefill import take_up
from .errors import InputError
from .inputs.contrast import Contrast
from .inputs.images import ImageInput
from .inputs.layers import LayerSelection
from .inputs.messages import Messages
from .inputs.methods import MethodSelection
from .inputs.only import Only
from .inputs.options import AskedOptions, TextSet, refuse_options
from .inputs.pixels import Colour
from .inputs.question import read_question
from .inputs.targets import TargetSelection
from .models.loading import Loading, load_model
from .models.modules import DescribedModule, ModuleParts
from .models.report import ModelReport
from .models.turns import turn_of
from .progress import ProgressCallback
from .result.explanation import Explanation
from .runs.alternatives import check_alternatives, explain_alternatives
from .runs.answer_stream import AnswerStream, close_streams
from .runs.estimate.estimate import estimate
from .runs.estimate.result import Estimate
from .runs.many import explain_many
from .runs.profiling import Profile, profile
from .runs.requests import AnyRequest
from .runs.self_test import self_test
from .runs.single import explain_encoded
from .runs.stream import ExplainingStreamer, StreamedToken

WHOLE_ANSWERS = "normalization", "targets", "contrast", "unfiltered", "row_chunk", "only"
"""Options that need the whole answer: not for one that is still being written."""


class Explainer(Engine):
    """Explains the answers of one loaded model, with whatever attention it was loaded.

    The model is used as it is and left as it was: hooks, train flags, grad mode, config and `requires_grad` are the
    same before and after every call, also after an exception. Any number of threads may use one explainer, or several
    of one model: their calls take turns. Your own `generate` may run beside them in eval mode, and of models that note
    something on themselves while they write (M-RoPE: the Qwen-VL family, GLM-4V, ...) inside `turn()`.

    Args:
        model: a transformers model of a supported family, on its device or devices; it may be compiled, hold LoRA
            adapters of peft, or be offloaded by accelerate. Or a pipeline of transformers that holds model and
            processor.
        processor: its processor; without one only `explain_ids` works and tokens are shown as ids.
        backend: implementation of the ops, "auto" or a name of `dexar_fast.ops.available_backends`.

    Raises:
        UnsupportedModelError: the family is unknown, or weights are missing (on the meta device).
        InputError: the backend is unknown, or the processor lacks a tokenizer or an image processor.
    """

    @classmethod
    def from_pretrained(
        cls,
        model: str | PathLike[str],
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = "auto",
        attn_implementation: str | None = None,
        revision: str | None = None,
        device_map: Any = None,
        max_memory: Mapping[int | str, int | str] | None = None,
        quantization_config: Any = None,
        load_in_4bit: bool = False,
        load_in_8bit: bool = False,
        trust_remote_code: bool = False,
        torch_dtype: str | torch.dtype | None = None,
        backend: str = "auto",
        self_test: bool = True,
        **model_kwargs: Any,
    ) -> Explainer:
        """Load a model and its processor.

        Args:
            model: a hub id, a folder, or "demo" for the embedded model (offline; a folder of that name is "./demo"), or
                another of `dexar_fast.demo.MODELS`.
            device: where to put it; None takes the first GPU, or else the CPU.
            dtype: "auto" takes the checkpoint's own, except that float16 becomes float32 on a CPU, which has no fast
                float16 arithmetic; or a torch dtype or its name. ``torch_dtype`` is its older name.
            attn_implementation: "sdpa", "eager", "flash_attention_2", "flex_attention"; None leaves it to transformers.
            revision: of a hub id: a branch, a tag or the hash of a commit.
            device_map, max_memory: as transformers takes them, in place of ``device``.
            quantization_config: a configuration of transformers; or ``load_in_4bit`` (nf4, computing in ``dtype``) or
                ``load_in_8bit``, which need bitsandbytes.
            trust_remote_code: run Python code that the checkpoint brings along. Only for checkpoints whose code you
                have read; their model types need a declaration of yours (`register_family`).
            backend: as for the constructor.
            model_kwargs: further arguments of the model's `from_pretrained`.
            self_test: run `self_test` on the loaded model: one forward pass over a small picture.

        Raises:
            UnsupportedModelError: the model's family is not supported.
            InputError: unknown dtype, no such model, or one that cannot be loaded in this way.
            SelfCheckError, NotFiniteError: the self-test failed.
        """
        if torch_dtype is not None and dtype != "auto":
            raise InputError(f"torch_dtype: it is another name of dtype; got {torch_dtype!r} and dtype={dtype!r}")
        how = Loading(
            device=device,
            dtype=dtype if torch_dtype is None else torch_dtype,
            attn_implementation=attn_implementation,
            revision=revision,
            device_map=device_map,
            max_memory=max_memory,
            quantization_config=quantization_config,
            load_in_4bit=load_in_4bit,
            load_in_8bit=load_in_8bit,
            trust_remote_code=trust_remote_code,
            model_kwargs=model_kwargs,
        )
        explainer = cls(*load_model(source_of(model), how), backend=backend)
        explainer.model_name = str(model)
        if self_test:
            explainer.self_test()
        return explainer

    @classmethod
    def from_modules(cls, model: nn.Module, parts: ModuleParts, *, backend: str = "auto") -> Explainer:
        """A model of your own that is no class of transformers; `explain_ids` explains its answers.

        Args:
            model: any module, on its device.
            parts: where its parts are and how it runs; the self-check finds out if that is not so.
            backend: as for the constructor.

        Raises:
            UnsupportedModelError: a part is not there.
            InputError: the backend is unknown.
        """
        described: Any = DescribedModule(model, parts)
        return cls(described, backend=backend)

    def self_test(self) -> ModelReport:
        """Explain one token of a small picture with all layers, each checked (`dexar_fast.engine.self_check`).

        Raises:
            InputError: no processor.
            UnsupportedModelError, SelfCheckError, NotFiniteError: as for `explain`.
        """
        return self_test(self)

    def explain(
        self,
        image: ImageInput | Sequence[ImageInput] | None = None,
        prompt: str | None = None,
        answer: str | None = None,
        *,
        messages: Messages | None = None,
        layers: LayerSelection = None,
        method: MethodSelection = None,
        normalization: str = "paper",
        text_set: TextSet = "all_non_image",
        targets: TargetSelection = "tokens",
        contrast: Contrast = None,
        unfiltered: bool = False,
        grounding: bool = False,
        thumbnail: str = "blend",
        max_new_tokens: int = 256,
        row_chunk: int | str = "auto",
        only: Only = None,
        image_kwargs: Mapping[str, Any] | None = None,
        background: Colour = "white",
        frame: int | None = None,
        allow_urls: bool = False,
        progress: bool | ProgressCallback = False,
    ) -> Explanation:
        """Which part of the image made the model write each token of its answer.

        Args:
            image: a PIL image, a path, bytes, an open file, a data URI, an array or a tensor (docs/inputs.md); or a
                list of these, in the prompt's order.
            prompt: what the user asks; put into the model's chat template, unless it holds the image token itself.
            messages: a chat in place of the prompt, as OpenAI's interface and transformers write it: roles, several
                turns, images in any of them; ``image`` then has the pictures of parts that hold none.
            answer: the answer to explain, exactly as the model would write it (a leading space counts); None lets the
                model write it, greedily.
            layers: None for all; an int to start from (negative: from the end); ``(start, stop)``; or a list.
            method: how maps are made, or several ways: the first is shown first (`Explanation.token_maps`), the others
                are in `Explanation.maps`; those of `dexar_fast.inputs.methods.METHODS` come from one pass.
                "dexar-focus" shows what the model looked at for a word and what that did; "dexar" is the method as
                published, what would have moved the word; "dexar-scores", "dexar-contribution", "dexar-attention"
                weight its gradient with the attention probability. Or a method to compare with, one of
                `dexar_fast.inputs.methods.COMPARISONS`; these score no heads, so every token weighs 1 and the scores of
                the result are zero. None takes "dexar-focus" and "dexar", or "dexar" alone where targets, unfiltered
                maps or the "reference" normalization are asked for, which "dexar-focus" does not have.
            normalization: "paper" (Eq. 4-6), or "reference", that of the released code.
            text_set: which keys count as text: "all_non_image" as published, "content_only" without template and
                special tokens (of a prompt that holds the image token itself, all but special tokens is content),
                "generated_only", or ``(P + T,)`` bool over prompt and answer.
            targets: what is explained as one: "tokens"; "words"; "phrases", what stands between punctuation; a compiled
                regular expression, whose matches in the answer are widened to whole tokens; or a list of
                ``(start, stop)`` spans of tokens. The result has a row for each target (`Explanation.targets`), whose
                score is the mean of its tokens' logits. Other than tokens with the method "dexar" only.
            contrast: why this word rather than that one: a foil for all tokens, or a list with one for each, None where
                there is none. Text stands for the first token that it would be written with in the token's place, with
                a space in front if the token has one; an int is an id. The score is the token's logit less the foil's.
                Where a foil for all is the token itself, its map is zero. `Explanation.foils` has what was taken.
            unfiltered: also compute the maps with every head weight 1.
            grounding: also ask how much the image supports each token (`Explanation.grounding`), at the cost of one
                plain forward pass over the prompt with a blank image, and the answer.
            thumbnail: of a model that sees tiles and a thumbnail of the whole image: "blend" takes the mean of both,
                "only" the thumbnail, "without" the tiles.
            max_new_tokens: limit of the model's own answer.
            row_chunk: how many answer tokens run at once; "auto" takes what a quarter of the free memory holds, 512 at
                most. It changes memory and speed, and the result by rounding. Where the rows do not fit on a GPU after
                all, half as many run, with a warning.
            only: which part of the answer is explained; what stands before it only runs, and the result has the part's
                tokens alone, its place in `settings["part"]`. None for all; "last_sentence"; "after_thinking", what
                follows a reasoning model's closing tag; a compiled regular expression, of which the first match counts;
                or a range ``(start, stop)`` of tokens, negative from the end. Spans of `targets` and a list as
                `contrast` count the part's tokens.
            image_kwargs: settings of the image processor for this call (``{"do_pan_and_scan": True}``).
            background: what shows through where a picture is transparent.
            frame: of an animation or a file with pages, from 0; None takes the first, with a warning.
            allow_urls: fetch pictures that are given as http(s) URLs.
            progress: True for bars on stderr, or a callback ``(stage, done, total)``.

        Returns:
            `Explanation`.

        Raises:
            InputError: an argument is not usable; the message says what was expected.
            UnsupportedModelError: the model's attention or weights cannot be explained.
            SelfCheckError: the model's layers are not what its family describes.
            NotFiniteError: NaN or infinity; names the layer and the token.
        """
        options = self.options(
            layers=layers,
            method=method,
            normalization=normalization,
            text_set=text_set,
            targets=targets,
            contrast=contrast,
            unfiltered=unfiltered,
            grounding=grounding,
            thumbnail=thumbnail,
            max_new_tokens=max_new_tokens,
            row_chunk=row_chunk,
            only=only,
            image_kwargs=image_kwargs,
            background=background,
            frame=frame,
            allow_urls=allow_urls,
        )
        pictures, asked = read_question(options, image, prompt, messages)
        with self.running(progress) as report:
            return explain_encoded(self, self.encoded(pictures, asked, answer, options, report), options, report)

    def alternatives(
        self,
        image: ImageInput | Sequence[ImageInput] | None = None,
        prompt: str | None = None,
        answer: str | None = None,
        *,
        messages: Messages | None = None,
        token: int = 0,
        k: int = 5,
        progress: bool | ProgressCallback = False,
        **asked: Unpack[AskedOptions],
    ) -> Explanation:
        """What the model could have written at one place of its answer, and which part of the image speaks for each.

        Args:
            token: index of a token of the answer, negative from the end.
            k: how many tokens: the most probable ones there, by the model's own probabilities after the answer so far;
                the written one takes the last place if it is not among them.
            image, prompt, answer, messages, progress: as for `explain`.
            asked: options of `explain`, with a method of `dexar_fast.inputs.methods.METHODS`, "dexar" by default; but
                neither targets nor a contrast, grounding, row_chunk or only.

        Returns:
            `Explanation` with a row for each alternative (`targets`, with id and probability, falling). Its tokens are
            the whole answer; its answer map sums up the alternatives.

        Raises:
            InputError, UnsupportedModelError, SelfCheckError, NotFiniteError: as for `explain`.
        """
        refuse_options("alternatives", asked, "targets", "contrast", "grounding", "row_chunk", "only")
        asked.setdefault("method", "dexar")
        options = self.options(**asked)
        check_alternatives(self.decoder, options, token, k)
        pictures, question = read_question(options, image, prompt, messages)
        with self.running(progress) as report:
            encoded = self.encoded(pictures, question, answer, options, report)
            return explain_alternatives(self, encoded, options, token, k, report)

    def explain_ids(
        self,
        model_inputs: Mapping[str, Tensor],
        answer_ids: Tensor | NDArray[np.integer[Any]] | Sequence[int],
        *,
        image: ImageInput | Sequence[ImageInput] | None = None,
        prompt: str | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        past_key_values: Cache | None = None,
        progress: bool | ProgressCallback = False,
        **asked: Unpack[AskedOptions],
    ) -> Explanation:
        """Explain an answer that was made elsewhere, from tensors.

        Args:
            model_inputs: what the processor returned for the prompt: `input_ids` ``(1, P)``, `pixel_values`, ...
            answer_ids: ``(T,)`` or ``(1, T)`` integer ids.
            image: the picture to show behind the maps, or a list of them, one for each image or video frame that has a
                map; they need the processor, which says how a picture was cropped. Without them the result has none,
                and its grid is in model pixels. One that its EXIF data turn is refused: pass the pixels that were
                processed.
            prompt: the prompt as text, kept in the result; the method "occlusion" needs it and the image.
            processor_kwargs: what the processor's call was given besides images and text: settings that change where
                pixels go (``do_center_crop=False``, crops) are not to be seen in the tensors.
            progress: as for `explain`.
            asked: options of `explain` but for image_kwargs and max_new_tokens; the text set "content_only" needs
                `explain`, and foils as text need the processor.
            past_key_values: the cache that this model filled with the prompt, and perhaps the answer: then the prompt
                does not run again. It is not changed. One that cannot be cut back to the prompt (layers that keep a
                sliding window only) is of no use: the prompt runs, with a warning.

        Returns:
            `Explanation`.

        Raises:
            InputError, UnsupportedModelError, SelfCheckError, NotFiniteError: as for `explain`.
        """
        refuse_options("explain_ids", asked, "image_kwargs", "max_new_tokens")
        asked["image_kwargs"] = processor_kwargs
        options = self.options(**asked)
        inputs, ids = self.given(model_inputs, answer_ids)
        pictures = None if image is None else options.pictures(image, turn=False)
        with self.running(progress) as report:
            ran = None if past_key_values is None else take_up(self.decoder, inputs, past_key_values)
            settings = {"prompt": prompt, "generated": False}
            encoded = Encoded(inputs, ids, pictures, settings=settings, ran=ran, prompt=prompt)
            return explain_encoded(self, encoded, options, report)

    @overload
    def explain_many(
        self,
        requests: Iterable[AnyRequest],
        *,
        batch_size: int = 8,
        return_exceptions: Literal[False] = False,
        progress: bool | ProgressCallback = False,
        **options: Unpack[AskedOptions],
    ) -> Iterator[Explanation]: ...
    @overload
    def explain_many(
        self,
        requests: Iterable[AnyRequest],
        *,
        batch_size: int = 8,
        return_exceptions: bool,
        progress: bool | ProgressCallback = False,
        **options: Unpack[AskedOptions],
    ) -> Iterator[Explanation | Exception]: ...
    def explain_many(
        self,
        requests: Iterable[AnyRequest],
        *,
        batch_size: int = 8,
        return_exceptions: bool = False,
        progress: bool | ProgressCallback = False,
        **options: Unpack[AskedOptions],
    ) -> Iterator[Any]:
        """The explanations of many requests, in their order, as `explain` gives them one by one up to rounding.

        The answers of a batch run together; each prompt runs alone, and once for all requests of the batch that share
        it and its images, or follow them in the next batch. The model writes answers one by one. Explained one by one
        are methods to compare with, targets other than tokens, parts of answers, and families with cross-attention, an
        encoder, or layers that keep a state; `settings["batch"]` of a result says how many ran together.

        Args:
            requests: `ExplainRequest`, or a tuple ``(image, prompt)`` or ``(image, prompt, answer)``; or
                `ExplainIdsRequest`, for answers made elsewhere. Any iterable; a batch is read when it is due.
            batch_size: number of requests in a batch. Fewer run together where answers are long, as `row_chunk` limits
                all rows of a run, and where memory ends, with a warning.
            return_exceptions: give a request's error in place of its explanation and go on; else it is raised there.
                Its message (of errors not of this package, a note) holds the number of the request, from 0.
            progress: as for `explain`; it begins anew with every batch.
            options: as for `explain`, except for a mask as text set.

        Returns:
            An iterator. Between two results the model is as it was, so you may stop whenever you like.

        Raises:
            InputError: an option is not usable, at once.
            InputError, UnsupportedModelError, SelfCheckError, NotFiniteError: as for `explain`, while iterating.
        """
        return explain_many(
            self,
            requests,
            batch_size=batch_size,
            return_exceptions=return_exceptions,
            progress=progress,
            **options,
        )

    def stream(
        self,
        image: ImageInput | Sequence[ImageInput] | None = None,
        prompt: str | None = None,
        *,
        messages: Messages | None = None,
        block: int = 16,
        **asked: Unpack[AskedOptions],
    ) -> AnswerStream:
        """Each token of the model's own answer with its map, soon after it was written.

        Args:
            block: how many tokens are explained at once, behind generation; 1 explains each as it comes. The extra
                cost is about one forward over the block's tokens per block.
            image, prompt, messages: as for `explain`.
            asked: options of `explain`, with a text set by name ("content_only" needs `explain`); but no normalization,
                targets, contrast, unfiltered, row_chunk or only. Grounding costs the prompt with a blank image once,
                and one more forward over the block's tokens per block.

        Returns:
            `AnswerStream`: an iterator of `StreamedToken`; when it has ended, its `explanation` is that of `explain`.

        Raises:
            InputError: an argument is not usable, or the family's answers do not run over a cache.
            UnsupportedModelError, SelfCheckError, NotFiniteError: while iterating, as for `explain`.
        """
        refuse_options("stream", asked, *WHOLE_ANSWERS)
        options = self.options(**asked)
        pictures, question = read_question(options, image, prompt, messages)
        encoded = self.encoded(pictures, question, "", options)
        return AnswerStream(ExplainingStreamer(self, encoded, options, lambda token: None, block=block))

    def close_stream(self) -> None:
        """End every stream that still writes on this model, also one that nobody holds any more.

        Such as one in a notebook that Ctrl-C interrupted. Waits until the model is as it was: at most one token.
        """
        close_streams(self.model)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """The model for this thread alone, inside: calls of other threads on it, and streams, wait until it is left.

        For what you do with the model yourself while other threads explain: change its weights or adapters, train, or
        let it write with `generate`. Calls of this package may be made inside.
        """
        with turn_of(self.model):
            yield

    def streamer(
        self,
        model_inputs: Mapping[str, Tensor],
        on_token: Callable[[StreamedToken], None],
        *,
        image: ImageInput | Sequence[ImageInput] | None = None,
        block: int = 16,
        processor_kwargs: Mapping[str, Any] | None = None,
        **asked: Unpack[AskedOptions],
    ) -> ExplainingStreamer:
        """A streamer for the caller's own `generate`, with any sampling: see `ExplainingStreamer`.

        Args:
            model_inputs: what `generate` is called with for the prompt.
            on_token: called with each token and its map.
            image, processor_kwargs: as for `explain_ids`.
            block: as for `stream`.
            asked: as for `stream`, but neither image_kwargs nor max_new_tokens, which are yours here.

        Raises:
            InputError: an argument is not usable, or the family's answers do not run over a cache.
        """
        refuse_options("streamer", asked, *WHOLE_ANSWERS, "image_kwargs", "max_new_tokens")
        asked["image_kwargs"] = processor_kwargs
        options = self.options(**asked)
        inputs, ids = self.given(model_inputs, [])
        pictures = None if image is None else options.pictures(image, turn=False)
        encoded = Encoded(inputs, ids, pictures, settings={"prompt": None})
        return ExplainingStreamer(self, encoded, options, on_token, block=block)

    def profile(
        self,
        image: ImageInput | Sequence[ImageInput] | None = None,
        prompt: str | None = None,
        answer: str | None = None,
        *,
        messages: Messages | None = None,
        trace: str | PathLike[str] | None = None,
        progress: bool | ProgressCallback = False,
        **options: Unpack[AskedOptions],
    ) -> Profile:
        """Where the time and memory of `explain` go, for this model and these lengths.

        Explains once to warm up, then once with a clock on every stage, and runs the same tokens once without
        explaining.

        Args:
            image, prompt, answer, messages, progress, options: as for `explain`.
            trace: file to write the run's operations and stages to, as JSON for Perfetto (https://ui.perfetto.dev) or
                chrome://tracing; explains once more, because recording every operation takes time itself.

        Returns:
            `Profile`; print it, or take its `stages`.

        Raises:
            InputError, UnsupportedModelError, SelfCheckError, NotFiniteError: as for `explain`.
            OSError: the trace cannot be written.
        """
        return profile(self, image, prompt, answer, messages=messages, trace=trace, progress=progress, **options)

    def estimate(
        self,
        prompt_tokens: int,
        image_tokens: int,
        answer_tokens: int,
        *,
        method: MethodSelection = None,
        row_chunk: int | str = "auto",
        cache: bool = False,
    ) -> Estimate:
        """Time and memory of `explain` on this model and machine, before it runs.

        Takes less than a second: rates are measured on a few of the model's own products, and (once per explainer, if
        it has a processor) the vision tower on a small picture, which is taken to grow with the image tokens. Memory
        does not count the vision tower. Of layers whose MLP runs beside attention (Cohere) more is counted than runs.

        Args:
            prompt_tokens: P, image tokens included; of an encoder-decoder the tokens of its encoder, of one that reads
                nothing but the image those that the decoder begins with.
            image_tokens: how many of these are of the image, N.
            answer_tokens: how many tokens are explained, T.
            method: as for `explain`; methods to compare with are refused.
            row_chunk: as for `explain`.
            cache: the prompt's cache is there already, as after the model's own answer.

        Returns:
            `Estimate`; print it, or take its `seconds`, `peak_bytes`, `stages`.

        Raises:
            InputError: lengths that cannot be, a method whose cost is not known, or a cache for a family without.
            UnsupportedModelError: attention without a projection whose width is known.
        """
        return estimate(
            self, prompt_tokens, image_tokens, answer_tokens, method=method, row_chunk=row_chunk, cache=cache
        )
