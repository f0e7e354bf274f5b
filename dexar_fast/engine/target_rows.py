"""Which answer rows a target is made of, and how their gradients become the target's (docs/method.md, "Targets").

The score of a target is the mean of its rows' logits, ``s = (1 / n) sum_t s[t]``, and the attention that its rows share
has the gradient ``G_j = < mean_t dO[t], V_j >``: the mean of their ``dO`` is the target's ``dO``, and nothing else of
Eq. 4-6 changes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..inputs.targets import Span
from ..ops import KeySets, accumulator
from .answer_pass import LayerGradient


@dataclass(frozen=True)
class TargetRows:
    """R targets in the order of the answer.

    Attributes:
        spans: of each target, its answer rows ``start <= t < stop``; ascending, and they may overlap.
        seeds: of each target, which of its rows' seeds it takes; all have the first if there are none.
    """

    spans: tuple[Span, ...]
    seeds: tuple[int, ...] = ()

    @property
    def stop(self) -> int:
        """Where the last row of any target ends."""
        return max(stop for _, stop in self.spans)

    def within(self, rows: slice) -> slice:
        """Indices of the targets in some rows, which cut none."""
        inside = [index for index, (start, _) in enumerate(self.spans) if rows.start <= start < rows.stop]
        return slice(inside[0], inside[-1] + 1) if inside else slice(0, 0)

    def combine(self, gradient: LayerGradient) -> LayerGradient:
        """From the gradients of rows to those of the targets among them, whose ``dO`` is the mean of their rows'.

        Query and attention output of a target are those of its first row: what reads them takes targets of one row.
        """
        rows, device = gradient.rows, gradient.d_out.device
        spans = self._spans(rows)
        of_row = gradient.d_out.unflatten(0, (rows.stop - rows.start, -1))  # [T, S, H, D]
        row = torch.tensor([t for start, stop in spans for t in range(start, stop)], device=device)
        lengths = torch.tensor([stop - start for start, stop in spans], device=device)
        seeds = self.seeds[self.within(rows)] or [0] * len(spans)
        picked = of_row[row, torch.tensor(seeds, device=device).repeat_interleave(lengths)]
        mean = torch.segment_reduce(picked.to(accumulator(picked)), "mean", lengths=lengths)  # [R, H, D]
        first = [start for start, _ in spans]
        call = replace(gradient.attention, query=gradient.attention.query[first], out=gradient.attention.out[:, first])
        return replace(gradient, rows=self.within(rows), d_out=mean.to(of_row.dtype), attention=call)

    def keys(self, rows: slice, keys: KeySets) -> KeySets:
        """From the keys of rows to those of the targets among them, which see what all their rows see."""
        spans = self._spans(rows)
        # From row to row both ends of what is seen only move on.
        start = keys.visible[[stop - 1 for _, stop in spans], 0]
        stop = keys.visible[[start for start, _ in spans], 1]
        return replace(keys, visible=torch.stack((torch.minimum(start, stop), stop), dim=1))

    def _spans(self, rows: slice) -> list[Span]:
        """Of the targets within some rows, counted from the first of these."""
        return [(start - rows.start, stop - rows.start) for start, stop in self.spans[self.within(rows)]]
