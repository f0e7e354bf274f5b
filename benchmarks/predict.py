"""Predict how fast the kernels run on an H100, from what the compiler made of them: ``python -m benchmarks.predict``.

Counts operations and bytes of each launch, compiles it for sm_90, and says which share of the binding limit it should
reach. Writes ``benchmarks/results/prediction-h100.json`` and the table in ``docs/kernels.md``. No GPU is needed and
nothing is measured: a prediction to hold a measurement against.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from dexar_fast.atomic import write_atomically
from dexar_fast.kernels.head_scores import head_scores
from dexar_fast.kernels.launch import Launch, Operands
from dexar_fast.kernels.maps import accumulate_maps

from .offline import Compiled, compile_offline
from .shapes import MACHINES, SHAPES, Shape, operands

ROOT = Path(__file__).resolve().parent.parent
CAPABILITY = 90
SIGNALS = ("gradient", "score_gradient")

# H100 SXM5. The first two are rates that programs reach, not those of the data sheet.
CLOCK = 1.755e9
PRODUCT_RATE = 798e12  # of a bfloat16 product of size 8192
COPY_RATE = 3.0e12  # of a copy within the device, bytes read and written
L2_RATE = 5.5e12  # bytes a second into all SMs; assumed
TENSOR_CLOCKS_PER_FLOP = 1 / 4096  # of one SM, dense, half precision
LANES = 128  # instructions of one SM a clock
REGISTERS = 65536
SHARED = 228 * 1024
LAUNCH_SECONDS = 3e-6

# Instructions per element behind the products of a tile that needs no mask, with half-rate ones counted twice.
# Estimated from the source; tiles that do need masks, at the ends of each key set, take about four times as many.
EPILOGUE = {
    ("head_scores", "gradient"): 2.0,
    ("head_scores", "score_gradient"): 9.0,
    ("maps", "gradient"): 2.5,
    ("maps", "score_gradient"): 7.0,
}


@dataclass(frozen=True)
class Row:
    """One launch on one shape. `share` is of the limit that binds: the product rate or the copy rate."""

    op: str
    signal: str
    shape: str
    T: int
    H: int
    H_kv: int
    D: int
    N: int
    K: int
    dtype: str
    flops: float
    bytes: float
    predicted_s: float
    limit: str
    share: float
    registers: int
    shared_bytes: int
    programs: int
    programs_per_sm: int
    waves: float


def predict(shape: Shape, op: str, signal: str) -> Row:
    """Time of one op: the slowest of tensor cores with what follows them, L2 and memory, in whole waves."""
    x = operands(shape, signal, MACHINES[CAPABILITY])
    launch = _launch(x, op, signal)
    compiled = compile_offline(launch, CAPABILITY)
    M = launch.arguments["BLOCK_M" if op == "head_scores" else "BLOCK_T"]
    N = launch.arguments["BLOCK_N"]
    products = 2 if signal == "score_gradient" else 1
    flops, moved = _work(shape, op, products)

    # One tile of one program: M x N elements, for each product D deep.
    tile_flops = 2 * M * N * shape.D * products
    tiles = flops / tile_flops
    tensor = tile_flops * TENSOR_CLOCKS_PER_FLOP
    epilogue = M * N * EPILOGUE[op, signal] / LANES
    resident = _resident(compiled)
    # Programs of an SM overlap one's products with the other's epilogue; a single one does them in turn.
    clocks = max(tensor, epilogue) if resident > 1 else tensor + epilogue
    streamed = N if op == "head_scores" else M + N / (shape.H // shape.H_kv)
    l2_clocks = streamed * shape.D * 2 * products / (L2_RATE / CLOCK / x.machine.processors)
    programs = math.prod(launch.grid)
    waves = programs / (x.machine.processors * resident)
    idle = math.ceil(waves) / waves
    busy = tiles * max(clocks, l2_clocks) / x.machine.processors / CLOCK * idle
    seconds = LAUNCH_SECONDS + max(busy, moved / COPY_RATE)
    limits = {"product rate": flops / PRODUCT_RATE, "copy rate": moved / COPY_RATE}
    limit = max(limits, key=lambda name: limits[name])
    return Row(
        op, signal, shape.name, shape.T, shape.H, shape.H_kv, shape.D, shape.N, shape.K, "bfloat16", flops, moved,
        seconds, limit, limits[limit] / seconds, compiled.registers, compiled.shared, programs, resident, waves,
    )  # fmt: skip


def _launch(x: Operands, op: str, signal: str) -> Launch:
    if op == "head_scores":
        return head_scores(x, signal)[0][0]
    maps, per_head = torch.empty(x.T, x.N, device="meta"), torch.empty(x.T, x.H, device="meta")
    return accumulate_maps(x, signal, per_head, per_head if signal != "gradient" else None, maps, None)[0][0]


def _work(shape: Shape, op: str, products: int) -> tuple[float, float]:
    """Operations on keys that are seen, and bytes that have to be moved at least once."""
    T, H, H_kv, D, N, K = shape.T, shape.H, shape.H_kv, shape.D, shape.N, shape.K
    keys = K - T / 2 if op == "head_scores" else N  # causal rows: the mean over the rows
    per_row, per_key = T * H * D * 2, H_kv * (K if op == "head_scores" else N) * D * 2
    out = 4 * 4 * T * H if op == "head_scores" else 2 * 4 * T * N + 4 * T * H  # maps are read and written
    return 2.0 * T * H * D * keys * products, float(products * (per_row + per_key) + out)


def _resident(compiled: Compiled) -> int:
    """Programs that an SM holds at once."""
    threads = 32 * compiled.warps
    registers = math.ceil(compiled.registers / 8) * 8 * threads
    return max(1, min(REGISTERS // registers, SHARED // (compiled.shared + 1024), 2048 // threads))


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| op | signal | shape (T x N, K) | registers | shared | programs (an SM) | operations | bytes | predicted | "
        "share of |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| `{row.op}` | `{row.signal}` | {row.shape}: {row.T} x {row.N}, {row.K} | {row.registers} | "
            f"{row.shared_bytes // 1024} KiB | {row.programs} ({row.programs_per_sm}) | {row.flops / 1e9:.1f} G | "
            f"{row.bytes / 1e6:.0f} MB | {row.predicted_s * 1e6:.0f} µs | {row.share:.0%} of the {row.limit} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "prediction-h100.json")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs" / "kernels.md")
    options = parser.parse_args()
    rows = [predict(shape, op, signal) for shape in SHAPES for signal in SIGNALS for op in ("head_scores", "maps")]
    text = table(rows)
    print(text)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    prediction = {"device": "NVIDIA H100 SXM5", "rows": [asdict(row) for row in rows]}
    write_atomically(options.out, f"{json.dumps(prediction, indent=1)}\n".encode())
    _put_between_markers(options.docs, text)


def _put_between_markers(path: Path, text: str) -> None:
    start, end = "<!-- prediction -->", "<!-- /prediction -->"
    before, rest = path.read_text().split(start)
    _, after = rest.split(end)
    write_atomically(path, f"{before}{start}\n{text}\n{end}{after}".encode())


if __name__ == "__main__":
    main()
