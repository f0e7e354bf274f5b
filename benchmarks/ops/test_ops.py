"""The same cases and contenders under pytest-benchmark, to compare two states of the code on one machine:

    python -m pytest benchmarks/ops --benchmark-autosave      (before a change)
    python -m pytest benchmarks/ops --benchmark-compare       (after it)

``DEXAR_BENCH_SET`` (cpu) and ``DEXAR_BENCH_DEVICE`` (cpu) choose cases and device. A contender that is not here is
skipped, one whose result is wrong fails. `make bench` times contenders in turns, which is fairer between them.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from ..timing import synchronize
from .cases import SETS, Case, make_inputs
from .contenders import BASELINES, contenders
from .gate import expect, judge

DEVICE = os.environ.get("DEXAR_BENCH_DEVICE", "cpu")
CASES = SETS[os.environ.get("DEXAR_BENCH_SET", "cpu")]


@pytest.mark.parametrize("contender", ["reference", "cpp", "triton", *BASELINES])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_op(benchmark: Any, case: Case, contender: str) -> None:
    found, left_out = contenders(case, DEVICE)
    if contender not in found:
        pytest.skip(left_out[contender])
    x = make_inputs(case, DEVICE)
    verdict = judge(expect(case, x), found[contender](x))
    assert verdict.right, verdict

    def call() -> None:
        found[contender](x)
        synchronize(DEVICE)

    benchmark.group = case.id
    benchmark(call)
