"""An estimate: operations, seconds and memory, stage by stage."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Group

STAGES = {
    "vision": "the prompt up to the language model: image features",
    "prefill": "the prompt through the language model",
    "answer pass": "the answer rows (in some families the prompt too) through the language model",
    "tail gradients": "each layer's gradient with respect to its attention output",
    "ops": "head scores and maps of all layers, by every method",
}
MEMORY = {
    "cache": "keys and values of prompt and answer",
    "prefill": "activations of one layer over the prompt",
    "row chunk": "activations of one layer's tail over the rows that run at once",
    "maps": "sums over layers, while they are normalised",
    "scores": "of heads",
}


@dataclass(frozen=True)
class StageEstimate:
    """One stage of an explanation.

    Attributes:
        name: a key of `STAGES`, which says what it is.
        operations: multiplications and additions of its products.
        seconds: of these, at the rate that was measured.
        bound: what sets the rate: "operations", or "weights", which few rows only stream from memory.
    """

    name: str
    operations: int
    seconds: float
    bound: str


@dataclass(frozen=True)
class Estimate:
    """What explaining T answer tokens after P prompt tokens takes. Without grounding and generation.

    Attributes:
        prompt_tokens, image_tokens, answer_tokens: P, N and T.
        stages: in their order; of a reused cache the first two are missing.
        methods: that are computed.
        memory: bytes of each part, by name (cache, prefill, row chunk, maps, scores); they are not all there at once.
        peak_bytes: most memory in use at once, above the model's weights.
        plain_peak_bytes: the same of a plain forward pass over prompt and answer, without a cache, with the logits of
            the answer rows.
        row_chunk: answer tokens that run at once.
        device, dtype: of the model.
    """

    prompt_tokens: int
    image_tokens: int
    answer_tokens: int
    stages: tuple[StageEstimate, ...]
    methods: tuple[str, ...]
    memory: dict[str, int]
    peak_bytes: int
    plain_peak_bytes: int
    row_chunk: int
    device: str
    dtype: str

    @property
    def operations(self) -> int:
        """Multiplications and additions of all stages."""
        return sum(each.operations for each in self.stages)

    @property
    def seconds(self) -> float:
        """Time of all stages."""
        return sum(each.seconds for each in self.stages)

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON values, with the sums."""
        return {**asdict(self), "operations": self.operations, "seconds": self.seconds}

    def table(self) -> Group:
        """Stages and memory as tables for a terminal."""
        from rich import box
        from rich.console import Group
        from rich.table import Table

        stages = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_footer=True)
        stages.add_column("stage", "total", no_wrap=True)
        stages.add_column("GFLOP", f"{self.operations / 1e9:.2f}", justify="right", no_wrap=True)
        stages.add_column("seconds", f"{self.seconds:.4f}", justify="right", no_wrap=True)
        stages.add_column("bound by", no_wrap=True)
        stages.add_column("what it is", overflow="fold")
        for each in self.stages:
            figures = f"{each.operations / 1e9:.2f}", f"{each.seconds:.4f}"
            stages.add_row(each.name, *figures, each.bound, STAGES[each.name])
        memory = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_footer=True, caption=self._summary(), caption_style="")
        memory.caption_justify = "left"
        memory.add_column("memory", "at once", no_wrap=True)
        memory.add_column("MiB", _mib(self.peak_bytes), justify="right", no_wrap=True)
        plain = f"above the weights; a plain forward with its logits: {_mib(self.plain_peak_bytes)}"
        memory.add_column("what it is", plain, overflow="fold")
        for name, size in self.memory.items():
            memory.add_row(name, _mib(size), MEMORY[name])
        return Group(stages, memory)

    def __str__(self) -> str:
        from ...plain_text import plain_text

        return plain_text(self.table())

    def _summary(self) -> str:
        return (
            f"By {' and '.join(self.methods)}: {self.prompt_tokens} prompt tokens, {self.image_tokens} of images, "
            f"{self.answer_tokens} answer tokens in chunks of {self.row_chunk}, {self.dtype} on {self.device}. "
            "Neither generation nor grounding."
        )


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f}"
