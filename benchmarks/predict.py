"""Predict how fast the kernels run on an H100, from what the compiler made of them: ``python -m benchmarks.predict``.

Counts operations and bytes of each launch, compiles it for sm_90, and says which share of the binding limit it should
reach. Writes ``benchmarks/results/prediction-h100.json``, printed beside the measurement by `benchmarks.ops`, and the
table in ``docs/kernels.md``. No GPU is needed and nothing is measured: a prediction to hold a measurement against.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import triton

from dexar_fast.kernels.head_scores import head_scores
from dexar_fast.kernels.launch import Launch
from dexar_fast.kernels.maps import accumulate_maps

from .files import ROOT, put_between_markers, write_results
from .offline import Compiled, compile_offline
from .ops.cases import OF_GRADIENT, SETS, Case
from .ops.counts import count
from .ops.limits import Limits
from .ops.tables import PREDICTION
from .shapes import MACHINES, operands

CAPABILITY = 90
LEAST_ROWS = 512  # with fewer, launches and idle SMs decide, which nothing here knows about

# H100 SXM5: a bfloat16 product of size 8192, and a copy within the device; rates that programs reach.
LIMITS = Limits(operations_per_s=798e12, bytes_per_s=3.0e12)
CLOCK = 1.755e9
L2_RATE = 5.5e12  # bytes a second into all SMs; assumed
LANES = 128  # instructions of one SM a clock
REGISTERS = 65536
SHARED = 228 * 1024
LAUNCH_SECONDS = 3e-6

# Instructions per element behind the products of a tile that needs no mask, with half-rate ones counted twice.
# Estimated from the source; tiles that do need masks, at the ends of each key set, take about four times as many.
EPILOGUE = {
    ("head_scores", "gradient"): 2.0,
    ("head_scores", "score_gradient"): 9.0,
    ("accumulate_maps", "gradient"): 2.5,
    ("accumulate_maps", "score_gradient"): 7.0,
}


@dataclass(frozen=True)
class Predicted:
    """One launch: the time it should take, and what that was derived from."""

    op: str
    seconds: float
    registers: int
    shared_bytes: int
    programs: int
    programs_per_sm: int
    waves: float


def cases() -> list[Case]:
    """Those of the GPU benchmark that the model below covers."""
    return [
        case
        for case in SETS["gpu"]
        if case.op in OF_GRADIENT
        and case.dtype == "bfloat16"
        and case.T >= LEAST_ROWS
        and {*case.signals} <= {signal for _, signal in EPILOGUE}
    ]


def launches(case: Case) -> list[Case]:
    """The one or two launches of an op, as cases of their own: a layer's scores and its maps."""
    of_scores, of_maps = case.signals[0], case.signals[-1]
    both = replace(case, op="head_scores", signal=of_scores), replace(case, op="accumulate_maps", signal=of_maps)
    return [each for each in both if case.op in (each.op, "score_and_accumulate")]


def predict(case: Case) -> Predicted:
    """Time of one launch: the slowest of tensor cores with what follows them, L2 and memory, in whole waves."""
    machine = MACHINES[CAPABILITY]
    launch = launch_of(case)
    compiled = compile_offline(launch, CAPABILITY)
    M = launch.arguments["BLOCK_M" if case.op == "head_scores" else "BLOCK_T"]
    N = launch.arguments["BLOCK_N"]
    products = 1 + (case.signal == "score_gradient")
    counts = count(case)

    # One tile of one program: M x N elements, for each product D deep.
    tile_flops = 2 * M * N * case.D * products
    tiles = counts.operations / tile_flops
    tensor = tile_flops / (LIMITS.operations_per_s / CLOCK / machine.processors)
    epilogue = M * N * EPILOGUE[case.op, case.signal] / LANES
    resident = programs_per_sm(compiled)
    # Programs of an SM overlap one's products with the other's epilogue; a single one does them in turn.
    clocks = max(tensor, epilogue) if resident > 1 else tensor + epilogue
    streamed = N if case.op == "head_scores" else M + N / (case.H // case.H_kv)
    l2_clocks = streamed * case.D * 2 * products / (L2_RATE / CLOCK / machine.processors)
    programs = math.prod(launch.grid)
    waves = programs / (machine.processors * resident)
    idle = math.ceil(waves) / waves
    busy = tiles * max(clocks, l2_clocks) / machine.processors / CLOCK * idle
    seconds = LAUNCH_SECONDS + max(busy, counts.bytes / LIMITS.bytes_per_s)
    return Predicted(case.op, seconds, compiled.registers, compiled.shared, programs, resident, waves)


def launch_of(case: Case) -> Launch:
    """The kernel with its arguments, of tensors without memory."""
    x = operands(case, MACHINES[CAPABILITY])
    if case.op == "head_scores":
        return head_scores(x, case.signal)[0][0]
    maps, per_head = torch.empty(x.T, x.N, device="meta"), torch.empty(x.T, x.H, device="meta")
    return accumulate_maps(x, case.signal, per_head, per_head if case.needs_attention else None, maps, None)[0][0]


def programs_per_sm(compiled: Compiled) -> int:
    """Programs that an SM holds at once."""
    threads = 32 * compiled.warps
    registers = math.ceil(compiled.registers / 8) * 8 * threads
    return max(1, min(REGISTERS // registers, SHARED // (compiled.shared + 1024), 2048 // threads))


def row_of(case: Case) -> dict[str, Any]:
    """The prediction of one op as JSON values; ``share`` is of the floor that `benchmarks.ops` shares refer to."""
    predicted = [predict(launch) for launch in launches(case)]
    seconds = sum(each.seconds for each in predicted)
    counts = count(case)
    floor, limit = LIMITS.floor(counts)
    return {
        **case.facts(),
        "flops": counts.operations,
        "bytes": counts.bytes,
        "predicted_s": seconds,
        "limit": limit,
        "share": floor / seconds,
        "launches": [asdict(each) for each in predicted],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| op | signal | shape of: T x N, K | registers | shared | programs (an SM) | operations | bytes | predicted | "
        "share of limit |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        of = row["launches"]
        cells = [
            f"`{row['op']}`",
            f"`{row['signal']}`",
            f"{row['model']}: {row['T']} x {row['N']}, {row['K']}",
            ", ".join(str(each["registers"]) for each in of),
            ", ".join(str(each["shared_bytes"] // 1024) for each in of) + " KiB",
            ", ".join(f"{each['programs']} ({each['programs_per_sm']})" for each in of),
            f"{row['flops'] / 1e9:.1f} G",
            f"{row['bytes'] / 1e6:.0f} MB",
            f"{row['predicted_s'] * 1e6:.0f} µs",
            f"{row['share']:.0%} ({row['limit']})",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.predict", description=__doc__)
    parser.add_argument("--out", type=Path, default=PREDICTION)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs" / "kernels.md")
    options = parser.parse_args()
    rows = [row_of(case) for case in cases()]
    text = table(rows)
    print(text)
    write_results(options.out, {"device": "NVIDIA H100 SXM5", "triton": triton.__version__, "rows": rows})
    put_between_markers(options.docs, "prediction", text)


if __name__ == "__main__":
    main()
