"""Search block sizes, warps and stages of the Triton kernels on a GPU: ``python -m benchmarks.tune [--only Qwen]``.

Takes the launches that `benchmarks.predict` predicts. All candidates of a launch are checked against the definition and
timed in turns. Prints each launch's best and a line for ``kernels/triton/config.py``: of each kernel and number of
products the blocks that lose least over all launches. Writes ``tune-<device>.json``, anew after every launch, and with
``--resume`` goes on from there.
``TRITON_INTERPRET=1 ... --device cpu`` rehearses all that on tiny shapes in Triton's interpreter.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import triton
from torch import Tensor

from dexar_fast.kernels.config import Blocks, head_scores_blocks, maps_blocks
from dexar_fast.kernels.head_scores import head_scores
from dexar_fast.kernels.launch import Operands
from dexar_fast.kernels.maps import Out, Partials, accumulate_maps
from dexar_fast.ops.triton import operands_of

from .files import RESULTS, write_results
from .ops.cases import EVERY, OF_GRADIENT, SETS, Case, Inputs, make_inputs
from .ops.gate import expect, judge
from .predict import cases, launches
from .resume import add_resume, earlier, row_of
from .timing import described, device_seconds, environment, on_gpu, side_by_side, slug

ROWS, KEYS, WARPS, STAGES = (64, 128, 256), (32, 64, 128), (4, 8), (2, 3, 4)
SUMS = (16, 128)  # of products that a thread may hold: fewer waste tensor cores, more spill


def candidates(usual: Blocks, products: int, *, rehearsal: bool) -> list[Blocks]:
    """Blocks to try, those that are used now first."""
    if rehearsal:
        return [usual, Blocks(16, 16, 4, 1)]
    grid = itertools.starmap(Blocks, itertools.product(ROWS, KEYS, WARPS, STAGES))
    held = [b for b in grid if SUMS[0] <= b.M * b.N * products / (32 * b.warps) <= SUMS[1]]
    return [usual, *(blocks for blocks in held if blocks != usual)]


def prepare(case: Case, x: Inputs, operands: Operands, blocks: Blocks) -> tuple[Callable[[], None], dict[str, Tensor]]:
    """A call of the kernel with these blocks, and what it writes; maps are added to."""
    partials: list[Partials] = []
    if case.op == "head_scores":
        steps, found = head_scores(operands, (case.signal,), blocks)
        outputs = dict(zip(("image", "text", "image_min"), found.scores[0]))
        outputs |= {} if found.lse is None else {"lse": found.lse}
    else:
        outputs = {"maps": x.maps}
        lse = x.lse if case.needs_attention else None
        steps, partials = accumulate_maps(operands, [Out(case.signal, 0, x.maps)], x.weights[None], lse, blocks=blocks)

    def call() -> None:
        for step in steps:
            step.run()
        for each in partials:
            each.add()

    return call, outputs


def tune(case: Case, device: str, *, repetitions: int, budget: float) -> dict[str, Any]:
    """Every candidate's median seconds, or why it has none, as JSON values."""
    x = make_inputs(case, device)
    expected = expect(case, x)
    attention = x.attention(with_lse=True)._replace(key=x.key[None]) if case.needs_attention else None
    operands = operands_of(x.keys.packed, case.signals, attention, x.d_out, x.value[None])
    products = products_of(case)
    usual = head_scores_blocks(operands, (case.signal,)) if case.op == "head_scores" else maps_blocks(operands, outs=1)
    right: dict[Blocks, Callable[[], None]] = {}
    failures: dict[Blocks, str] = {}
    for blocks in candidates(usual, products, rehearsal=not on_gpu(device)):
        x.maps.zero_()
        call, outputs = prepare(case, x, operands, blocks)
        try:
            call()
        except triton.runtime.errors.OutOfResources as error:
            failures[blocks] = str(error).splitlines()[0]
            continue
        verdict = judge(expected, outputs)
        if verdict.right:
            right[blocks] = call
        else:
            failures[blocks] = f"error {verdict.error:.1e}, allowed {verdict.allowed:.1e}"
    quantiles = side_by_side([*right.values()], repetitions, device, clock=device_seconds, budget=budget)
    seconds = sorted(zip(right, (each.median for each in quantiles), strict=True), key=lambda pair: pair[1])
    return {
        **case.facts(),
        "products": products,
        "usual": usual._asdict(),
        "candidates": [{**blocks._asdict(), "seconds": median} for blocks, median in seconds],
        "failures": [{**blocks._asdict(), "reason": reason} for blocks, reason in failures.items()],
    }


def products_of(case: Case) -> int:
    """G, P or both."""
    return 2 if case.signal in ("score_gradient", "contribution") else 1


def line_of(row: dict[str, Any]) -> str:
    """One launch's best, beside what is used now."""
    name = f"{row['op']} {row['signal']} {row['model']} T={row['T']} N={row['N']}"
    if not row["candidates"]:
        return f"{name}: nothing ran: {row['failures']}"
    best = row["candidates"][0]
    usual = next((each for each in row["candidates"] if of(each) == of(row["usual"])), None)
    now = "does not run" if usual is None else f"{usual['seconds'] * 1e6:.1f} µs"
    return f"{name}: {best['seconds'] * 1e6:.1f} µs with {of(best)}; now {now} with {of(row['usual'])}"


def paste(rows: list[dict[str, Any]]) -> Iterator[str]:
    """For each kernel and number of products the blocks whose times, over each launch's best, have the least mean."""
    losses: dict[tuple[str, int], dict[Blocks, list[float]]] = defaultdict(lambda: defaultdict(list))
    launched: dict[tuple[str, int], int] = defaultdict(int)
    for row in rows:
        kernel = row["op"], row["products"]
        launched[kernel] += 1
        for each in row["candidates"]:
            losses[kernel][of(each)].append(math.log(each["seconds"] / row["candidates"][0]["seconds"]))
    for kernel, by_blocks in losses.items():
        everywhere = {blocks: sum(each) for blocks, each in by_blocks.items() if len(each) == launched[kernel]}
        if not everywhere:
            yield f"{kernel[0]}, {kernel[1]} products: no blocks ran on all {launched[kernel]} launches"
            continue
        best = min(everywhere, key=lambda blocks: everywhere[blocks])
        loss = math.exp(everywhere[best] / launched[kernel])
        yield f"{kernel[0]}, {kernel[1]} products: {best}  # {loss:.2f} times each launch's best"


def of(figures: dict[str, Any]) -> Blocks:
    """The blocks that a row speaks of."""
    return Blocks(*(figures[name] for name in Blocks._fields))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.tune", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", default="", help="tune the launches whose name contains this")
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--budget", type=float, default=1.0, help="seconds for each candidate of a launch")
    parser.add_argument("--out", type=Path, default=RESULTS)
    add_resume(parser)
    options = parser.parse_args()
    if not on_gpu(options.device) and not triton.knobs.runtime.interpret:
        parser.error("--device: without a GPU this rehearses in Triton's interpreter; set TRITON_INTERPRET=1")
    if not on_gpu(options.device):
        from tests.interpreter import prepare as prepare_interpreter

        prepare_interpreter()
    chosen = cases() if on_gpu(options.device) else [case for case in SETS["tiny"] if case.op in OF_GRADIENT]
    found = dict.fromkeys(
        launch for case in chosen for launch in launches(case) if launch.signal != EVERY and options.only in launch.id
    )
    where = environment(options.device)
    path = options.out / "-".join(filter(None, ("tune", options.only, f"{slug(where)}.json")))
    before = earlier(path, where, resume=options.resume)
    rows = []
    for case in found:
        rows.append(
            row_of(before, case.facts())
            or tune(case, options.device, repetitions=options.repetitions, budget=options.budget)
        )
        print(line_of(rows[-1]), flush=True)
        write_results(path, {"environment": where, "rows": rows})
    print(f"\nFor kernels/triton/config.py, {described(where)}:", *paste(rows), f"\nWritten: {path}", sep="\n")
    wrong = [failure for row in rows for failure in row["failures"] if failure["reason"].startswith("error")]
    if wrong:
        sys.exit(f"Wrong results, which have no speed: {wrong}")


if __name__ == "__main__":
    main()
