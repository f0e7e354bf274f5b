"""Does the image support a token at all? The model's own probability of it, with the image and without.

    grounding[t] = p(y_t | image) / (p(y_t | image) + p(y_t | blank image))

in [0, 1]: 0.5 where the image changes nothing, 1 where the token hangs on it, 0 where the image speaks against it
(`Explanation.grounding`). Why this and not ``delta`` or another function of the head scores: those hardly tell a wrong
word from a right one (``docs/evaluation.md`` has the figures).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor

from ..errors import InputError
from ..models.decoder import Decoder
from ..stages import stage
from .answer_pass import row_states
from .prefill import Prefill, prefill
from .teacher_forcing import answer_log_probabilities, token_log_probabilities


def blank(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inputs with an image in its mean colour: ``(..., 3, H, W)`` pixels, or mean ``(..., n, d)`` patches.

    Raises:
        InputError: no input holds pixels.
    """
    blanked = dict(inputs)
    pixels = [name for name in inputs if "pixel_values" in name]
    if not pixels:
        raise InputError(f"grounding: expected an input with pixel_values in its name; got {', '.join(sorted(inputs))}")
    for name in pixels:
        value = inputs[name]
        mean = value.mean(dim=(-2, -1) if value.ndim > 3 else -2, keepdim=True)
        blanked[name] = mean.expand_as(value).contiguous()
    return blanked


@stage("grounding")
def log_probabilities(
    decoder: Decoder, inputs: Mapping[str, Tensor], answer_ids: Tensor, states: Tensor | None = None
) -> Tensor:
    """``(T, 2)``: log-probability of every answer token with the image, and with a blank one.

    Args:
        decoder, inputs, answer_ids: as for `answer_log_probabilities`.
        states: ``(1, T, d)``, normed states of the rows with the image, if they ran already; else they run once more.
    """
    without = answer_log_probabilities(decoder, blank(inputs), answer_ids)
    if states is None:
        return torch.stack((answer_log_probabilities(decoder, inputs, answer_ids), without), dim=1)
    return torch.stack((token_log_probabilities(decoder, states, answer_ids)[0], without), dim=1)


class GrowingGrounding:
    """`log_probabilities` of an answer that is still being written: one forward over each block's rows.

    The cache of the blank image's prompt grows behind the answer; the rows with the image ran when they were explained.

    Args:
        decoder, inputs: as for `log_probabilities`; the family's answers run over a cache.

    Raises:
        InputError: no input holds pixels.
    """

    def __init__(self, decoder: Decoder, inputs: Mapping[str, Tensor]) -> None:
        self.decoder = decoder
        self._inputs = blank(inputs)

    @cached_property
    def _prompt(self) -> Prefill:
        return prefill(self.decoder, self._inputs)

    def add(self, states: Tensor, answer_ids: Tensor, rows: slice) -> Tensor:
        """``(n, 2)`` float64 of the rows that come next.

        Args:
            states: ``(1, n, d)``, their normed states with the image.
            answer_ids: the answer up to the last of them.
            rows: which of its tokens they are.
        """
        both = states, row_states(self.decoder, self._prompt, answer_ids, rows)
        found = [token_log_probabilities(self.decoder, each, answer_ids[rows])[0] for each in both]
        return torch.stack(found, dim=1)
