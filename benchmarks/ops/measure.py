"""One row of figures: every contender of a case, judged, then timed in turns with the bare product."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from ..timing import device_seconds, on_gpu, side_by_side, timed
from .cases import Case, make_inputs
from .contenders import BASELINES, bare_product, contenders
from .counts import count
from .gate import expect, judge
from .limits import Limits
from .memory import extra_mib


def measure(case: Case, device: str, limits: Limits, *, repetitions: int, budget: float) -> dict[str, Any]:
    """The row of one case as JSON values.

    A contender whose result is wrong, or that raises, has no ``seconds``; ``failures`` says why. Times are seconds of
    the device, and ``wall_seconds`` those until a GPU is done, the host's share included; ``over_product`` is a
    contender's median over that of the bare product, ``share_of_limit`` the floor's over the contender's.
    """
    x = make_inputs(case, device)
    expected = expect(case, x)
    found, left_out = contenders(case, device)
    right: dict[str, Callable[[], object]] = {}
    figures: dict[str, dict[str, Any]] = {}
    failures: dict[str, str] = {}
    for name, run in found.items():
        call = partial(run, x)
        x.maps.zero_()
        try:
            seconds, outputs = timed(call, device)
            verdict = judge(expected, outputs)
            if seconds > budget:  # perhaps only to compile
                seconds, _ = timed(call, device)
        except Exception as error:  # told in the row, and at the end of the run
            failures[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        figures[name] = asdict(verdict)
        if not verdict.right:
            failures[name] = f"error {verdict.error:.1e}, allowed {verdict.allowed:.1e}"
        elif seconds > budget:
            left_out[name] = f"right, but one call takes {seconds:.0f} s"
        else:
            right[name] = call
    calls: list[Callable[[], object]] = [partial(bare_product, case, x), *right.values()]
    product, *quantiles = side_by_side(calls, repetitions, device, clock=device_seconds, budget=budget)
    counts = count(case)
    floor, binds = limits.floor(counts)
    for name, each in zip(right, quantiles, strict=True):
        figures[name] |= {
            "seconds": asdict(each),
            "over_product": each.median / product.median,
            "share_of_limit": floor / each.median,
        }
        if on_gpu(device):
            figures[name]["extra_mib"] = extra_mib(found[name], x, device)
            figures[name]["wall_seconds"] = side_by_side([right[name]], repetitions, device)[0].median
    torch.compiler.reset()
    return {
        **case.facts(),
        **asdict(counts),
        "floor_seconds": floor,
        "binds": binds,
        "product_seconds": asdict(product),
        "rows_checked": len(expected.rows),
        "contenders": figures,
        "failures": failures,
        "left_out": left_out,
    }


def failed(case: Case, error: Exception) -> dict[str, Any]:
    """The row of a case that cannot even be prepared: its inputs do not fit, say."""
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return {
        **case.facts(),
        "contenders": {},
        "failures": {"every contender": reason},
        "left_out": {},
        "failure": reason,
    }


def broken(row: dict[str, Any]) -> list[str]:
    """What of a row must fail the run: a baseline that cannot run here is no fault of ours, a wrong one is."""
    return [
        f"{row['op']} {row['signal']} {row['model']} T={row['T']} {row['dtype']}, {name}: {reason}"
        for name, reason in row["failures"].items()
        if name not in BASELINES or name in row["contenders"]
    ]
