"""Measure the ops: ``python -m benchmarks.run ops [--device cuda] [--set gpu] [--only score_and_accumulate-gradient]``.

Prints a table and writes ``benchmarks/results/ops-<device>.json``, anew after every case, so that a run that is cut
short leaves what it has; with ``--resume`` it goes on from there. A case that fails is recorded, and the others go on.
Exits with 1 if a result was wrong or missing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from dexar_fast.ops import resolve_backend

from ..files import write_results
from ..resume import earlier, row_of
from ..selection import case_parser, select
from ..timing import described, environment, on_gpu
from .cases import DTYPES, SETS, Case
from .layer import beside_layer
from .limits import Limits, measure_limits
from .measure import broken, failed, measure
from .memory import in_fresh_process
from .tables import PREDICTION, layer_line, prediction_table, read_prediction, table

# Where the ops are also held against one layer's forward, by set: model, T and dtype.
BESIDE_LAYER = {"tiny": ("tiny", 5, "float32"), "gpu": ("LLaVA-1.5-7B", 512, "bfloat16")}


def main(arguments: Sequence[str]) -> None:
    parser = case_parser("ops", __doc__, SETS)
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--budget", type=float, default=10.0, help="seconds for each contender of a case")
    options = parser.parse_args(arguments)

    device: str = options.device
    repeated: dict[str, Any] = {"repetitions": options.repetitions, "budget": options.budget}
    where = environment(device)
    chosen, cases, path = select("ops", parser, options, SETS, where)

    before = earlier(path, where, resume=options.resume)
    limits = {dtype: Limits(**rates) for dtype, rates in before.get("limits", {}).items()}
    for dtype in dict.fromkeys(case.dtype for case in cases):
        limits[dtype] = limits.get(dtype) or measure_limits(DTYPES[dtype], device, tiny=chosen == "tiny")
    document: dict[str, Any] = {
        "environment": where,
        "set": chosen,
        "limits": {dtype: asdict(each) for dtype, each in limits.items()},
        **({"layer": before["layer"]} if "layer" in before else {}),
        "rows": [],
    }
    for case in cases:
        row = row_of(before, case.facts())
        is_kept = row is not None
        try:
            row = row or measure(case, device, limits[case.dtype], **repeated)
        except Exception as error:
            row = failed(case, error)
        document["rows"].append(row)
        write_results(path, document)
        print(*table([row]).splitlines()[2:], *row["failures"].items(), *["(kept)"] * is_kept, sep="\n", flush=True)
        if _goes_beside_layer(case, chosen) and "layer" not in document:
            backend = resolve_backend("auto", torch.device(device), DTYPES[case.dtype])
            document["layer"] = beside_layer(case, device, backend, **repeated)
    if not on_gpu(device):
        memory = in_fresh_process(["--set", chosen, "--only", options.only])
        for case, row in zip(cases, document["rows"], strict=True):
            for contender, mib in memory[case.id].items():
                row["contenders"].get(contender, {})["extra_mib"] = mib
    write_results(path, document)

    print(f"\n{table(document['rows'])}\n\n{described(where)}\n\nWritten: {path}")
    if "layer" in document:
        print(layer_line(document["layer"]))
    if PREDICTION.exists() and on_gpu(device):
        print(f"\nPrediction beside measurement:\n{prediction_table(document['rows'], read_prediction())}")
    failures = [failure for row in document["rows"] for failure in broken(row)]
    if failures:
        sys.exit("Wrong or missing results, which have no speed:\n" + "\n".join(failures))


def _goes_beside_layer(case: Case, chosen: str) -> bool:
    is_whole_layer = (case.op, case.signal) == ("score_and_accumulate", "gradient")
    return is_whole_layer and (case.model, case.T, case.dtype) == BESIDE_LAYER.get(chosen)
