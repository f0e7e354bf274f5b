"""One prompt with its images and its answer, as the model takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from torch import Tensor

from ..inputs.prompts import Prompt
from .prefill import Prefill


@dataclass(frozen=True)
class Encoded:
    """What is explained.

    Attributes:
        inputs: model inputs of the prompt, on the model's device: `input_ids` ``(1, P)``, `pixel_values`, ...
        answer_ids: ``(T,)`` int64, beside them.
        images: the user's, or None.
        template: ``(P,)`` bool, which tokens of the prompt are the template's; the text set "content_only" needs it.
        settings: what the result is to record: the prompt as text, who wrote the answer, ...
        ran: the prompt, if it ran already.
        prompt: what the inputs were made of, or None; to be encoded anew with another image.
    """

    inputs: Mapping[str, Tensor]
    answer_ids: Tensor
    images: Sequence[Image.Image] | None = None
    template: Tensor | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    ran: Prefill | None = None
    prompt: Prompt | None = None

    @property
    def image_sizes(self) -> list[tuple[int, int]] | None:
        """``(width, height)`` of the user's images in pixels."""
        return None if self.images is None else [image.size for image in self.images]
