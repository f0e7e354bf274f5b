"""Predict how fast the kernels run on an H100, from what the compiler made of them: ``python -m benchmarks.predict``.

Counts operations and bytes of every launch, compiles those with products for sm_90, and says which share of the binding
limit an op should reach. Writes ``benchmarks/results/prediction-h100.json``, printed beside the measurement by
`benchmarks.ops`, and the table in ``docs/kernels.md``. No GPU is needed and nothing is measured: a prediction to hold a
measurement against.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor

from dexar_fast.kernels.few import has_few_rows, score_and_accumulate
from dexar_fast.kernels.head_scores import head_scores
from dexar_fast.kernels.launch import Launch
from dexar_fast.kernels.maps import Out, accumulate_maps

from .files import ROOT, put_between_markers, write_results
from .offline import Compiled, compile_offline
from .ops.cases import EVERY, OF_GRADIENT, SETS, SIGNALS_OF_LAYER, Case
from .ops.counts import count
from .ops.limits import Limits
from .ops.tables import PREDICTION
from .shapes import MACHINES, operands

CAPABILITY = 90

# H100 SXM5: a bfloat16 product of size 8192, and a copy within the device; rates that programs reach.
LIMITS = Limits(operations_per_s=798e12, bytes_per_s=3.0e12)
CLOCK = 1.755e9
L2_RATE = 5.5e12  # bytes a second into all SMs; assumed
L2_BYTES = 30e6  # that stay between two launches; assumed
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
    ("head_scores", "every"): 15.0,
    ("accumulate_maps", "every"): 16.0,
}


@dataclass(frozen=True)
class Predicted:
    """One launch: the time it should take, and what that was derived from.

    Attributes:
        name: of the kernel; "sum" for torch's own, which adds up partial maps.
        bytes: moved through memory or the L2 cache besides the operands of products.
        registers, shared_bytes, programs_per_sm, waves: of kernels with products, else 0.
    """

    name: str
    seconds: float
    bytes: int
    programs: int = 0
    registers: int = 0
    shared_bytes: int = 0
    programs_per_sm: int = 0
    waves: float = 0.0


def cases() -> list[Case]:
    """Those of the GPU benchmark that the model below covers."""
    return [
        case
        for case in SETS["gpu"]
        if case.op in OF_GRADIENT and case.dtype == "bfloat16" and case.signal in {signal for _, signal in EPILOGUE}
    ]


def launches(case: Case) -> list[Case]:
    """The kernels with products of an op, as cases of their own: a layer's scores and its maps."""
    of_scores, of_maps = (EVERY, EVERY) if case.signal == EVERY else (case.signals[0], case.signals[-1])
    both = replace(case, op="head_scores", signal=of_scores), replace(case, op="accumulate_maps", signal=of_maps)
    return [each for each in both if case.op in (each.op, "score_and_accumulate")]


def steps(case: Case) -> list[Predicted]:
    """Every launch of an op, in order."""
    x = operands(case, MACHINES[CAPABILITY])
    pairs = list(SIGNALS_OF_LAYER.values()) if case.signal == EVERY else [(case.signals[0], case.signals[-1])]
    signals = tuple(dict.fromkeys(of_scores for of_scores, _ in pairs))
    maps, lse = (torch.empty(x.T, size, device="meta") for size in (x.N, x.H))
    weights = torch.empty(len(signals), x.T, x.H, device="meta")
    outs = [Out(of_maps, signals.index(of_scores), maps) for of_scores, of_maps in pairs]
    of_scores, of_maps = (replace(case, op=op) for op in ("head_scores", "accumulate_maps"))
    found = []
    if "score_gradient" in case.signals and case.op != "accumulate_maps":
        found.append(of_bytes("row_dots_kernel", 2 * x.T * x.H * case.D * 2))
    if case.op == "score_and_accumulate" and has_few_rows(x, outs):
        kernels, scores = score_and_accumulate(x, signals, outs)
        written = x.T * x.H * x.N * 4 * products_of(case)
        weighed = written + size_of(scores.partial) * kernels[1].grid[1] + 2 * len(outs) * size_of(maps)
        found.append(of_products(of_scores, kernels[0], written + size_of(scores.partial)))
        return [*found, of_bytes("weigh_kernel", weighed, kernels[1])]
    if case.op != "accumulate_maps":
        kernels, scores = head_scores(x, signals)
        found.append(of_products(of_scores, kernels[0], size_of(scores.partial)))
        found += [of_bytes("combine_scores_kernel", size_of(scores.partial), each) for each in kernels[1:]]
    if case.op != "head_scores":
        kernels, partials = accumulate_maps(x, outs, weights, lse if case.needs_attention else None)
        found.append(of_products(of_maps, kernels[0], sum(size_of(each.parts) for each in partials)))
        for each in partials:  # their sum is written, then added
            totals = sum(map(size_of, each.totals))
            found += [of_bytes("sum", size_of(each.parts) + totals), of_bytes("sum", 3 * totals)]
    return found


def of_products(case: Case, launch: Launch, extra_bytes: int) -> Predicted:
    """Time of one kernel: the slowest of tensor cores with what follows them, L2 and memory, in whole waves."""
    machine = MACHINES[CAPABILITY]
    compiled = compile_offline(launch, CAPABILITY)
    M = launch.arguments["BLOCK_M" if case.op == "head_scores" else "BLOCK_T"]
    N = launch.arguments["BLOCK_N"]
    products = products_of(case)
    counts = count(case)

    # One tile of one program: M x N elements, for each product D deep. Rows are padded to whole tiles.
    rows = case.T * case.H // case.H_kv if case.op == "head_scores" else case.T
    tile_flops = 2 * M * N * case.D * products
    tiles = counts.operations / tile_flops * (math.ceil(rows / M) * M / rows)
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
    seconds = LAUNCH_SECONDS + max(busy, counts.bytes / LIMITS.bytes_per_s) + extra_bytes / rate_of(extra_bytes)
    name = launch.kernel.__name__
    return Predicted(
        name, seconds, extra_bytes, programs, compiled.registers, compiled.shared, resident, round(waves, 3)
    )


def of_bytes(name: str, n_bytes: int, launch: Launch | None = None) -> Predicted:
    """Time of a launch that only moves bytes."""
    programs = 0 if launch is None else math.prod(launch.grid)
    return Predicted(name, LAUNCH_SECONDS + n_bytes / rate_of(n_bytes), n_bytes, programs)


def rate_of(n_bytes: int) -> float:
    """Bytes a second: what was just written and fits is read from the L2 cache."""
    return L2_RATE if n_bytes <= L2_BYTES else LIMITS.bytes_per_s


def products_of(case: Case) -> int:
    """Of a kernel: G, P or both."""
    return 1 if case.signal == "gradient" else 2


def size_of(tensor: Tensor | None) -> int:
    """Bytes; 0 of None."""
    return 0 if tensor is None else tensor.nbytes


def programs_per_sm(compiled: Compiled) -> int:
    """Programs that an SM holds at once."""
    threads = 32 * compiled.warps
    registers = math.ceil(compiled.registers / 8) * 8 * threads
    return max(1, min(REGISTERS // registers, SHARED // (compiled.shared + 1024), 2048 // threads))


def row_of(case: Case) -> dict[str, Any]:
    """The prediction of one op as JSON values; ``share`` is of the floor that `benchmarks.ops` shares refer to."""
    predicted = steps(case)
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
        "| op | signal | shape of: T x N, K | launches | registers | shared | programs (an SM) | operations | bytes | "
        "partials and G written | predicted | share of limit |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        of = [each for each in row["launches"] if each["registers"]]
        cells = [
            f"`{row['op']}`",
            f"`{row['signal']}`",
            f"{row['model']}: {row['T']} x {row['N']}, {row['K']}",
            str(len(row["launches"])),
            ", ".join(str(each["registers"]) for each in of),
            ", ".join(str(each["shared_bytes"] // 1024) for each in of) + " KiB",
            ", ".join(f"{each['programs']} ({each['programs_per_sm']})" for each in of),
            f"{row['flops'] / 1e9:.1f} G",
            f"{row['bytes'] / 1e6:.0f} MB",
            f"{sum(each['bytes'] for each in of) / 1e6:.1f} MB",
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
