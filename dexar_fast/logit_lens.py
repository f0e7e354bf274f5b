"""What a layer's residual stream says about a token (Eq. 2-3)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from .errors import UnsupportedModelError
from .models import Decoder
from .ops import accumulator


@dataclass(frozen=True)
class LogitLens:
    """Scores ``s = < seed, norm_final(Z) >`` of answer rows at any layer: a raw logit, no softmax and no soft-cap.

    Attributes:
        decoder: the model.
        seeds: ``(T, d)``, one direction in the output space per row.
    """

    decoder: Decoder
    seeds: Tensor

    def __call__(self, layer: int, residual: Tensor) -> Tensor:
        """``(T,)`` scores, float32 or float64, of the residual stream ``(1, T, d)`` behind ``layer``."""
        normed = self.decoder.final_norm(residual)[0]  # [T, d]
        dtype = accumulator(normed)
        return (normed.to(dtype) * self.seeds.to(normed.device, dtype)).sum(dim=-1)

    def magnitude(self, residual: Tensor) -> Tensor:
        """Size of the terms that the scores of ``(1, T, d)`` sum, largest row: their rounding is relative to it."""
        normed = self.decoder.final_norm(residual)[0]
        return (normed.double() * self.seeds.to(normed.device).double()).abs().sum(dim=-1).max()

    def at(self, rows: slice) -> LogitLens:
        """The same lens for some of the rows."""
        return replace(self, seeds=self.seeds[rows])


def token_lens(decoder: Decoder, answer_ids: Tensor) -> LogitLens:
    """The lens whose seeds are the answer tokens' own rows of the output embedding, ``W_lm[y_t]``.

    Raises:
        UnsupportedModelError: the output embedding is quantised.
    """
    seeds = decoder.output_rows(answer_ids)
    if not seeds.is_floating_point():
        raise UnsupportedModelError(
            f"model: the output embedding holds {seeds.dtype} values, which have no gradient. Load the head "
            f"unquantised."
        )
    return LogitLens(decoder, seeds)
