"""What a layer's residual stream says about a token (Eq. 2-3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import UnsupportedModelError
from ..inputs.targets import Foil
from ..models.decoder import Decoder
from ..ops import accumulator


@dataclass(frozen=True)
class LogitLens:
    """Scores ``s = < seed, norm_final(Z) >`` of answer rows at any layer: a raw logit, no softmax and no soft-cap.

    Attributes:
        decoder: the model.
        seeds: ``(T, S, d)``, directions in the output space, S for each row; mostly one.
    """

    decoder: Decoder
    seeds: Tensor

    def __call__(self, layer: int, residual: Tensor) -> Tensor:
        """``(T, S)`` scores, float32 or float64, of the residual stream ``(1, T, d)`` behind ``layer``."""
        normed = self.decoder.final_norm(residual)[0, :, None]  # [T, 1, d]
        dtype = accumulator(normed)
        return (normed.to(dtype) * self.seeds.to(normed.device, dtype)).sum(dim=-1)

    def magnitude(self, residual: Tensor) -> Tensor:
        """Size of the terms that the scores of ``(1, T, d)`` sum, largest row: their rounding is relative to it."""
        normed = self.decoder.final_norm(residual)[0, :, None]
        return (normed.double() * self.seeds.to(normed.device).double()).abs().sum(dim=-1).max()

    def at(self, rows: slice) -> LogitLens:
        """The same lens for some of the rows."""
        return replace(self, seeds=self.seeds[rows])


def token_lens(decoder: Decoder, answer_ids: Tensor) -> LogitLens:
    """The lens whose seeds are the answer tokens' own rows of the output embedding, ``W_lm[y_t]``."""
    return LogitLens(decoder, token_seeds(decoder, answer_ids)[:, None])


def contrasted(lens: LogitLens, foils: Sequence[Foil | None]) -> LogitLens:
    """The lens of tokens with the seeds of their foils taken off, ``W[y_t] - W[f_t]``."""
    found = [(row, foil.token_id) for row, foil in enumerate(foils) if foil is not None]
    rows, ids = torch.tensor(found, dtype=torch.int64, device=lens.seeds.device).reshape(-1, 2).unbind(1)
    seeds = lens.seeds.to(accumulator(lens.seeds), copy=True)  # a difference would be rounded in half precision
    seeds[rows, 0] -= token_seeds(lens.decoder, ids).to(seeds)
    return replace(lens, seeds=seeds)


def token_seeds(decoder: Decoder, ids: Tensor) -> Tensor:
    """``W_lm[ids]``, ``(n, d)``.

    Raises:
        UnsupportedModelError: the output embedding is quantised.
    """
    seeds = decoder.output_rows(ids)
    if not seeds.is_floating_point():
        raise UnsupportedModelError(
            f"model: the output embedding holds {seeds.dtype} values, which have no gradient. Load the head "
            f"unquantised."
        )
    return seeds
