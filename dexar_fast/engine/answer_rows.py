"""Which rows of a run predict an answer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AnswerRows:
    """The answer rows of a run of S positions, R of them in all.

    Of one sample they are the last ones, behind the prompt. Of several samples each runs over its prompt's cache, so
    that all rows are answer rows: the first ones, and behind them what fills up to the longest answer.

    Attributes:
        counts: number of answer rows of each sample.
    """

    counts: tuple[int, ...]

    def of(self, x: Tensor, axis: int = 1) -> Tensor:
        """From ``(B, S, ...)`` the answer rows of all samples as one sequence, ``(1, R, ...)``.

        Args:
            x: of the run.
            axis: the one of length S; 1 if there are several samples.
        """
        if len(self.counts) == 1:
            return x.narrow(axis, x.shape[axis] - self.counts[0], self.counts[0])
        if min(self.counts) == x.shape[1]:  # nothing to leave out
            return x.flatten(0, 1)[None]
        return torch.cat([sample[:count] for sample, count in zip(x, self.counts, strict=True)])[None]
