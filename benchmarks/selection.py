"""Which cases a benchmark of sets of cases runs, and where its results go."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .files import RESULTS
from .resume import add_resume
from .timing import on_gpu, slug


def case_parser(part: str, description: str | None, sets: Mapping[str, Any]) -> argparse.ArgumentParser:
    """Options that all such benchmarks have."""
    parser = argparse.ArgumentParser(
        prog=f"benchmarks.run {part}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--set", choices=sets, default=None, help="of cases; default: that of the device, cpu or gpu")
    parser.add_argument("--only", default="", help="measure the cases whose name contains this")
    parser.add_argument("--out", type=Path, default=RESULTS)
    add_resume(parser)
    return parser


def select(
    part: str, parser: argparse.ArgumentParser, options: Any, sets: Mapping[str, Sequence[Any]], where: dict[str, Any]
) -> tuple[str, list[Any], Path]:
    """Name of the set, its chosen cases, and the file of their results.

    Neither a rehearsal nor some of the cases takes the place of all of them.
    """
    usual = "gpu" if on_gpu(options.device) else "cpu"
    chosen: str = options.set or usual
    cases = [case for case in sets[chosen] if options.only in case.id]
    if not cases:
        parser.error(f"--only: no case of the set {chosen} has {options.only!r} in its name")
    name = "-".join(filter(None, (part, "" if chosen == usual else chosen, options.only, slug(where))))
    return chosen, cases, options.out / f"{name}.json"
