"""The benchmarks' own arithmetic: what they count, whom they believe, and what they write. Nothing is timed here."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import batches
from benchmarks.files import put_between_markers
from benchmarks.memory import output_of
from benchmarks.ops import measure as measure_module
from benchmarks.ops import run as run_module
from benchmarks.ops.cases import SETS, Case, Inputs, make_inputs
from benchmarks.ops.contenders import bare_product, by_backend, by_plain_torch, contenders
from benchmarks.ops.counts import count
from benchmarks.ops.gate import expect, judge, relative_error
from benchmarks.ops.limits import Limits
from benchmarks.ops.measure import broken, measure
from benchmarks.ops.tables import HEADINGS, PAGE, prediction_table, table, write_page
from benchmarks.report import ACTIONS, long_explanation
from benchmarks.report import table as report_table
from benchmarks.run import main
from benchmarks.timing import environment, side_by_side

LIMITS = Limits(operations_per_s=1e12, bytes_per_s=1e11)
LAYER = next(case for case in SETS["tiny"] if case.op == "score_and_accumulate")
each_case = pytest.mark.parametrize("case", SETS["tiny"], ids=lambda case: case.id)


def products(case: Case, x: Inputs) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Rows, keys, and the pairs of them that the case must multiply."""
    visible = ~x.hidden
    on_image = visible & ~x.text
    value, attention = (x.d_out, x.value), (x.query, x.key)
    needed = {
        ("head_scores", "gradient"): [(*value, visible)],
        ("accumulate_maps", "gradient"): [(*value, on_image)],
        ("score_and_accumulate", "gradient"): [(*value, visible)],
        ("score_and_accumulate", "score_gradient"): [(*value, visible), (*attention, visible)],
        ("score_and_accumulate", "contribution"): [(*value, visible), (*attention, visible)],
        ("score_and_accumulate", "attention"): [(*value, visible), (*attention, visible)],
        ("score_and_accumulate", "every"): [(*value, visible), (*attention, visible)],
        ("attention_lse", ""): [(*attention, visible)],
        ("attention_columns", ""): [(*attention, on_image)],
    }
    return needed[case.op, case.signal]


@each_case
def test_operations_are_those_of_the_products(case: Case) -> None:
    x = make_inputs(case, "cpu")
    pairs = sum(int(seen.sum()) for _, _, seen in products(case, x))
    assert count(case).operations == pairs * case.H * 2 * case.D


@each_case
def test_bytes_are_those_of_inputs_and_outputs(case: Case) -> None:
    x = make_inputs(case, "cpu")
    read = []
    for rows, keys, pairs in products(case, x):
        read += [rows, keys[:, pairs.any(0)]]  # only what some row needs
    if "score_gradient" in case.signals:
        read.append(x.out)
    if case.op == "accumulate_maps":
        read.append(x.weights)
    if case.op == "attention_columns":
        read.append(x.lse)
    packed = x.keys.packed
    outputs = by_backend(case, "reference", x)
    written = [*outputs.values(), *([x.maps] if "maps" in outputs else [])]  # maps are read and written
    tensors = [*read, *written, packed.image, packed.kinds, packed.visible]
    assert count(case).bytes == sum(tensor.nbytes for tensor in tensors)


def test_floor_is_the_limit_that_binds() -> None:
    counts = count(LAYER)
    assert LIMITS.floor(counts) == (counts.bytes / 1e11, "copy")
    assert Limits(1e6, 1e11).floor(counts) == (counts.operations / 1e6, "product")


@pytest.mark.parametrize("name", SETS)
def test_cases_have_names_of_their_own_and_valid_shapes(name: str) -> None:
    cases = SETS[name]
    assert len({case.id for case in cases}) == len(cases)
    assert {case.op for case in cases} == {case.op for case in SETS["tiny"]}
    for case in cases:
        assert case.H % case.H_kv == 0
        assert case.image.stop <= case.K - case.T


def test_inputs_are_what_the_symbols_say() -> None:
    x = make_inputs(LAYER, "cpu")
    assert x.d_out.shape == x.query.shape == x.out.shape == (LAYER.T, LAYER.H, LAYER.D)
    assert x.value.shape == x.key.shape == (LAYER.H_kv, LAYER.K, LAYER.D)
    assert (~x.hidden).sum(1).tolist() == list(range(LAYER.K - LAYER.T + 1, LAYER.K + 1))
    assert (~x.text).sum() == LAYER.N
    assert [tuple(p.shape) for p in bare_product(LAYER, x)] == [(LAYER.H, LAYER.T, LAYER.K)]


@each_case
def test_everyone_who_is_here_passes_the_gate(case: Case) -> None:
    found, _ = contenders(case, "cpu")
    assert {"reference", "unfused"} <= set(found)
    for name, run in found.items():
        if name != "compiled":  # compiling takes its time
            x = make_inputs(case, "cpu")
            verdict = judge(expect(case, x), run(x))
            assert verdict.right, (name, verdict)


@each_case
@pytest.mark.parametrize("nan", [False, True], ids=["off", "NaN"])
def test_gate_stops_a_wrong_number(case: Case, nan: bool) -> None:
    x = make_inputs(case, "cpu")
    expected = expect(case, x)
    for name in expected.exact:
        x.maps.zero_()
        outputs = {key: value.clone() for key, value in by_plain_torch(case, x).items()}
        assert judge(expected, outputs).right
        result = outputs[name] = outputs[name].contiguous()
        largest = result.max()
        result.view(-1)[-1] += torch.nan if nan else largest.clamp(min=1) * (0.01 if case.dtype == "float32" else 0.5)
        assert not judge(expected, outputs).right, name


def test_rows_of_a_large_case_are_compared_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.ops.gate.MOST_ROWS", 3)
    x = make_inputs(LAYER, "cpu")
    expected = expect(LAYER, x)
    assert expected.rows.tolist() == [0, 2, 4]
    assert judge(expected, by_backend(LAYER, "reference", x)).right


def test_relative_error() -> None:
    assert relative_error(torch.tensor([1.0, 4.5]), torch.tensor([1.0, 5.0]).double()) == pytest.approx(0.1)


def wrong(run: Callable[[Inputs], dict[str, Tensor]], x: Inputs) -> dict[str, Tensor]:
    return {name: 2 * value for name, value in run(x).items()}


def raising(x: Inputs) -> dict[str, Tensor]:
    raise RuntimeError("no such instruction\nand more")


@pytest.fixture
def row_with_failures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A row in which the reference is right, another backend wrong, and a third one cannot run."""
    by_reference = partial(by_backend, LAYER, "reference")
    found = {
        "reference": by_reference,
        "cpp": partial(wrong, by_reference),
        "triton": raising,
        "unfused": partial(by_plain_torch, LAYER),
    }
    monkeypatch.setattr(measure_module, "contenders", lambda case, device: (found, {"compiled": "not asked for"}))
    return measure(LAYER, "cpu", LIMITS, repetitions=1, budget=10)


def test_a_wrong_result_has_no_speed(row_with_failures: dict[str, Any]) -> None:
    contenders = row_with_failures["contenders"]
    assert {name for name, figures in contenders.items() if "seconds" in figures} == {"reference", "unfused"}
    assert row_with_failures["failures"]["cpp"].startswith("error 1.0e+00, allowed ")
    assert row_with_failures["failures"]["triton"] == "RuntimeError: no such instruction"
    assert [line.split(": ")[0].split()[-1] for line in broken(row_with_failures)] == ["cpp", "triton"]
    lines = {line.split(" | ")[6]: line for line in table([row_with_failures]).splitlines()[2:]}
    assert list(lines) == ["reference", "cpp", "triton"]
    assert "no speed: error 1.0e+00" in lines["cpp"]
    assert "no speed: RuntimeError" in lines["triton"]


def test_a_slow_one_is_left_out_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_module, "timed", lambda call, device: (12.0, call()))
    row = measure(LAYER, "cpu", LIMITS, repetitions=1, budget=10)
    assert row["left_out"]["reference"] == "right, but one call takes 12 s"
    assert not broken(row)
    lines = table([row]).splitlines()[2:]
    assert lines
    assert all("no speed: right, but one call takes 12 s" in line for line in lines)


def test_shares_and_ratios_are_of_medians(row_with_failures: dict[str, Any]) -> None:
    row = row_with_failures
    figures = row["contenders"]["reference"]
    seconds = figures["seconds"]["median"]
    assert figures["over_product"] == pytest.approx(seconds / row["product_seconds"]["median"])
    assert figures["share_of_limit"] == pytest.approx(row["floor_seconds"] / seconds)
    assert (row["operations"], row["bytes"]) == (count(LAYER).operations, count(LAYER).bytes)


def example_row() -> dict[str, Any]:
    return {
        **LAYER.facts(),
        "binds": "product",
        "contenders": {
            "triton": {"seconds": {"median": 0.002}, "over_product": 1.25, "share_of_limit": 0.625, "extra_mib": 3.0},
            "unfused": {"seconds": {"median": 0.009}, "over_product": 5.0, "share_of_limit": 0.1, "extra_mib": 90.0},
            "compiled": {"seconds": {"median": 0.003}, "over_product": 1.9, "share_of_limit": 0.4},
        },
        "failures": {},
    }


def test_table_puts_ratios_first() -> None:
    (line,) = table([example_row()]).splitlines()[2:]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert len(cells) == len(HEADINGS)
    assert cells[6:] == ["triton", "4.50x", "1.50x", "1.25x", "62% (product)", "3.0, 90.0 MiB", "2"]


def test_prediction_stands_beside_the_measurement() -> None:
    shape = {name: getattr(LAYER, name) for name in ("op", "signal", "T", "H", "H_kv", "D", "N", "K", "dtype")}
    predicted = [{**shape, "predicted_s": 0.001, "share": 0.8}, {**shape, "T": 7, "predicted_s": 1.0, "share": 0.1}]
    (line,) = prediction_table([example_row()], predicted).splitlines()[2:]
    assert line.endswith("| 1 | 2 | 2.00x | 80% | 62% |")
    assert prediction_table([example_row()], predicted[1:]) == "No measured row was predicted."


def test_page_has_official_results_alone(tmp_path: Path) -> None:
    page, results = tmp_path / "docs" / "benchmarks.md", tmp_path / "results"
    page.parent.mkdir()
    results.mkdir()
    page.write_text("before <!-- ops -->old<!-- /ops --> after")
    write_page(page, results)
    assert "No results yet." in page.read_text()
    document = {
        "environment": {**environment("cpu"), "device": "Some <GPU> 3000"},
        "limits": {"bfloat16": {"operations_per_s": 7.98e14, "bytes_per_s": 3e12}},
        "rows": [example_row()],
    }
    (results / "ops-some-gpu-3000.json").write_text(json.dumps(document))
    (results / "ops-tiny-some-gpu-3000.json").write_text(json.dumps({**document, "rows": []}))
    write_page(page, results)
    text = page.read_text()
    assert text.startswith("before <!-- ops -->\n### Some")
    assert text.endswith("<!-- /ops --> after")
    assert text.count("###") == 1
    assert "| bfloat16 | 798 | 3e+03 |" in text
    assert "images/ops-some-gpu-3000.svg" in text
    figure = page.parent / "images" / "ops-some-gpu-3000.svg"
    first = figure.read_bytes()
    assert b"torch.bmm" in first
    write_page(page, results)
    assert figure.read_bytes() == first, "the same results give the same figure"


def test_page_is_up_to_date(tmp_path: Path) -> None:
    copy = tmp_path / PAGE.name
    copy.write_bytes(PAGE.read_bytes())
    write_page(copy)
    assert copy.read_text() == PAGE.read_text(), 'run: make bench ARGS="tables"'


def test_only_what_is_between_the_markers_changes(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("a\n<!-- x -->\nold\n<!-- /x -->\nb\n<!-- y -->\nkept\n<!-- /y -->\n")
    put_between_markers(path, "x", "new")
    assert path.read_text() == "a\n<!-- x -->\nnew\n<!-- /x -->\nb\n<!-- y -->\nkept\n<!-- /y -->\n"


def test_calls_take_turns_and_slow_ones_stop_at_the_budget() -> None:
    order: list[str] = []

    def clock(call: Callable[[], Any], device: str) -> tuple[float, None]:
        call()
        return (10.0, None) if order[-1] == "slow" else (1.0, None)

    calls = [lambda: order.append("fast"), lambda: order.append("slow")]
    fast, slow = side_by_side(calls, 5, "cpu", clock=clock, budget=25)
    assert [sorted(order[at : at + 2]) for at in (0, 2, 4)] == [["fast", "slow"]] * 3
    assert order[6:] == ["fast"] * 3
    assert (fast.repetitions, slow.repetitions) == (5, 2)
    assert (fast.median, slow.maximum) == (1.0, 10.0)


def test_no_call_always_follows_the_same_one() -> None:
    order: list[str] = []
    side_by_side([lambda: order.append("a"), lambda: order.append("b")], 8, "cpu", warm_up=False)
    assert {tuple(order[at : at + 2]) for at in range(0, 16, 2)} == {("a", "b"), ("b", "a")}


SCRATCH_AND_RESULT = """
import torch
from benchmarks.ops.cases import SETS, make_inputs
from benchmarks.ops.memory import extra_mib

def run(_):
    scratch = torch.ones(64 * 2**18)  # MiB
    return {"result": torch.full((32 * 2**18,), float(scratch[-1]))}

print(extra_mib(run, make_inputs(SETS["tiny"][0], "cpu"), "cpu"))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_memory_leaves_out_what_is_returned(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """In a process of its own, as the benchmark measures: elsewhere the allocator keeps what was freed before."""
    monkeypatch.setenv("PYTHONPATH", str(root))
    measured = output_of([sys.executable, "-c", SCRATCH_AND_RESULT])
    assert float(measured) == pytest.approx(64, abs=4)


def test_a_part_is_chosen_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = f"ops --set tiny --only attention_lse --repetitions 2 --out {tmp_path}".split()
    main(arguments)
    (path,) = tmp_path.iterdir()
    document = json.loads(path.read_text())
    (row,) = document["rows"]
    assert row["op"] == "attention_lse"
    assert {"seconds", "error", "extra_mib"} <= set(row["contenders"]["reference"])
    assert document["limits"]["float32"]["bytes_per_s"] > 0
    assert "attention_lse" in capsys.readouterr().out
    known = "ops, end-to-end, batches, lenses, data-set, report, estimate, tables"
    with pytest.raises(SystemExit, match=f"expected one of {known}; got 'opps'"):
        main(["opps"])


def test_a_wrong_result_fails_the_run(
    row_with_failures: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(run_module, "measure", lambda *_, **__: row_with_failures)
    monkeypatch.setattr(run_module, "in_fresh_process", lambda _: {LAYER.id: {"reference": 1.0, "cpp": 2.0}})
    with pytest.raises(SystemExit, match=r"no speed:\nscore_and_accumulate gradient tiny T=5 float32, cpp: error"):
        main(["ops", "--set", "tiny", "--only", LAYER.id, "--repetitions", "1", "--out", str(tmp_path)])
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text())["rows"][0]["contenders"]["reference"]["extra_mib"] == 1.0


def test_the_long_explanation_of_the_report_benchmark_is_one() -> None:
    explanation = long_explanation(150, layers=3, heads=2, cells=4)
    assert len(explanation.tokens) == len(explanation.token_maps) == 150
    lengths = {word.stop - word.start for word in explanation.words()}
    assert lengths >= {1, 2, 3}
    assert explanation.heads().shape == (3, 2)


def test_the_table_of_the_report_has_a_line_for_every_action() -> None:
    numbers = {"main_thread_ms": 1.0, "median_ms": 16.7, "p95_ms": 17.0, "longest_ms": 20.0, "long_tasks": 0}
    document = {
        "environment": {"device": "X", "cores": 2, "date": "2000-01-01"},
        "browser": "1",
        "load": 0.5,
        "tokens": 9,
        "words": 5,
        "layers": 2,
        "heads": 2,
        "bytes": 2e6,
        "write_s": 0.1,
        "opening": {"first_content_ms": 100, "interactive_ms": 200, "elements": 50},
        "rows": [{"action": name, "frames": 300, **numbers} for name, _, _ in ACTIONS],
    }
    text = report_table(document)
    assert "2.0 MB" in text
    assert text.count("| 1.0 ms | 16.7 ms | 17.0 ms | 20.0 ms | 0 in 300 frames |") == len(ACTIONS)


def test_batches_are_measured_against_one_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("before <!-- batches --><!-- /batches --> behind")
    out = tmp_path / "results"
    main(
        # More rows than run at once by default.
        f"batches --shape tiny --requests 2 --lengths 300 --repetitions 1 --page {page} --out {out}".split(),
    )
    (path,) = out.iterdir()
    rows = json.loads(path.read_text())["rows"]
    assert [row["case"] for row in rows] == ["different prompts", "answers of one prompt"]
    for row in rows:
        assert 0 <= row["largest_difference"] < 1e-3
        ratio = row["one_by_one_s"]["median"] / row["batch_s"]["median"]
        assert row["one_by_one_over_batch"] == pytest.approx(ratio)
        assert f"| 2 {row['case']} | 300 |" in page.read_text()
    assert page.read_text().startswith("before <!-- batches -->")


def test_batches_that_differ_have_no_speed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(batches, "largest_difference", lambda *_: float("nan"))
    with pytest.raises(SystemExit, match="different prompts, 2 tokens: results differ from one by one by nan"):
        main(f"batches --shape tiny --requests 2 --lengths 2 --repetitions 1 --out {tmp_path}".split())
    (path,) = tmp_path.iterdir()
    rows = json.loads(path.read_text())["rows"]
    assert len(rows) == 2
    for line in batches.table(rows).splitlines()[2:]:
        assert line.endswith("| results differ from one by one by nan; no speed is shown | | |")


def test_a_run_goes_on_where_it_was_cut_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    measured: list[str] = []

    def row_of_case(case: Case, *_: Any, **__: Any) -> dict[str, Any]:
        measured.append(case.id)
        if len(measured) == 2:
            raise KeyboardInterrupt
        if len(measured) == 3:
            raise torch.OutOfMemoryError("out of memory")
        return {**example_row(), **case.facts()}

    monkeypatch.setattr(run_module, "measure", row_of_case)
    monkeypatch.setattr(run_module, "in_fresh_process", lambda _: {case.id: {} for case in SETS["tiny"]})
    command = f"ops --set tiny --only float32 --repetitions 1 --out {tmp_path} --resume".split()
    ids = [case.id for case in SETS["tiny"] if "float32" in case.id]
    with pytest.raises(KeyboardInterrupt):
        main(command)
    with pytest.raises(SystemExit, match="every contender: OutOfMemoryError: out of memory"):
        main(command)
    assert measured == [*ids[:2], *ids[1:]]
    main(command)
    assert measured == [*ids[:2], *ids[1:], ids[1]], "what failed is tried again, and nothing else"
    monkeypatch.setattr(run_module, "environment", lambda device: {**environment(device), "device": "another"})
    (path,) = tmp_path.iterdir()
    path.rename(tmp_path / "ops-tiny-float32-another.json")
    main(command)
    assert measured[-len(ids) :] == ids, "measured elsewhere"


def test_the_definition_is_left_out_where_its_launches_alone_take_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.ops.contenders.on_gpu", lambda device: True)
    monkeypatch.setattr("benchmarks.ops.contenders.free_memory", lambda device: 1e9)
    long = next(case for case in SETS["gpu"] if (case.op, case.T, case.N) == ("head_scores", 2048, 16384))
    assert "reference" in contenders(LAYER, "cpu")[0]
    found, left_out = contenders(long, "cpu")
    assert "reference" not in found
    assert left_out["reference"].startswith("the definition, in small blocks: some ")


WITHOUT_EXTRAS = """
import sys
for name in ("pyarrow", "pandas", "matplotlib", "playwright", "rich", "typer", "fastapi", "pytest_benchmark"):
    sys.modules[name] = None
from benchmarks import run
for part in ("ops", "end-to-end", "batches"):
    try:
        run.main([part, "--help"])
    except SystemExit as found:
        assert found.code == 0, part
import benchmarks.tune
"""


def test_what_runs_on_a_gpu_machine_needs_none_of_the_extras(run_python: Callable[[str], str]) -> None:
    assert "--resume" in run_python(WITHOUT_EXTRAS)
