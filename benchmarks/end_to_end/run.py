"""Measure explaining whole answers: ``python -m benchmarks.run end-to-end [--device cuda] [--set gpu] [--only T512]``.

Prints a table and writes ``benchmarks/results/end-to-end-<device>.json``, anew after every case, so that a run that is
cut short leaves what it has, and ``--resume`` goes on from there; then the tables of README.md and docs/benchmarks.md.
A case that fails (out of memory, say) is recorded, and the others go on. Exits with 1 if a result was wrong or anything
but memory failed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from ..files import RESULTS, write_results
from ..ops.limits import Limits, measure_limits
from ..resume import earlier, row_of
from ..selection import case_parser, select
from ..timing import described, environment, on_gpu
from .calls import Calls, attention_name
from .cases import SETS, Case
from .measure import measure
from .tables import PAGE, README, slopes, table, write_pages


def main(arguments: Sequence[str]) -> None:
    parser = case_parser("end-to-end", __doc__, SETS)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--budget", type=float, default=15.0, help="seconds for each way of a case")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no case after so many")
    options = parser.parse_args(arguments)

    start = time.monotonic()
    device: str = options.device
    where = environment(device)
    chosen, cases, path = select("end-to-end", parser, options, SETS, where)
    before = earlier(path, where, resume=options.resume)
    document: dict[str, Any] = {"environment": where, "set": chosen, "limits": before.get("limits", {}), "rows": []}
    rows: list[dict[str, Any]] = document["rows"]
    models = _Models(device)
    for case in cases:
        kept = row_of(before, case.facts())
        row = kept or case.facts()
        rows.append(row)
        if kept:
            print("Kept:")
        elif time.monotonic() - start > 60 * options.minutes:
            row["left_out"] = f"not begun within {options.minutes:g} minutes"
        elif attention_name(case.attention, device) is None:
            row["left_out"] = "transformers finds no FlashAttention kernel here"
        else:
            try:
                limits = _limits(document, models.of(case), tiny=chosen == "tiny")
                measure(row, case, models.of(case), limits, repetitions=options.repetitions, budget=options.budget)
            except Exception as error:
                message, _, _ = str(error).strip().partition("\n")
                row["failure"] = f"{type(error).__name__}: {message}"
                row["out_of_memory"] = isinstance(error, torch.OutOfMemoryError)
        write_results(path, document)
        print(*table([row]).splitlines()[2:], sep="\n", flush=True)

    print(f"\n{table(rows)}\n\n{slopes(rows)}\n\n{described(where)}\n\nWritten: {path}")
    if options.out == RESULTS:
        write_pages()
        print(f"Written: {README}, {PAGE}")
    broken = [f"{case.id}: {row['failure']}" for case, row in zip(cases, rows) if not row.get("out_of_memory", True)]
    broken += [f"{case.id}: {row['wrong']}" for case, row in zip(cases, rows) if "wrong" in row]
    if broken:
        sys.exit("Wrong or missing results, which have no speed:\n" + "\n".join(broken))


class _Models:
    """The model of one case after the other; the last one goes before the next one comes."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._key: tuple[str, int, str] | None = None
        self._calls: Calls | None = None

    def of(self, case: Case) -> Calls:
        key = case.shape, case.image_tokens, case.attention
        if key != self._key:
            self._key = self._calls = None
        if on_gpu(self.device):
            torch.cuda.empty_cache()  # also of what a case that failed has left
        if self._calls is None:
            attention = attention_name(case.attention, self.device)
            assert attention is not None
            self._key, self._calls = key, Calls.prepare(case.shape, case.image_tokens, self.device, attention)
        return self._calls


def _limits(document: dict[str, Any], calls: Calls, *, tiny: bool) -> Limits:
    """Of the device in the model's dtype, measured once."""
    dtype: torch.dtype = calls.model.dtype
    name = str(dtype).removeprefix("torch.")
    if name not in document["limits"]:
        document["limits"][name] = asdict(measure_limits(dtype, calls.device, tiny=tiny))
    return Limits(**document["limits"][name])
