"""What is predicted of the Triton kernels, and how the tuner chooses. Nothing is timed here, and nothing compiled."""

from __future__ import annotations

import math
import os
from dataclasses import replace

import pytest

pytest.importorskip("triton.backends.nvidia", reason="triton is not installed")

import torch

from benchmarks import predict, tune
from benchmarks.offline import Compiled
from benchmarks.ops.cases import SETS
from benchmarks.ops.counts import count
from benchmarks.ops.gate import Verdict
from benchmarks.ops.tables import PREDICTION, SHAPE, read_prediction
from benchmarks.shapes import MACHINES, operands
from dexar_fast.kernels.config import LIMITS, Blocks, splits_in_waves
from dexar_fast.kernels.maps import Out, accumulate_maps

CASES = predict.cases()
TINY = next(case for case in SETS["tiny"] if case.op == "head_scores")
SMALL, LARGE, OTHER = Blocks(16, 16, 4, 1), Blocks(32, 64, 4, 2), Blocks(64, 64, 4, 2)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Compiled:
    """What every launch is taken to compile to."""
    kernel = Compiled("", warps=8, registers=128, local=0, shared=100 << 10, ptx="", cubin=b"")
    monkeypatch.setattr(predict, "compile_offline", lambda launch, capability: kernel)
    return kernel


def test_written_prediction_is_of_what_the_benchmark_measures() -> None:
    assert PREDICTION.exists()
    written = {tuple(row[name] for name in SHAPE): row for row in read_prediction()}
    for case in CASES:
        row = written.pop(tuple(getattr(case, name) for name in SHAPE))
        assert (row["flops"], row["bytes"]) == (count(case).operations, count(case).bytes)
        assert row["predicted_s"] == pytest.approx(sum(each["seconds"] for each in row["launches"]))
    assert not written


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_nothing_is_predicted_to_beat_the_limits(compiled, case) -> None:
    row = predict.row_of(case)
    floor, limit = predict.LIMITS.floor(count(case))
    assert row["limit"] == limit
    assert floor < row["predicted_s"]
    assert row["share"] == pytest.approx(floor / row["predicted_s"])
    names = [each["name"] for each in row["launches"]]
    assert row["predicted_s"] == pytest.approx(sum(each["seconds"] for each in row["launches"]))
    if case.op == "score_and_accumulate":
        assert len({"weigh_kernel", "accumulate_maps_kernel"} & {*names}) == 1


def test_programs_of_an_sm(compiled: Compiled) -> None:
    assert predict.programs_per_sm(compiled) == 2  # by registers and by shared memory
    assert predict.programs_per_sm(replace(compiled, registers=129)) == 1
    assert predict.programs_per_sm(replace(compiled, shared=114 << 10)) == 1
    assert predict.programs_per_sm(replace(compiled, warps=4, registers=32, shared=0)) == 16  # by threads


def test_every_launch_is_predicted(compiled) -> None:
    """And what it moves: partial maps of head ranges are written, summed and added."""
    case = next(case for case in CASES if case.op == "accumulate_maps" and case.T == 512)
    steps = predict.steps(case)
    assert [step.name for step in steps] == ["accumulate_maps_kernel", "sum", "sum"]
    tile = LIMITS[90].maps[0]
    splits = steps[0].programs // (math.ceil(case.T / tile.M) * math.ceil(case.N / tile.N))
    assert steps[0].bytes == splits * case.T * case.N * 4
    assert steps[1].bytes == (splits + 1) * case.T * case.N * 4


@pytest.mark.parametrize("programs", [1, 7, 16, 20, 100, 131, 132, 133, 224, 256, 1000])
def test_work_is_cut_into_whole_waves(programs: int) -> None:
    """At most a quarter of the processors' time is idle, and no cut makes it more."""

    def busy(splits: int) -> float:
        waves = programs * splits / 132
        return waves / math.ceil(waves)

    splits = splits_in_waves(MACHINES[90], Blocks(128, 64, 8, 3), programs, most=512)
    assert busy(splits) >= max(0.75, busy(1))


@pytest.mark.parametrize(("stride_t", "far"), [(4096, False), (1 << 23, False), (1 << 26, True)])
def test_cells_of_maps_that_lie_far_apart_have_offsets_of_64_bits(stride_t: int, far: bool) -> None:
    case = next(case for case in CASES if case.op == "accumulate_maps" and case.N == 16384)
    maps = torch.empty_strided((case.T, case.N), (stride_t, 1), device="meta")
    weights = torch.empty(case.T, case.H, device="meta")
    launches, _ = accumulate_maps(operands(case, MACHINES[90]), [Out("gradient", 0, maps)], weights[None], None)
    assert launches[0].arguments["FAR"] == far
    assert launches[0].arguments["BLOCK_T"] * stride_t < 2**31 or far


@pytest.mark.parametrize(("stride_t", "far"), [(4096, False), (1 << 24, True)])
def test_rows_that_lie_far_apart_have_offsets_of_64_bits(stride_t: int, far: bool) -> None:
    case = next(case for case in CASES if case.op == "accumulate_maps" and case.N == 16384)
    x = operands(case, MACHINES[90])
    assert x.d_out is not None
    x = replace(x, d_out=torch.empty_strided(tuple(x.d_out.shape), (stride_t, x.d_out.stride(1), 1), device="meta"))
    maps, weights = torch.empty(case.T, case.N, device="meta"), torch.empty(1, case.T, case.H, device="meta")
    launches, _ = accumulate_maps(x, [Out("gradient", 0, maps)], weights, None)
    assert launches[0].arguments["ROWS_FAR"] == far
    assert case.T * stride_t < 2**31 or far


@pytest.mark.parametrize("products", [1, 2])
def test_candidates_are_different_and_begin_with_what_is_used(products: int) -> None:
    found = tune.candidates(LARGE, products, rehearsal=False)
    assert found[0] == LARGE
    assert len(set(found)) == len(found) > 10


def row_of(op: str, seconds: dict[Blocks, float]) -> dict:
    ordered = sorted(seconds.items(), key=lambda pair: pair[1])
    return {"op": op, "products": 1, "candidates": [{**blocks._asdict(), "seconds": each} for blocks, each in ordered]}


def test_blocks_that_lose_least_over_all_launches_are_proposed() -> None:
    rows = [
        row_of("head_scores", {SMALL: 1.0, LARGE: 1.2, OTHER: 0.1}),
        row_of("head_scores", {SMALL: 9.0, LARGE: 5.0}),  # OTHER does not run
        row_of("accumulate_maps", {SMALL: 1.0}),
    ]
    of_scores, of_maps = tune.paste(rows)
    assert of_scores.startswith(f"head_scores, 1 products: {LARGE}")
    assert of_scores.endswith(f"{12**0.5:.2f} times each launch's best")
    assert of_maps.startswith(f"accumulate_maps, 1 products: {SMALL}")


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="runs in Triton's interpreter")
@pytest.mark.usefixtures("triton_interpreter")
def test_what_computes_wrong_results_has_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    row = tune.tune(TINY, "cpu", repetitions=1, budget=1.0)
    assert len(row["candidates"]) == 2
    assert row["failures"] == []
    monkeypatch.setattr(tune, "judge", lambda expected, outputs: Verdict(error=1.0, allowed=1e-6))
    row = tune.tune(TINY, "cpu", repetitions=1, budget=1.0)
    assert row["candidates"] == []
    assert [failure["reason"] for failure in row["failures"]] == 2 * ["error 1.0e+00, allowed 1.0e-06"]
