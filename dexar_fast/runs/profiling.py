"""Where the time and memory of an explanation go, on the user's own model and lengths."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import torch

from ..engine.answer_pass import run_rows
from ..engine.engine import Engine
from ..engine.logit_lens import token_lens
from ..engine.prefill import prefill
from ..engine.request import lay_out
from ..errors import InputError
from ..inputs.images import ImageInput
from ..inputs.messages import Messages
from ..inputs.options import AskedOptions
from ..inputs.question import read_question
from ..models.state import evaluating, hooked, main_device
from ..progress import ProgressCallback
from ..result.atomic import write_atomically
from ..stages import OTHER, Recorder, recording
from .single import explain_encoded

if TYPE_CHECKING:
    from rich.table import Table

    from ..result.explanation import Explanation

STAGES = {
    "encoding": "the processor: image to pixels, prompt to ids",
    "generation": "the model writes its answer",
    "vision": "the prompt up to the language model: image features, embeddings",
    "prefill": "the prompt through the language model",
    "answer pass": "the answer rows (in some families the prompt too) through the language model",
    "tail gradients": "each layer's gradient with respect to its attention output",
    "self-check": "once per model: is each layer what the method takes it for?",
    "ops": "head scores and maps of all layers",
    "aggregation": "normalise and combine the maps",
    "grounding": "the prompt with a blank image and the answer, through the language model; the last logits of both",
    OTHER: "everything else",
}
_NOT_EXPLAINING = ("encoding", "generation", "self-check")


@dataclass(frozen=True)
class Stage:
    """One stage of a run, without the stages inside it.

    Attributes:
        name: a key of `STAGES`, which says what it is.
        seconds: wall-clock time, the GPU's work included.
        share: of the whole run, in [0, 1].
        peak_mib: most GPU memory in use above what was in use before the run (the model), in MiB; None on a CPU, where
            the allocator does not tell.
    """

    name: str
    seconds: float
    share: float
    peak_mib: float | None


@dataclass(frozen=True)
class Profile:
    """Time and memory of one explanation.

    Waiting for the GPU wherever a stage begins or ends costs a little, so an explanation without profiling is no slower
    than ``seconds``.

    Attributes:
        stages: those that were met, in their order, and "other" at the end; their seconds sum up to ``seconds``.
        seconds: the whole run.
        plain_forward_seconds: the same prompt, and answer rows behind its cache, through the model without its head and
            without explaining.
        prompt_tokens, image_tokens, answer_tokens: P, N and T.
        device: of the model.
        explanation: what `Explainer.explain` returned.
    """

    stages: tuple[Stage, ...]
    seconds: float
    plain_forward_seconds: float
    prompt_tokens: int
    image_tokens: int
    answer_tokens: int
    device: str
    explanation: Explanation

    @property
    def over_plain_forward(self) -> float:
        """Seconds of explaining over those of the plain forward; encoding, generation and self-check do not count."""
        explaining = sum(each.seconds for each in self.stages if each.name not in _NOT_EXPLAINING)
        return explaining / self.plain_forward_seconds

    def table(self) -> Table:
        """The stages as a table for a terminal."""
        from rich import box
        from rich.table import Table

        with_memory = any(each.peak_mib is not None for each in self.stages)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_footer=True, caption=self._summary(), caption_style="")
        table.caption_justify = "left"
        table.add_column("stage", "total", no_wrap=True)
        table.add_column("seconds", f"{self.seconds:.4f}", justify="right", no_wrap=True)
        table.add_column("share", "100.0 %", justify="right", no_wrap=True)
        if with_memory:
            highest = max(each.peak_mib or 0.0 for each in self.stages)
            table.add_column("peak MiB", f"{highest:.1f}", justify="right", no_wrap=True)
        table.add_column("what it is", overflow="fold")
        for each in self.stages:
            memory = [f"{each.peak_mib or 0.0:.1f}"] if with_memory else []
            share = f"{100 * each.share:.1f} %"
            table.add_row(each.name, f"{each.seconds:.4f}", share, *memory, STAGES[each.name])
        return table

    def __str__(self) -> str:
        from ..plain_text import plain_text

        return plain_text(self.table())

    def _summary(self) -> str:
        return (
            f"{self.prompt_tokens} prompt tokens ({self.image_tokens} of the image), {self.answer_tokens} answer "
            f"tokens, on {self.device}. Explaining takes {self.over_plain_forward:.2f}x a plain forward of the same "
            f"tokens ({self.plain_forward_seconds:.4f} s); encoding, generation and self-check not counted."
        )


def profile(
    engine: Engine,
    image: ImageInput | Sequence[ImageInput] | None,
    prompt: str | None,
    answer: str | None,
    *,
    messages: Messages | None,
    trace: str | PathLike[str] | None,
    progress: bool | ProgressCallback,
    **asked: Unpack[AskedOptions],
) -> Profile:
    """See `Explainer.profile`."""
    options = engine.options(**asked)
    pictures, question = read_question(options, image, prompt, messages)
    if trace is not None and not Path(trace).absolute().parent.is_dir():
        raise InputError(f"trace: expected a file in a folder that exists; got {trace}")
    device = main_device(engine.model)

    def explain() -> tuple[Explanation, Recorder]:
        with recording(device) as recorder:
            register = engine.decoder.text_model.register_forward_pre_hook
            with (
                engine.running(progress) as report,
                hooked(register, lambda *_: recorder.go_on("prefill", after="vision")),
            ):
                engine.checked_layers.clear()  # the self-check is shown in every profile
                encoded = engine.encoded(pictures, question, answer, options, report)
                return explain_encoded(engine, encoded, options, report), recorder

    explain()  # the first run pays for caches and lazily loaded code
    explanation, recorder = explain()
    if trace is not None:
        _write_trace(trace, device, explain)
    encoded = engine.prompt_encoder.encode(pictures, question, options.image_kwargs)
    inputs, answer_ids = engine.tensors(encoded, explanation.token_ids)
    lens = token_lens(engine.decoder, answer_ids)
    with evaluating(engine.model), recording(device) as plain:
        rows = slice(0, len(answer_ids))
        run_rows(engine.decoder, prefill(engine.decoder, inputs), answer_ids, rows, (), lens, lambda _: None)
    total = sum(recorder.seconds.values())
    sizes = [picture.size for picture in pictures]
    layout = lay_out(engine.decoder, engine.processor, inputs, sizes, settings=options.image_kwargs)
    return Profile(
        stages=tuple(
            Stage(
                name,
                recorder.seconds[name],
                recorder.seconds[name] / total,
                recorder.peaks[name] / 2**20 if name in recorder.peaks else None,
            )
            for name in STAGES
            if name in recorder.seconds
        ),
        seconds=total,
        plain_forward_seconds=sum(plain.seconds.values()),
        prompt_tokens=engine.decoder.prompt_ids(inputs).shape[1],
        image_tokens=layout.n_image_tokens,
        answer_tokens=len(answer_ids),
        device=str(device),
        explanation=explanation,
    )


def _write_trace(path: str | PathLike[str], device: torch.device, run: Callable[[], object]) -> None:
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities, acc_events=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(written))
        write_atomically(path, written.read_bytes())
