"""How close is `Explainer.estimate`? Its seconds and peak memory beside those measured, at several answer lengths.

Estimates are taken between the runs, so that both meet the same machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from .end_to_end.calls import Calls
from .end_to_end.cases import SHAPES, Case
from .end_to_end.memory import in_fresh_process, peak
from .files import RESULTS, ROOT, put_between_markers, write_results
from .models import IMAGE_TOKEN_ID
from .timing import described, environment, on_gpu, slug, timed

LENGTHS = [8, 32, 128, 512, 2048]
IMAGE_TOKENS = 576


def measure(calls: Calls, shape: str, length: int, device: str, repetitions: int) -> dict[str, Any]:
    """One row: seconds and MiB, estimated and measured; seconds are medians."""
    prompt = calls.inputs["input_ids"][0]
    P, N = len(prompt), int((prompt == IMAGE_TOKEN_ID).sum())
    calls.explain(length)
    estimates, seconds, taken = [], [], []
    for _ in range(repetitions):
        call, estimate = timed(lambda: calls.explainer.estimate(P, N, length, method="dexar"), device)
        taken.append(call)
        estimates.append(estimate)
        seconds.append(timed(lambda: calls.explain(length), device)[0])
    case = Case(shape, N, length)
    peaks = {
        what: peak(calls, what, length) if on_gpu(device) else in_fresh_process(case, what)
        for what in ("explain", "plain")
    }
    return {
        "answer_tokens": length,
        "estimated_s": median(each.seconds for each in estimates),
        "measured_s": median(seconds),
        "estimating_s": median(taken),
        "bound": {each.name: each.bound for each in estimates[0].stages},
        "estimated_peak_mib": estimates[0].peak_bytes / 2**20,
        "measured_peak_mib": peaks["explain"],
        "estimated_plain_peak_mib": estimates[0].plain_peak_bytes / 2**20,
        "measured_plain_peak_mib": peaks["plain"],
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| answer tokens | seconds: estimated, measured | peak MiB: estimated, measured | of a plain forward |",
        "|---:|---:|---:|---:|",
    ]
    for row in rows:
        seconds = f"{row['estimated_s']:.2f}, {row['measured_s']:.2f}"
        peak, plain = (
            f"{row[f'estimated_{name}_mib']:.0f}, {row[f'measured_{name}_mib']:.0f}" for name in ("peak", "plain_peak")
        )
        lines.append(f"| {row['answer_tokens']} | {seconds} | {peak} | {plain} |")
    return "\n".join(lines)


def main(given: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.run estimate", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shape", choices=SHAPES, default="mid")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs" / "benchmarks.md")
    options = parser.parse_args(given)
    where = environment(options.device)
    calls = Calls.prepare(options.shape, IMAGE_TOKENS, options.device)
    rows: list[dict[str, Any]] = []
    for length in options.lengths:
        rows.append(measure(calls, options.shape, length, options.device, options.repetitions))
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    text = f"{table(rows)}\n\nSeconds are medians of {options.repetitions} runs, on {described(where)}."
    print(f"\n{text}")
    path = options.out / f"estimate-{options.shape}-{slug(where)}.json"
    write_results(path, {"environment": where, "shape": options.shape, "rows": rows})
    put_between_markers(options.docs, "estimate", text)
