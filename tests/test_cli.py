"""The command line: what it writes, prints, refuses and returns."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import dexar_fast
from dexar_fast import Explanation, InputError, NotFiniteError, SelfCheckError, UnsupportedModelError
from dexar_fast.cli import app
from dexar_fast.cli.failures import BAD_INPUT, RUN_FAILED
from dexar_fast.cli.options import Method, Normalization, TextSet, parse_layers, parse_only, parse_targets
from dexar_fast.cli.output import WORD_PIXELS, overlay_name
from dexar_fast.cli.progress import shown_progress
from dexar_fast.demo.scenes import draw_scene
from dexar_fast.inputs.targets import TARGETS
from dexar_fast.inputs.tokens import printable

from .explanations import make_explanation, scene


class StubExplainer:
    """Remembers what it was asked; answers with a made-up explanation, or fails."""

    def __init__(self) -> None:
        self.loaded: tuple[str, dict[str, Any]] | None = None
        self.asked: dict[str, Any] = {}
        self.tokens = ["a", " [red]", " st", "ar", "\n", "\x1b[31m.", " <b>"]
        self.log_probabilities: np.ndarray | None = None
        self.failure: Exception | None = None

    def from_pretrained(self, model: str, **options: Any) -> StubExplainer:
        self.loaded = (model, options)
        return self

    def explain(self, image: Image.Image, prompt: str, **options: Any) -> Explanation:
        self.asked = {"image": image, "prompt": prompt, **options}
        if self.failure is not None:
            raise self.failure
        options["progress"]("explaining", 1, 2)
        made = make_explanation(self.tokens, image=image, prompt=prompt, rows=4, cols=6)
        return replace(made, log_probabilities=self.log_probabilities)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> StubExplainer:
    explainer = StubExplainer()
    monkeypatch.setattr("dexar_fast.explainer.Explainer", explainer)
    return explainer


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    scene(64, 48).save(path)
    return path


def call(*arguments: str | Path) -> Result:
    # A wide terminal, so that nothing that a test looks for is wrapped.
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def test_explain_writes_report_overlays_and_explanation(stub: StubExplainer, picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    result = call("explain", "-m", "a/model", picture, "--prompt", "what?", "--out", out)
    assert result.exit_code == 0, result.output
    assert (out / "report.html").read_text().startswith("<!")
    saved = Explanation.load(out / "explanation.safetensors")
    assert saved.tokens == stub.tokens
    overlays = {path.name for path in (out / "overlays").iterdir()}
    assert overlays == {"answer.png", "000-a.png", "001-red.png", "002-star.png", "003-31m.png", "004-b.png"}
    assert Image.open(out / "overlays" / "002-star.png").size == (64, 48)


def test_explain_prints_the_tokens_and_where_the_files_are(stub: StubExplainer, picture: Path, tmp_path: Path) -> None:
    result = call("explain", "-m", "a/model", picture, "-p", "[bold]what?", "-o", tmp_path / "out")
    assert "[bold]what?" in result.stdout
    assert "[red]" in result.stdout, "a token is text, not markup"
    assert "\x1b[31m" not in result.stdout, "a token must not reach the terminal as a command"
    assert "\\x1b[31m." in result.stdout
    for name in ("report.html", "overlays", "explanation.safetensors"):
        assert str(tmp_path / "out" / name) in result.stdout
    rows = [line.split() for line in result.stdout.splitlines() if line.strip()[:1].isdigit()]
    words = Explanation.load(tmp_path / "out" / "explanation.safetensors").words()
    assert [row[0] for row in rows] == [str(index) for index in range(len(words))]


def test_table_shows_grounding_and_place_of_words(stub: StubExplainer, picture: Path, tmp_path: Path) -> None:
    stub.log_probabilities = np.log(np.array([(0.9, 0.1)] * len(stub.tokens)))
    result = call("explain", "-m", "a/model", picture, "-p", "what?", "-o", tmp_path)
    expected = Explanation.load(tmp_path / "explanation.safetensors").words()[1]
    row = next(line.split() for line in result.stdout.splitlines() if line.split()[1:2] == ["[red]"])
    assert row[2] == f"{expected.grounding:.2f}"
    assert " ".join(row[4:]) == expected.place


def test_quiet_prints_only_the_report(stub: StubExplainer, picture: Path, tmp_path: Path) -> None:
    result = call("explain", "-m", "a/model", picture, "-p", "what?", "-o", tmp_path, "--quiet")
    assert result.stdout == f"{tmp_path / 'report.html'}\n"
    assert result.stderr == ""


def test_no_garbage_is_looked_for_while_a_model_is_loaded(
    stub: StubExplainer, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collecting: list[bool] = []

    def from_pretrained(model: str, **options: Any) -> StubExplainer:
        collecting.append(gc.isenabled())
        if len(collecting) == 2:
            raise InputError("model: no such model")
        return stub

    monkeypatch.setattr(stub, "from_pretrained", from_pretrained)
    for code in (0, BAD_INPUT):
        assert call("explain", picture, "-p", "?", "-m", "m", "--out", tmp_path).exit_code == code
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
    assert collecting == [False, False]


def test_options_reach_the_explainer(stub: StubExplainer, picture: Path, tmp_path: Path) -> None:
    options = "--answer yes --model some/where --layers -10 --normalization reference --text-set content_only"
    methods = "--method dexar-scores --method dexar"
    more = f"{methods} --max-new-tokens 7 --device cpu --dtype bfloat16 --targets words --contrast dog"
    result = call("explain", "-m", "a/model", picture, "-p", "what?", "-o", tmp_path, *options.split(), *more.split())
    assert result.exit_code == 0, result.output
    assert stub.loaded == ("some/where", {"device": "cpu", "dtype": "bfloat16"})
    assert stub.asked["image"].size == (64, 48)
    del stub.asked["image"], stub.asked["progress"]
    assert stub.asked == {
        "prompt": "what?",
        "answer": "yes",
        "layers": -10,
        "method": ["dexar-scores", "dexar"],
        "normalization": "reference",
        "text_set": "content_only",
        "targets": "words",
        "contrast": "dog",
        "grounding": True,
        "max_new_tokens": 7,
        "only": None,
        "image_kwargs": {},
        "background": "white",
        "allow_urls": False,
    }


def test_question_and_loading_reach_the_explainer(stub: StubExplainer, picture: Path, tmp_path: Path) -> None:
    options = "--only 2:5 --background #204060 --image-kwargs do_pan_and_scan=true --image-kwargs max_pixels=500"
    more = "--load revision=v2 --load load_in_4bit=true --load device_map=auto"
    out = ["-m", "a/model", "-p", "what?", "-o", str(tmp_path)]
    result = call("explain", picture, *out, *options.split(), *more.split(), "--load", 'max_memory={"0": "9GiB"}')
    assert result.exit_code == 0, result.output
    assert stub.loaded is not None
    assert stub.loaded[1] == {
        "device": None,
        "dtype": "auto",
        "revision": "v2",
        "load_in_4bit": True,
        "device_map": "auto",
        "max_memory": {"0": "9GiB"},
    }
    assert stub.asked["only"] == (2, 5)
    assert stub.asked["background"] == "#204060"
    assert stub.asked["image_kwargs"] == {"do_pan_and_scan": True, "max_pixels": 500}


def test_chat_from_a_file(stub: StubExplainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "what?"}]}]
    (tmp_path / "chat.json").write_text(json.dumps(messages))

    def explain(**options: Any) -> Explanation:
        stub.asked = options
        return make_explanation(stub.tokens)

    monkeypatch.setattr(stub, "explain", explain)
    result = call("explain", "--messages", tmp_path / "chat.json", "-m", "a/model", "-o", tmp_path, "--quiet")
    assert result.exit_code == 0, result.output
    assert stub.asked["messages"] == messages


@pytest.mark.parametrize("command", ["explain", "profile"])
def test_a_photo_needs_a_model(stub: StubExplainer, picture: Path, command: str) -> None:
    """The embedded model would answer it, and well-formed nonsense."""
    result = call(command, picture, "-p", "Who is this?")
    assert result.exit_code == BAD_INPUT
    assert "--model: expected the model whose answer is explained" in result.stderr
    assert stub.loaded is None


@pytest.mark.parametrize(
    ("model", "what"),
    [
        ("demo", "the small embedded one: it knows drawn scenes"),
        ("demo-qwen", "a small embedded one: it knows drawn scenes"),
        ("demo-reader", "a small embedded one: it knows drawn pages of text"),
    ],
)
def test_embedded_models_are_named_loudly(
    stub: StubExplainer, picture: Path, tmp_path: Path, model: str, what: str
) -> None:
    result = call("explain", picture, "-p", "what?", "-m", model, "-o", tmp_path)
    assert f"The model is {what}, and no photos." in result.stderr.replace(" (dexar-fast demo)", "")


@pytest.mark.parametrize("text", ["last_sentence", "after_thinking", "10:20", "-5:-1", "/a (red|blue)/"])
def test_only_is_a_name_a_range_or_a_regular_expression(text: str) -> None:
    wanted: dict[str, Any] = {"10:20": (10, 20), "-5:-1": (-5, -1), "/a (red|blue)/": re.compile("a (red|blue)")}
    assert parse_only(text) == wanted.get(text, text)


@pytest.mark.parametrize("text", ["tokens", "words", "phrases", "/a (red|blue)/", "/\\//"])
def test_targets_are_a_name_or_a_regular_expression(text: str) -> None:
    expected = text if text in TARGETS else re.compile(text[1:-1])
    assert parse_targets(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [("word", "--targets: expected tokens, words, phrases or a"), ("//", "--targets"), ("/(/", "not a regular expr")],
)
def test_other_targets_are_refused(picture: Path, text: str, message: str) -> None:
    result = call("explain", "-m", "a/model", picture, "-p", "what?", "--targets", text)
    assert result.exit_code == BAD_INPUT
    assert message in result.stderr


def test_further_formats(stub: StubExplainer, picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = "explain", "-m", "a/model", picture, "-p", "what?", "-o", out
    result = call(*asked, "--csv", "--json", "--npz")
    assert result.exit_code == 0, result.output
    saved = Explanation.load(out / "explanation.safetensors")
    assert (out / "words.csv").read_text().splitlines()[1].startswith("a,0,1,")
    assert len((out / "tokens.csv").read_text().splitlines()) > len(saved.tokens)  # one has a line break
    values = json.loads((out / "explanation.json").read_text())
    assert (values["answer"], len(values["answer_maps"])) == (saved.answer, 1)
    assert Explanation.load(out / "explanation.npz").tokens == saved.tokens
    for name in ("words.csv", "tokens.csv", "explanation.json", "explanation.npz"):
        assert str(out / name) in result.output


def test_tables_of_another_answer_do_not_stay(stub: StubExplainer, picture: Path, tmp_path: Path) -> None:
    asked = "explain", "-m", "a/model", picture, "-p", "what?", "-o", tmp_path
    (tmp_path / "explanation.json").write_text("mine")
    assert call(*asked, "--csv").exit_code == 0
    assert call(*asked, "--npz").exit_code == 0
    assert not (tmp_path / "words.csv").exists()
    assert (tmp_path / "explanation.npz").exists()
    assert (tmp_path / "explanation.json").read_text() == "mine"  # no run of ours wrote it


def test_targets_and_contrast_of_the_demo(tmp_path: Path) -> None:
    """The real thing: table, report and overlays are of the targets."""
    image = tmp_path / "scene.png"
    draw_scene(24, scale=4).image.save(image)
    answer = "a large blue circle . a small white square ."
    options = ["--targets", "phrases", "--contrast", "red", "--quiet", "--out"]
    result = call(
        "explain", "-m", "demo", image, "-p", "describe the image", "--answer", answer, *options, tmp_path / "out"
    )
    assert result.exit_code == 0, result.output
    overlays = {path.name for path in (tmp_path / "out" / "overlays").iterdir()}
    assert overlays == {"answer.png", "000-a-large-blue-circle.png", "001-a-small-white-square.png"}
    saved = Explanation.load(tmp_path / "out" / "explanation.safetensors")
    assert saved.row_texts == ["a large blue circle", "a small white square"]
    assert {foil.text.strip() for foil in saved.foils or () if foil} == {"red"}
    chosen = "-m", "demo", "-p", "what?", "-a", answer, "--targets", "/blue/", "-o", tmp_path / "out"
    shown = call("explain", image, *chosen)
    assert re.search(r"# +target +grounding", shown.stdout)
    assert re.search(r"\n *0 +blue +\d", shown.stdout)


def test_word_overlays_of_a_large_image_are_small(stub: StubExplainer, tmp_path: Path) -> None:
    scene(1400, 700).save(tmp_path / "large.png")
    call("explain", "-m", "a/model", tmp_path / "large.png", "-p", "what?", "-o", tmp_path)
    assert Image.open(tmp_path / "overlays" / "answer.png").size == (1400, 700)
    assert Image.open(tmp_path / "overlays" / "000-a.png").size == (WORD_PIXELS, WORD_PIXELS // 2)


def test_second_run_replaces_the_first(stub: StubExplainer, picture: Path, tmp_path: Path) -> None:
    call("explain", "-m", "a/model", picture, "-p", "what?", "-o", tmp_path)
    mine = tmp_path / "overlays" / "holiday.png"
    mine.write_bytes(b"not ours")
    stub.tokens = ["two", " words"]
    call("explain", "-m", "a/model", picture, "-p", "what?", "-o", tmp_path)
    overlays = {path.name for path in (tmp_path / "overlays").iterdir()}
    assert overlays == {"answer.png", "000-two.png", "001-words.png", "holiday.png"}
    assert Explanation.load(tmp_path / "explanation.safetensors").tokens == stub.tokens


def test_demo_explains_the_drawn_scene(stub: StubExplainer, tmp_path: Path) -> None:
    from dexar_fast.demo.scenes import draw_scene

    result = call("demo", "--seed", "5", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert stub.loaded is not None
    assert stub.loaded[0] == "demo"
    asked = stub.asked["image"]
    assert asked.tobytes() == draw_scene(5, scale=asked.width // 96).image.tobytes()
    assert stub.asked["prompt"] == "describe the image"


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (InputError("prompt: no place\nfor the image"), BAD_INPUT),
        (UnsupportedModelError("model: no"), BAD_INPUT),
        (SelfCheckError("layer 3"), RUN_FAILED),
        (NotFiniteError("NaN in layer 3"), RUN_FAILED),
        (RuntimeError("out of memory"), RUN_FAILED),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_failure_is_one_line_and_an_exit_code(
    stub: StubExplainer, picture: Path, tmp_path: Path, failure: Exception, code: int
) -> None:
    stub.failure = failure
    result = call("explain", "-m", "a/model", picture, "-p", "what?", "-o", tmp_path)
    assert result.exit_code == code
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("dexar-fast: ")
    assert " ".join(str(failure).split()) in line
    assert not (tmp_path / "report.html").exists()


def test_debug_lets_the_traceback_through(stub: StubExplainer, picture: Path, tmp_path: Path) -> None:
    stub.failure = SelfCheckError("layer 3")
    result = call("explain", "-m", "a/model", picture, "-p", "what?", "-o", tmp_path, "--debug")
    assert result.exception is stub.failure


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.png", "-p", "x"], "no file nowhere.png"),
        ([__file__, "-p", "x"], "not a readable image"),
        (["PICTURE", "-p", "x", "--layers", "first"], "--layers: expected"),
        (["PICTURE", "-p", "x", "--out", "PICTURE"], "--out: cannot create"),
        (["PICTURE"], "--prompt"),
        (["PICTURE", "-p", "x", "--normalization", "none"], "--normalization"),
        (["PICTURE", "-p", "x", "--text-set", "none"], "--text-set"),
        (["PICTURE", "-p", "x", "--max-new-tokens", "0"], "--max-new-tokens"),
        (["-p", "x"], "image: expected a picture"),
        (["https://host/a.png", "-p", "x"], "https://host/a.png is a URL, and nothing is fetched"),
        (["PICTURE", "-p", "x", "--only", "last"], "--only: expected last_sentence"),
        (["PICTURE", "-p", "x", "--only", "/(/"], "--only: /(/ is not a regular expression"),
        (["PICTURE", "-p", "x", "--load", "revision"], "--load: expected NAME=VALUE; got 'revision'"),
        (["PICTURE", "-p", "x", "--frame", "3"], "frame: expected a number from 0 to 0"),
        (["PICTURE", "-p", "x", "--background", "whitish"], "background: expected a colour"),
        (["--messages", "nowhere.json"], "--messages: nowhere.json is no readable JSON file"),
        (["PICTURE", "-p", "x", "--only", "1:2", "--live"], "--live: explains the answer from its beginning"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_input_is_told_before_the_model_is_loaded(
    stub: StubExplainer, picture: Path, arguments: list[str], message: str
) -> None:
    result = call("explain", "-m", "a/model", *(str(picture) if each == "PICTURE" else each for each in arguments))
    assert result.exit_code == BAD_INPUT
    assert message in result.stderr
    assert stub.loaded is None


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        (None, None),
        ("-10", -10),
        ("0", 0),
        ("4:12", (4, 12)),
        ("-4:-1", (-4, -1)),
        ("1,3,5", [1, 3, 5]),
        ("1, -2", [1, -2]),
        ("3,", [3]),
    ],
)
def test_layers(text: str | None, layers: object) -> None:
    assert parse_layers(text) == layers


@pytest.mark.parametrize("text", ["", "a", "1:2:3", "4:", "1,,2", "--1", "1.5"])
def test_layers_refused(text: str) -> None:
    with pytest.raises(InputError, match="--layers"):
        parse_layers(text)


def test_choices_are_the_engines() -> None:
    from dexar_fast.inputs.methods import COMPARISONS, METHODS
    from dexar_fast.inputs.options import NORMALIZATIONS, TEXT_SETS

    assert [str(choice) for choice in Method] == [*METHODS, *COMPARISONS]
    assert [str(choice) for choice in Normalization] == list(NORMALIZATIONS)
    assert [str(choice) for choice in TextSet] == list(TEXT_SETS)


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("Star.", "007-star.png"),
        ("../../etc/passwd", "007-etc-passwd.png"),
        ("<img src=x>", "007-img-src-x.png"),
        ("\0\n", "007-word.png"),
        ("猫", "007-猫.png"),
        ("x" * 300, f"007-{'x' * 32}.png"),
    ],
)
def test_overlay_name(word: str, name: str) -> None:
    assert overlay_name(7, word) == name


def test_printable() -> None:
    assert printable(" a\n\x1b[0m\u202eé") == " a\\n\\x1b[0m\\u202eé"


def test_progress_takes_stages_with_and_without_totals(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then draws as on a terminal
    with shown_progress(quiet=False) as progress:
        progress("loading", 0, None)
        progress("generating", 3, 256)
        progress("explaining", 2, 2)
    shown = capsys.readouterr()
    assert shown.out == ""
    for text in ("Loading the model", "Writing the answer", "Explaining", "2/2"):
        assert text in shown.err


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "-h"], ["explain", "-h"], ["info", "-h"]])
def test_help_has_examples(arguments: list[str]) -> None:
    result = call(*arguments)
    assert result.exit_code == 0
    assert "Examples:\n" in result.stdout
    assert "  dexar-fast " in result.stdout.split("Examples:")[1]


def test_version() -> None:
    assert call("--version").stdout == f"dexar-fast {dexar_fast.__version__}\n"


def test_info_as_json_and_as_a_table() -> None:
    facts = json.loads(call("info", "--json").stdout)
    assert facts == dexar_fast.info()
    table = call("info").stdout
    for value in (facts["dexar_fast"], facts["packages"]["torch"], facts["cpu"], *facts["backends"]):
        assert value in table


def test_info_on_a_model() -> None:
    report = json.loads(call("info", "--model", "demo", "--json").stdout)["model"]
    assert report["family"] == "llava"
    assert report["explained_layers"] == list(range(report["layers"]))
    assert report["grid"] == [12, 12]
    table = call("info", "--model", "demo").stdout
    for value in ("LlavaForConditionalGeneration, family llava", "map 12 x 12", "gradient path", "leaf", "passed"):
        assert value in table


def test_info_names_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dexar_fast.environment.PACKAGES", ("torch", "no-such-package"))
    assert dexar_fast.info()["packages"]["no-such-package"] is None
    assert "not installed" in call("info").stdout


def test_info_shows_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    device = {"name": "NVIDIA H100", "memory_gib": 79.2, "capability": "9.0"}
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("dexar_fast.environment._device", lambda index: device)
    assert "NVIDIA H100, 79.2 GiB, sm_9.0" in call("info").stdout


def test_demo_for_real(tmp_path: Path, root: Path) -> None:
    command = [sys.executable, "-m", "dexar_fast", "demo", "--quiet", "--out", "out"]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{Path('out', 'report.html')}\n"
    assert done.stderr == "", "no noise of transformers"
    explanation = Explanation.load(tmp_path / "out" / "explanation.safetensors")
    assert explanation.prompt == "describe the image"
    assert len(explanation.tokens) > 3
    # answer.png and one for each word
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == len(explanation.words()) + 1
