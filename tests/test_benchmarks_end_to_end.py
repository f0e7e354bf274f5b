"""The benchmark of whole answers: what it counts, what it writes, and what it does where a case fails."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.end_to_end import measure as measure_module
from benchmarks.end_to_end import run as run_module
from benchmarks.end_to_end.calls import Calls
from benchmarks.end_to_end.cases import SETS, SHAPES, Case
from benchmarks.end_to_end.floor import operations
from benchmarks.end_to_end.measure import largest_difference
from benchmarks.end_to_end.memory import in_fresh_process
from benchmarks.end_to_end.plots import slope
from benchmarks.end_to_end.tables import PAGE, README, table, write_pages
from benchmarks.run import main
from benchmarks.timing import Quantiles, environment


@pytest.fixture(scope="module", params=["tiny", "tiny-qwen"])
def calls(request: pytest.FixtureRequest) -> Calls:
    return Calls.prepare(request.param, 576 if request.param == "tiny" else 16, "cpu")


def test_floor_counts_what_runs(calls: Calls) -> None:
    """Against torch's own count of a forward, which knows no causal mask, and of one layer's tail."""
    decoder = calls.explainer.decoder
    config: Any = decoder.text_model.config
    L, HD, P, T = config.num_hidden_layers, config.hidden_size, calls.inputs["input_ids"].shape[1], 7
    n = P + T - 1
    before = config._attn_implementation
    config._attn_implementation = "eager"
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            decoder.text_model(inputs_embeds=torch.zeros(1, n, HD), use_cache=False)
    finally:
        config._attn_implementation = before
    products = counter.get_total_flops() - 4 * L * HD * n * n
    tail = 2 * L * (HD * HD + 3 * HD * config.intermediate_size)
    seen = sum(range(1, n + 1))
    of_rows = sum(range(P, n + 1))
    whole = products + 4 * L * HD * seen + tail * T + 2 * L * HD * of_rows
    assert operations(decoder, P, T, cached=False) == whole
    after = products * T // n + 4 * L * HD * of_rows + tail * T + 2 * L * HD * of_rows
    assert operations(decoder, P, T, cached=True) == after


def test_answers_have_the_length_that_is_measured(calls: Calls) -> None:
    ids, ran = calls.generate(6)
    assert len(ids) == len(calls.after(ids, ran).tokens) == len(calls.stream(6, block=4).tokens) == 6
    # The row of a token is the same, however it was explained.
    explained = calls.explainer.explain_ids(calls.inputs, ids, method="dexar")
    torch.testing.assert_close(
        torch.from_numpy(calls.after(ids, ran).token_maps), torch.from_numpy(explained.token_maps), rtol=1e-3, atol=1e-3
    )


def test_estimated_generation_takes_the_mean_step(calls: Calls) -> None:
    medians = [2.0, 2.0 + 4 * 0.5, 3.0, 3.0 + 4 * 1.5]  # steps of half a second, later of one and a half

    def turns(ways: list[Any]) -> list[Quantiles]:
        return [Quantiles(median, median, median, median, median, 1) for median in medians]

    assert measure_module._estimated_generation(calls, 4, turns) == pytest.approx(2 + 3 * 1.0)


def test_rehearsal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[str] = []

    def peak(case: Case, way: str) -> float:
        asked.append(way)
        return 10.0

    monkeypatch.setattr(measure_module, "in_fresh_process", peak)
    main(f"end-to-end --set tiny --repetitions 1 --out {tmp_path}".split())
    (path,) = tmp_path.iterdir()
    document = json.loads(path.read_text())
    by_case = {(row["shape"], row["answer_tokens"], row["attention"]): row for row in document["rows"]}
    naive = by_case["tiny", 3, "sdpa"]
    assert naive["largest_difference_to_naive"] < 1e-3
    assert {"plain_s", "explain_s", "generate_s", "after_s", "naive_s", "share_of_floor"} <= set(naive)
    assert set(naive["stream_over_generation"]) == {"2", "1"}
    assert set(naive["peak_mib"]) == {"plain", "explain", "naive_last_token"}
    assert by_case["tiny", 5, "sdpa"]["generate_estimated_s"] > 0
    assert by_case["tiny-qwen", 4, "flash"]["left_out"] == "transformers finds no FlashAttention kernel here"
    assert document["limits"]["float32"]["operations_per_s"] > 0
    assert len(asked) == 7
    assert "about " in capsys.readouterr().out


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_memory_of_a_fresh_process() -> None:
    assert 1 < in_fresh_process(SETS["tiny"][0], "plain") < 1000


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("results differ")])
def test_a_case_that_fails_is_recorded(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails_once(row: dict[str, Any], case: Case, *_: Any, **__: Any) -> None:
        if case.answer_tokens == 3:
            raise error
        row["explain_over_plain"] = 1.5

    monkeypatch.setattr(run_module, "measure", fails_once)
    arguments = f"end-to-end --set tiny --only tiny-N576 --out {tmp_path}".split()
    if isinstance(error, torch.OutOfMemoryError):
        main(arguments)
    else:
        with pytest.raises(SystemExit, match="no speed:\ntiny-N576-T3-sdpa: RuntimeError: results differ"):
            main(arguments)
    (path,) = tmp_path.iterdir()
    failed, other = json.loads(path.read_text())["rows"]
    assert failed["failure"].endswith(str(error))
    assert other["explain_over_plain"] == 1.5


def test_a_wrong_result_is_measured_and_shows_no_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_module, "largest_difference", lambda *_: float("nan"))
    monkeypatch.setattr(measure_module, "in_fresh_process", lambda *_: 10.0)
    command = f"end-to-end --set tiny --only tiny-N576-T3 --repetitions 1 --out {tmp_path} --resume".split()
    with pytest.raises(SystemExit, match="no speed:\ntiny-N576-T3-sdpa: results differ from the naive method's by nan"):
        main(command)
    (path,) = tmp_path.iterdir()
    (row,) = json.loads(path.read_text())["rows"]
    assert row["explain_over_plain"] > 0
    (line,) = table([row]).splitlines()[2:]
    assert "no speed is shown" in line
    assert "x" not in line.split("shown")[1]
    monkeypatch.setattr(run_module, "measure", lambda *_, **__: pytest.fail("it was measured already"))
    with pytest.raises(SystemExit, match="no speed"):
        main(command)


def test_no_case_begins_after_the_time(tmp_path: Path) -> None:
    main(f"end-to-end --set tiny --minutes 0 --out {tmp_path}".split())
    (path,) = tmp_path.iterdir()
    assert {row["left_out"] for row in json.loads(path.read_text())["rows"]} == {"not begun within 0 minutes"}


def test_a_nan_is_no_agreement(calls: Calls) -> None:
    if calls.shape == "tiny":
        ours, naive = calls.explain(2, unfiltered=True), calls.naive(2)
        assert largest_difference(ours, naive) < 1e-3
        naive.token_maps[0, 0] = torch.nan
        assert not largest_difference(ours, naive) < 1e-3


def test_slope_is_the_power() -> None:
    assert slope([(8, 3.0), (16, 12.0), (64, 192.0)]) == pytest.approx(2)


@pytest.mark.parametrize("name", SETS)
def test_cases_have_names_of_their_own_and_models(name: str) -> None:
    assert len({case.id for case in SETS[name]}) == len(SETS[name])
    assert {case.shape for case in SETS[name]} <= set(SHAPES)


def example_row(T: int) -> dict[str, Any]:
    def seconds(median: float) -> dict[str, Any]:
        return asdict(Quantiles(median, median, median, median, median, 3))

    return {
        **Case("mid", 576, T).facts(),
        "plain_s": seconds(1.0),
        "explain_s": seconds(1.25),
        "explain_over_plain": 1.25,
        "share_of_floor": 0.5,
        "generate_s": seconds(0.1 * T),
        "after_s": seconds(0.005 * T),
        "after_over_generation": 0.05,
        "share_of_floor_after": 0.4,
        "stream_over_generation": {"16": 1.13},
        "peak_mib": {"plain": 20.0, "explain": 30.0},
    }


def test_pages_have_official_results_alone(tmp_path: Path) -> None:
    readme, page, results = tmp_path / "README.md", tmp_path / "docs" / "benchmarks.md", tmp_path / "results"
    page.parent.mkdir()
    results.mkdir()
    for target in (readme, page):
        target.write_text("before <!-- end-to-end -->old<!-- /end-to-end --> after")
    write_pages(readme, page, results)
    assert "No results yet." in readme.read_text()
    failed = {**Case("mid", 576, 4096).facts(), "failure": "OutOfMemoryError: too large", "out_of_memory": True}
    document = {
        "environment": {**environment("cpu"), "device": "Some CPU 3"},
        "set": "cpu",
        "limits": {"float32": {"operations_per_s": 2e11, "bytes_per_s": 1e10}},
        "rows": [*map(example_row, (8, 32, 128)), failed],
    }
    (results / "end-to-end-some-cpu-3.json").write_text(json.dumps(document))
    (results / "end-to-end-tiny-some-cpu-3.json").write_text(json.dumps({**document, "rows": []}))
    write_pages(readme, page, results)
    assert "| 32 | 1.25x | 5.0% | 16: +13% |  | 1.5x |" in readme.read_text()
    assert "| 4096 | OutOfMemoryError: too large |" in readme.read_text()
    text = page.read_text()
    assert text.startswith("before <!-- end-to-end -->\n### Some CPU 3")
    assert text.count("###") == 1
    assert "explain after generation 1.00" in text
    assert "0.2 TFLOP/s in float32" in text
    assert (page.parent / "images" / "end-to-end-some-cpu-3.svg").exists()


def test_pages_are_up_to_date(tmp_path: Path) -> None:
    copies = tmp_path / README.name, tmp_path / PAGE.name
    for page, copy in zip((README, PAGE), copies):
        copy.write_bytes(page.read_bytes())
    write_pages(*copies)
    for page, copy in zip((README, PAGE), copies):
        assert copy.read_text() == page.read_text(), 'run: make bench ARGS="tables"'
