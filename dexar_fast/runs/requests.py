"""What `Explainer.explain_many` takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..inputs.images import ImageInput
from ..inputs.messages import Messages


@dataclass(frozen=True)
class ExplainRequest:
    """What `Explainer.explain` takes: image or images, prompt or messages, and answer; None lets the model write it.

    A plain tuple ``(image, prompt)`` or ``(image, prompt, answer)`` means the same.
    """

    image: ImageInput | Sequence[ImageInput] | None = None
    prompt: str | None = None
    answer: str | None = None
    messages: Messages | None = None


@dataclass(frozen=True, eq=False)
class ExplainIdsRequest:
    """What `Explainer.explain_ids` takes for an answer that was made elsewhere: model inputs and ids.

    The pictures and the prompt as text are only shown; what the processor's call was given besides says where they lie.
    """

    model_inputs: Mapping[str, Tensor]
    answer_ids: Tensor | NDArray[np.integer[Any]] | Sequence[int]
    image: ImageInput | Sequence[ImageInput] | None = None
    prompt: str | None = None
    processor_kwargs: Mapping[str, Any] | None = None


AnyRequest: TypeAlias = (
    "ExplainRequest | ExplainIdsRequest | tuple[ImageInput | Sequence[ImageInput], str]"
    " | tuple[ImageInput | Sequence[ImageInput], str, str | None]"
)
