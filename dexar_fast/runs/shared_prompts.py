"""Prompts that several requests share: each is encoded and run once."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from ..engine.prefill import Prefill
from ..inputs.prompts import Prompt


@dataclass(eq=False)
class SharedPrompt:
    """A prompt with its images.

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


@dataclass
class SharedPrompts:
    """Those of a batch, and the last one of the batch before.

    Attributes:
        known: in the order in which they were met last.
    """

    known: list[SharedPrompt] = field(default_factory=list)

    def with_fingerprint(self, of: Hashable) -> SharedPrompt | None:
        """The one that came as this text and these pixels."""
        return next((prompt for prompt in self.known if prompt.fingerprint == of), None)

    def met(self, prompt: SharedPrompt) -> SharedPrompt:
        """The one met before that has the same inputs, or else this one, which is known from now on."""
        same = next((known for known in self.known if known is prompt or _equal(known, prompt)), prompt)
        self.known = [known for known in self.known if known is not same] + [same]
        return same

    def keep_last(self) -> None:
        """Forget all but the last one: the next batch may begin with it."""
        self.known = self.known[-1:]

    @property
    def hold_memory(self) -> bool:
        """Whether any has its cache."""
        return any(prompt.ran is not None for prompt in self.known)

    def release_all_but(self, needed: Sequence[SharedPrompt]) -> None:
        """Let the caches of all other prompts go."""
        for prompt in self.known:
            if prompt not in needed:
                prompt.ran = None


def fingerprint(prompt: Prompt, images: Sequence[Image.Image]) -> Hashable:
    """Equal for equal text and pixels."""
    return prompt if isinstance(prompt, str) else repr(prompt), *(
        (image.size, hashlib.blake2b(image.tobytes()).digest()) for image in images
    )


def _equal(one: SharedPrompt, other: SharedPrompt) -> bool:
    """Whether two prompts have the same model inputs."""
    return one.inputs.keys() == other.inputs.keys() and all(
        torch.equal(value, other.inputs[name]) for name, value in one.inputs.items()
    )
