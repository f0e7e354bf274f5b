"""Short answers in batches (`Explainer.explain_many`), against one by one: of eight prompts, and of one prompt.

Prediction (mid-size model on a CPU, T = 8 answer tokens behind P = 608 prompt tokens, from the end-to-end table): one
answer costs 1.18 forwards of its prompt, 0.18 of which are the answer pass.

- Different prompts: every prompt still runs, one after the other. 64 rows in one answer pass instead of 8 times 8 make
  its products thicker and its calls fewer: 0.18 should become some 0.08, so the ratio is about 1.18 / 1.08 = 1.1.
- One prompt: it runs once for eight answers, so an answer costs 1 / 8 + 0.08 = 0.2: the ratio is about 6.

Why prompts do not run together: on one core, eight prompts in one forward took 1 / 0.92 times as long as one after the
other at P = 608 and 1 / 1.06 times at P = 96; 700 rows fill the products as well as 5,000. A model so small that its
calls cost more than its products (2 layers of width 64, P = 96) would gain, up to 3.4 times.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dexar_fast import Explainer, ExplainIdsRequest, Explanation

from . import models
from .end_to_end.cases import SHAPES
from .end_to_end.measure import GATES
from .files import RESULTS, put_between_markers, write_results
from .resume import add_resume, earlier, row_of
from .timing import described, environment, side_by_side, slug


def requests_of(model: Any, n: int, length: int) -> dict[str, list[ExplainIdsRequest]]:
    """By case, ``n`` requests with random answers of ``length`` tokens."""
    generator = torch.Generator().manual_seed(3)
    answers = torch.randint(10, 30000, (n, length), generator=generator).to(model.device)
    one = models.prompt(model)
    different = [models.prompt(model, after=20 + number) for number in range(n)]
    return {
        "different prompts": [ExplainIdsRequest(inputs, ids) for inputs, ids in zip(different, answers)],
        "answers of one prompt": [ExplainIdsRequest(one, ids) for ids in answers],
    }


def measure(
    explainer: Explainer, case: str, requests: list[ExplainIdsRequest], device: str, repetitions: int
) -> dict[str, Any]:
    """One row: seconds per answer, one by one and in one batch, in turns; ``wrong`` where the two do not agree."""

    def one_by_one() -> list[Explanation]:
        return [explainer.explain_ids(request.model_inputs, request.answer_ids, method="dexar") for request in requests]

    def together() -> list[Explanation]:
        n_rows = sum(len(request.answer_ids) for request in requests)  # "auto" would part long answers
        return list(explainer.explain_many(requests, batch_size=len(requests), row_chunk=n_rows, method="dexar"))

    found = together()
    if any(e.settings["batch"] != len(requests) for e in found):
        raise RuntimeError(f"{case}: the requests did not run together; no speed is shown")
    difference = max(largest_difference(*pair) for pair in zip(found, one_by_one(), strict=True))
    wrong = {}
    if not difference <= GATES[explainer.model.dtype]:  # NaN is no agreement
        wrong["wrong"] = f"results differ from one by one by {difference:.1e}; no speed is shown"
    alone, batched = side_by_side([one_by_one, together], repetitions=repetitions, device=device)
    return {
        "case": case,
        "requests": len(requests),
        "answer_tokens": len(requests[0].answer_ids),
        "one_by_one_s": asdict(alone),
        "batch_s": asdict(batched),
        "one_by_one_over_batch": alone.median / batched.median,
        "largest_difference": difference,
        **wrong,
    }


def largest_difference(one: Explanation, other: Explanation) -> float:
    """Over maps and scores, each relative to the largest value there is; NaN if there is one."""
    differences = []
    for name in ("token_maps", "answer_map", "token_weights", "image_scores", "text_scores"):
        ours, theirs = getattr(one, name), getattr(other, name)
        differences.append(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30))
    return float(np.max(differences))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| requests | answer tokens | one by one, per answer | in one batch, per answer | one by one / batch |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        n = row["requests"]
        if "wrong" in row:
            lines.append(f"| {n} {row['case']} | {row['answer_tokens']} | {row['wrong']} | | |")
            continue
        alone, batched = (row[name]["median"] / n * 1e3 for name in ("one_by_one_s", "batch_s"))
        lines.append(
            f"| {n} {row['case']} | {row['answer_tokens']} | {alone:.1f} ms | {batched:.1f} ms | "
            f"{row['one_by_one_over_batch']:.2f}x |"
        )
    return "\n".join(lines)


def main(given: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.run batches", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shape", choices=SHAPES, default="mid")
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--lengths", type=int, nargs="+", default=[8])
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--out", type=Path, default=RESULTS)
    add_resume(parser)
    parser.add_argument("--page", type=Path, default=None, help="also put the table into this file")
    options = parser.parse_args(given)

    where = environment(options.device)
    explainer = Explainer(SHAPES[options.shape](device=options.device))
    path = options.out / f"batches-{options.shape}-{slug(where)}.json"
    before = earlier(path, where, resume=options.resume)
    rows: list[dict[str, Any]] = []
    for length in options.lengths:
        for case, requests in requests_of(explainer.model, options.requests, length).items():
            kept = row_of(before, {"case": case, "requests": options.requests, "answer_tokens": length})
            rows.append(kept or measure(explainer, case, requests, options.device, options.repetitions))
            write_results(path, {"environment": where, "shape": options.shape, "rows": rows})
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    text = f"{table(rows)}\n\nMedian of {options.repetitions} runs on {described(where)}."
    print(f"\n{text}\n\nWritten: {path}")
    if options.page is not None:
        put_between_markers(options.page, "batches", text)
    wrong = [f"{row['case']}, {row['answer_tokens']} tokens: {row['wrong']}" for row in rows if "wrong" in row]
    if wrong:
        sys.exit("Wrong results, which have no speed:\n" + "\n".join(wrong))
