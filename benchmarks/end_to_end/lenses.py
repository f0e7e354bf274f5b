"""What the two maps of one pass cost, and grounding: ``python -m benchmarks.run lenses [--shapes tiny mid]``.

In one process, in turns: the plain forward, ``method="dexar"``, ``"dexar-focus"``, both, and ``"dexar"`` with
``grounding=True``.

Prediction (mid-size model on a CPU): the forward, the tail's backward and dO V^T are run once for both methods. The
word map reads the keys as well, P dO V^T: a second product over the keys that are seen and an exponential. Of
explaining, the products over keys are some 5 % at T = 128 and 15 % at T = 2048, so that both should cost 1.05 to 1.15
times ``dexar`` alone. Grounding runs the blank image's prompt and answer once, a plain forward, and the head once more,
over the rows with the image, which explaining needs not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dexar_fast.inputs.methods import FOCUS

from ..batches import largest_difference
from ..files import RESULTS, put_between_markers, write_results
from ..resume import add_resume, earlier, row_of
from ..timing import described, environment, side_by_side, slug
from .calls import Calls
from .cases import SHAPES
from .measure import GATES

IMAGE_TOKENS = 576
WAYS: dict[str, dict[str, Any]] = {
    "dexar": {"method": "dexar"},
    "focus": {"method": FOCUS},
    "both": {"method": [FOCUS, "dexar"]},
    "grounding": {"method": "dexar", "grounding": True},
}


def measure(calls: Calls, length: int, repetitions: int) -> dict[str, Any]:
    """One row: seconds of each way; ``wrong`` where a map of both differs from that of one method alone."""
    explain = {name: partial(calls.explain, length, **options) for name, options in WAYS.items()}
    both = explain["both"]()
    pairs = (both.of_method(FOCUS), explain["focus"]()), (both.of_method("dexar"), explain["dexar"]())
    difference = max(largest_difference(*pair) for pair in pairs)
    grounded = explain["grounding"]().grounding
    row: dict[str, Any] = {"shape": calls.shape, "answer_tokens": length, "largest_difference": difference}
    if not difference <= GATES[calls.model.dtype] or grounded is None or not np.isfinite(grounded).all():
        return row | {
            "wrong": f"both methods differ from one by {difference:.1e}, or grounding failed; no speed is shown"
        }
    ways: list[Callable[[], object]] = [partial(calls.plain, length), *explain.values()]
    seconds = dict(zip(("plain", *explain), side_by_side(ways, repetitions=repetitions, device=calls.device)))
    median = {name: each.median for name, each in seconds.items()}
    return row | {
        **{f"{name}_s": asdict(each) for name, each in seconds.items()},
        "dexar_over_plain": median["dexar"] / median["plain"],
        "focus_over_dexar": median["focus"] / median["dexar"],
        "both_over_dexar": median["both"] / median["dexar"],
        "grounding_over_plain": (median["grounding"] - median["dexar"]) / median["plain"],
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| model | answer tokens | dexar / plain forward | dexar-focus / dexar | both / dexar | grounding adds, in "
        "plain forwards | ms: plain, dexar, dexar-focus, both, dexar with grounding |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        begin = f"| {row['shape']} | {row['answer_tokens']} |"
        if "wrong" in row:
            lines.append(f"{begin} {row['wrong']} | | | | |")
            continue
        names = ("dexar_over_plain", "focus_over_dexar", "both_over_dexar")
        times = ", ".join(f"{1e3 * row[f'{name}_s']['median']:.3g}" for name in ("plain", *WAYS))
        ratios = " | ".join(f"{row[name]:.2f}x" for name in names)
        lines.append(f"{begin} {ratios} | {row['grounding_over_plain']:.2f} | {times} |")
    return "\n".join(lines)


def main(given: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.run lenses", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shapes", choices=SHAPES, nargs="+", default=["tiny", "mid"])
    parser.add_argument("--lengths", type=int, nargs="+", default=[8, 32, 128, 512])
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS)
    add_resume(parser)
    parser.add_argument("--page", type=Path, default=None, help="also put the table into this file")
    options = parser.parse_args(given)

    where = environment(options.device)
    path = options.out / f"lenses-{slug(where)}.json"
    before = earlier(path, where, resume=options.resume)
    rows: list[dict[str, Any]] = []
    for shape in options.shapes:
        calls = Calls.prepare(shape, IMAGE_TOKENS, options.device)
        for length in options.lengths:
            kept = row_of(before, {"shape": shape, "answer_tokens": length})
            rows.append(kept or measure(calls, length, options.repetitions))
            write_results(path, {"environment": where, "rows": rows})
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    text = f"{table(rows)}\n\n{IMAGE_TOKENS} image tokens. Median of {options.repetitions} runs on {described(where)}."
    print(f"\n{text}\n\nWritten: {path}")
    if options.page is not None:
        put_between_markers(options.page, "lenses", text)
    wrong = [f"{row['shape']}, {row['answer_tokens']} tokens: {row['wrong']}" for row in rows if "wrong" in row]
    if wrong:
        sys.exit("Wrong results, which have no speed:\n" + "\n".join(wrong))
