"""Profiles: every stage is there, the seconds add up, nothing is counted twice, and the explanation is the same."""

import json
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from dexar_fast import Explainer, InputError, Profile
from dexar_fast.cli import app
from dexar_fast.runs.profiling import STAGES
from dexar_fast.stages import OTHER, Recorder, recording, stage

from .families.case import Case, all_cases
from .test_devices import DEVICE
from .test_untouched import assert_same, state
from .tiny import picture, tiny_llava, tiny_processor

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer(tiny_llava(dtype=torch.float32).to(DEVICE), tiny_processor())


@pytest.fixture(scope="module")
def profile(explainer: Explainer) -> Profile:
    return explainer.profile(picture(), "what is it?", " a small red square", layers=-2)


def test_all_stages_of_a_given_answer(profile: Profile) -> None:
    asked_for = ("generation", "grounding")
    assert [each.name for each in profile.stages] == [name for name in STAGES if name not in asked_for]
    assert all(each.seconds > 0 for each in profile.stages)


@pytest.mark.parametrize("case", all_cases().values(), ids=str)
def test_every_family(case: Case) -> None:
    prompt, n_images = next(iter(case.prompts.values()))
    explainer = Explainer(case.model(case.attentions[0]), case.processor())
    profile = explainer.profile([picture()] * n_images, prompt, " a star")
    assert {"encoding", "vision", "answer pass", "tail gradients", "self-check", "ops"} <= stages_of(profile)
    assert ("prefill" in stages_of(profile)) == (explainer.family.rows != "decoder")
    assert sum(each.seconds for each in profile.stages) == pytest.approx(profile.seconds)
    assert profile.image_tokens > 0


def stages_of(profile: Profile) -> set[str]:
    return {each.name for each in profile.stages}


def test_generation_is_a_stage_where_the_model_writes(explainer: Explainer) -> None:
    profile = explainer.profile(picture(), "what is it?", max_new_tokens=3)
    assert "generation" in [each.name for each in profile.stages]
    assert profile.answer_tokens == len(profile.explanation.tokens) <= 3


def test_stages_add_up(profile: Profile) -> None:
    assert sum(each.seconds for each in profile.stages) == pytest.approx(profile.seconds)
    assert sum(each.share for each in profile.stages) == pytest.approx(1)


def test_lengths(profile: Profile) -> None:
    assert profile.image_tokens == 9
    assert profile.prompt_tokens == len(profile.explanation.settings["prompt_ids"])
    assert profile.answer_tokens == len(profile.explanation.tokens)


def test_memory_is_told_only_where_it_is_known(profile: Profile) -> None:
    known = DEVICE.startswith("cuda")
    assert all((each.peak_mib is not None) == known for each in profile.stages)


def test_ratio_leaves_out_what_a_forward_does_not_have(profile: Profile) -> None:
    seconds = {each.name: each.seconds for each in profile.stages}
    explaining = profile.seconds - seconds["encoding"] - seconds["self-check"]
    assert profile.over_plain_forward == pytest.approx(explaining / profile.plain_forward_seconds)


def test_explanation_is_the_same(explainer: Explainer, profile: Profile) -> None:
    plain = explainer.explain(picture(), "what is it?", " a small red square", layers=-2)
    for name in ("token_maps", "answer_map", "token_weights", "image_scores", "text_scores"):
        np.testing.assert_array_equal(getattr(profile.explanation, name), getattr(plain, name))
    assert profile.explanation.settings == plain.settings


@pytest.mark.parametrize("fails", [False, True], ids=["done", "failed"])
def test_model_is_untouched(fails: bool, tmp_path: Path) -> None:
    model = tiny_llava(dtype=torch.float32)
    explainer = Explainer(model, tiny_processor())
    explainer.explain(picture(), "what is it?", " a")  # transformers notes on the modules that it has run them
    before = state(model)
    if fails:
        with pytest.raises(InputError, match="answer"):
            explainer.profile(picture(), "what is it?", "")
    else:
        explainer.profile(picture(), "what is it?", " a", trace=tmp_path / "trace.json")
    assert_same(before, state(model))


def test_table_shows_every_stage_and_the_ratio(profile: Profile) -> None:
    text = str(profile)
    for each in profile.stages:
        assert f" {each.name} " in text
    assert f"{profile.over_plain_forward:.2f}x" in text
    assert ("peak MiB" in text) == DEVICE.startswith("cuda")


def test_trace_has_the_stages_as_ranges(explainer: Explainer, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    explainer.profile(picture(), "what is it?", " a star", trace=path)
    events = json.loads(path.read_text())["traceEvents"]
    ranges = {event["name"]: event for event in events if event.get("cat") == "user_annotation"}
    assert set(STAGES) - {OTHER, "generation", "grounding"} <= set(ranges)

    def end(name: str) -> float:
        return ranges[name]["ts"] + ranges[name]["dur"]

    order = ["encoding", "vision", "prefill", "answer pass", "aggregation"]
    assert all(end(first) <= ranges[then]["ts"] for first, then in pairwise(order))
    assert ranges["answer pass"]["ts"] < ranges["ops"]["ts"] < end("ops") <= end("answer pass")


def test_trace_without_a_folder_is_refused_before_the_run(explainer: Explainer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="trace: expected a file in a folder that exists"):
        explainer.profile(picture(), "what is it?", " a", trace=tmp_path / "nowhere" / "trace.json")


def test_nested_stages_are_not_counted_twice() -> None:
    with recording(CPU) as recorder, stage("outer"):
        time.sleep(0.02)
        with stage("inner"):
            time.sleep(0.1)
        with stage("inner"):
            time.sleep(0.1)
    assert list(recorder.seconds) == [OTHER, "outer", "inner"]
    assert recorder.seconds["inner"] >= 0.2
    assert recorder.seconds["outer"] >= 0.02
    with recording(CPU) as again:  # the same stage, nested once more in itself
        started = time.perf_counter()
        with stage("outer"), stage("outer"):
            time.sleep(0.02)
        assert again.seconds["outer"] <= time.perf_counter() - started


def test_a_stage_may_go_on_as_another() -> None:
    with recording(CPU) as recorder:
        with stage("vision"):
            recorder.go_on("prefill", after="vision")
            recorder.go_on("prefill", after="vision")  # only once
        recorder.go_on("prefill", after="vision")  # and not outside
    assert list(recorder.seconds) == [OTHER, "vision", "prefill"]


def test_stages_are_left_after_an_exception() -> None:
    with recording(CPU) as recorder:
        with pytest.raises(ValueError, match="inside"), stage("outer"), stage("inner"):
            raise ValueError("inside")
        with stage("next"):
            pass
    assert list(recorder.seconds) == [OTHER, "outer", "inner", "next"]


def test_nothing_is_measured_without_a_recorder(explainer: Explainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorder, "enter", lambda *_: pytest.fail("measured"))
    explainer.explain(picture(), "what is it?", " a star")
    with recording(CPU), pytest.raises(pytest.fail.Exception, match="measured"):
        explainer.explain(picture(), "what is it?", " a star")


def test_command_line(tmp_path: Path) -> None:
    picture(96, 96).save(tmp_path / "picture.png")
    arguments = f"profile {tmp_path}/picture.png -m demo -p describe --answer star --device cpu"
    arguments += f" --trace {tmp_path}/trace.json"
    done = CliRunner().invoke(app, arguments.split(), env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "tail gradients" in done.stdout
    assert str(tmp_path / "trace.json") in done.stdout
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]


def test_grounding_is_a_stage_where_it_is_asked_for(explainer: Explainer) -> None:
    profile = explainer.profile(picture(), "what is it?", " a star", grounding=True)
    assert {each.name for each in profile.stages} - {OTHER, "self-check"} == set(STAGES) - {
        OTHER,
        "self-check",
        "generation",
    }
