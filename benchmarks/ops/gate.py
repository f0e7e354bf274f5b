"""Is a result right? Every contender is held against the definition in float64 before its speed is shown.

Allowed is four times the error that plain torch makes in the same dtype, and 16 roundings of float32. Rows do not
depend on each other, so of a large case some rows are compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .cases import DTYPES, Case, Inputs
from .contenders import by_backend, by_plain_torch

MOST_ROWS = 128


@dataclass(frozen=True)
class Expected:
    """What is to come out of some rows.

    Attributes:
        rows: their indices.
        exact: results in float64 by name, of ``rows`` alone.
        allowed: largest error of each result, relative to its largest value; NaN where plain torch is so far off that
            it bounds nothing.
    """

    rows: Tensor
    exact: dict[str, Tensor]
    allowed: dict[str, float]


@dataclass(frozen=True)
class Verdict:
    """Largest error of one result, and its bound; both relative."""

    error: float
    allowed: float

    @property
    def right(self) -> bool:
        return self.error <= self.allowed  # neither may be NaN


def expect(case: Case, x: Inputs) -> Expected:
    """The definition in float64 on at most `MOST_ROWS` rows, the first and the last among them."""
    rows = torch.linspace(0, case.T - 1, min(case.T, MOST_ROWS), device=x.d_out.device).round().long()
    exact = by_backend(case, "reference", x.rows(rows).to(torch.float64))
    plain = by_plain_torch(case, x.rows(rows))
    allowed = {}
    for name, wanted in exact.items():
        of_plain = relative_error(plain[name], wanted)
        bounds_something = of_plain <= torch.finfo(DTYPES[case.dtype]).eps ** 0.5
        allowed[name] = 4 * of_plain + 16 * torch.finfo(torch.float32).eps if bounds_something else math.nan
    return Expected(rows, exact, allowed)


def judge(expected: Expected, outputs: dict[str, Tensor]) -> Verdict:
    """A result that is wrong, or else the one nearest to its bound; ``maps`` must have been zero before."""
    verdicts = [
        Verdict(relative_error(outputs[name][expected.rows], wanted), expected.allowed[name])
        for name, wanted in expected.exact.items()
    ]
    wrong = [each for each in verdicts if not each.right]
    return wrong[0] if wrong else max(verdicts, key=lambda each: each.error / each.allowed)


def relative_error(actual: Tensor, wanted: Tensor) -> float:
    """Largest difference over largest value; NaN if there is one."""
    return float((actual.double() - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))
