"""`dexar-fast explain --live`: the answer token by token, in colours on a terminal and as plain text elsewhere."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console
from typer.testing import CliRunner, Result

from dexar_fast import Explainer, Explanation, NotFiniteError
from dexar_fast.cli import app
from dexar_fast.cli.failures import BAD_INPUT, RUN_FAILED
from dexar_fast.cli.live import grounding_style, legend, show_live
from dexar_fast.demo.scenes import draw_scene

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SHADED = re.compile(r"\x1b\[38;2;255;255;255;48;2;(\d+);(\d+);(\d+)m([^\x1b]*)\x1b\[0m")
TERMINAL = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
PROMPT = "describe the image"


class StubStream:
    """Tokens that are already known, in place of a model."""

    def __init__(self, tokens: list[tuple[str, float]], failure: BaseException | None = None) -> None:
        self.tokens, self.failure, self.closed = tokens, failure, False
        self.explanation = SimpleNamespace(tokens=[text for text, _ in tokens])

    def __enter__(self) -> StubStream:
        return self

    def __exit__(self, *error: object) -> None:
        self.closed = True

    def __iter__(self) -> Iterator[SimpleNamespace]:
        for text, grounding in self.tokens:
            yield SimpleNamespace(token=text, grounding=grounding)
        if self.failure is not None:
            raise self.failure


def shown(tokens: list[tuple[str, float]], **console: Any) -> str:
    file = io.StringIO()
    show_live(StubStream(tokens), Console(file=file, **console))  # type: ignore[arg-type]
    return file.getvalue()


def coloured(tokens: list[tuple[str, float]]) -> str:
    """Behind the legend."""
    text = shown(tokens, force_terminal=True, color_system="truecolor", no_color=False, width=80)
    return text.split("\n\n", 1)[1]


def test_each_token_is_on_the_terminal_before_the_next_one_is_there() -> None:
    """In a real pseudo-terminal, whose other end is read between any two tokens."""
    master, slave = pty.openpty()
    text = ""

    class Watched(StubStream):
        def __iter__(self) -> Iterator[SimpleNamespace]:
            nonlocal text
            answer = ""
            for token in super().__iter__():
                yield token
                answer += token.token
                while ESCAPE.sub("", text).split("\r\n")[-1] != answer:
                    assert select.select([master], [], [], 10)[0], f"{answer!r} is not there, only {text!r}"
                    text += read(master)

    with open(slave, "w") as terminal:
        console = Console(file=terminal, color_system="truecolor", no_color=False)
        assert console.is_terminal
        show_live(Watched([("a", 0.9), (" red", 0.1), (" star", 0.5)]), console)  # type: ignore[arg-type]
    os.close(master)
    assert ESCAPE.sub("", text).endswith("a red star")


def test_colours_follow_the_grounding() -> None:
    text = coloured([("yes", 1.0), (" no", 0.0), (" the", 0.5), (" some", 0.7)])
    found = {match[4]: tuple(map(int, match.groups()[:3])) for match in SHADED.finditer(text)}
    assert set(found) == {"yes", "no", "some"}
    assert found["yes"][2] > found["yes"][0], "blue"
    assert found["no"][0] > found["no"][2], "orange"
    assert found["some"][2] < found["yes"][2], "less of it"


def test_legend_is_short_and_has_both_ends() -> None:
    assert cell_len(legend().plain) <= 80
    assert grounding_style(0.01).bgcolor != grounding_style(0.99).bgcolor


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["two", " lines", "\n\n", "-", " x"], "two lines\n\n- x\n"),
        ([" in front"], "in front\n"),
        (["\n", " a"], "a\n"),
        (["", "", "日", "本", " 🦊"], "日本 🦊\n"),
        (["👩", "\u200d", "🚀", " e\u0301", "\u00a0!", "\u3000"], "👩\u200d🚀 e\u0301\u00a0!\u3000\n"),
        (["\x1b[2J", "\x07", "\x9b31m", "\r", "\u202e"], "\\x1b[2J\\x07\\x9b31m\\r\\u202e\n"),
        (["[red]", " :smile:", " [/]"], "[red] :smile: [/]\n"),
        (["a\tb"], "a    b\n"),
        (["long " * 60], "long " * 60 + "\n"),
    ],
    ids=["newlines", "space", "blank", "wide", "joined", "control", "markup", "tab", "long"],
)
def test_text_is_what_the_model_wrote_and_nothing_that_a_terminal_obeys(pieces: list[str], text: str) -> None:
    tokens = [(piece, 0.9) for piece in pieces]
    assert shown(tokens) == text, "in a pipe"
    assert ESCAPE.sub("", coloured(tokens)) == text, "on a terminal"


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_no_colour_on_a_terminal_that_wants_none(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in (TERMINAL | environment).items():
        monkeypatch.setenv(name, value)
    assert shown([("red", 1.0)], force_terminal=True) == "red\n"


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scene") / "scene.png"
    draw_scene(24).image.save(path)
    return path


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What was asked of a stub in place of the model."""
    asked = SimpleNamespace(options={}, failure=None, stream=None)

    def stream(image: object, prompt: str, **options: Any) -> StubStream:
        asked.options = {"prompt": prompt, **options}
        asked.stream = StubStream([("a", 0.5)], asked.failure)
        return asked.stream

    stub = SimpleNamespace(from_pretrained=lambda *_, **__: SimpleNamespace(stream=stream))
    monkeypatch.setattr("dexar_fast.explainer.Explainer", stub)
    return asked


def test_options_reach_the_stream(loaded: SimpleNamespace, scene: Path, tmp_path: Path) -> None:
    options = "--live --block 4 --layers -2 --method dexar-scores --text-set generated_only --max-new-tokens 7"
    call("explain", scene, "-m", "demo", "-p", "what?", "-o", tmp_path, *options.split())
    assert loaded.options == {
        "prompt": "what?",
        "image_kwargs": {},
        "background": "white",
        "allow_urls": False,
        "grounding": True,
        "block": 4,
        "layers": -2,
        "method": ["dexar-scores"],
        "text_set": "generated_only",
        "max_new_tokens": 7,
    }


@pytest.mark.parametrize(
    ("failure", "code"),
    [(NotFiniteError("NaN in layer 3"), RUN_FAILED), (KeyboardInterrupt(), 130)],
    ids=lambda value: type(value).__name__,
)
def test_what_ends_it_early(
    loaded: SimpleNamespace, scene: Path, tmp_path: Path, failure: BaseException, code: int
) -> None:
    loaded.failure = failure
    result = call("explain", scene, "-m", "demo", "-p", "what?", "-o", tmp_path, "--live")
    assert result.exit_code == code
    assert result.stdout == "a\n", "what was shown, and a line of its own for what follows"
    assert loaded.stream.closed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--live", "--answer", "a cat"], "--live: shows the answer as the model writes it; got --answer"),
        (["--live", "--normalization", "reference"], "--live: expected --normalization paper"),
        (["--live", "--text-set", "content_only"], "--live: expected another --text-set"),
        (["--live", "--quiet"], "got --quiet"),
        (["--block", "4"], "--block: goes with --live"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refused(loaded: SimpleNamespace, scene: Path, options: list[str], message: str) -> None:
    result = call("explain", scene, "-m", "demo", "-p", "what?", *options)
    assert result.exit_code == BAD_INPUT
    assert message in result.stderr
    assert loaded.stream is None


def test_writes_the_files_of_a_run_without_it(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    demo = Explainer.from_pretrained("demo", device="cpu")
    monkeypatch.setattr(Explainer, "from_pretrained", lambda *_, **__: demo)
    live, usual = tmp_path / "live", tmp_path / "usual"
    result = call("explain", scene, "-m", "demo", "-p", PROMPT, "-o", live, "--live", "--max-new-tokens", "12")
    assert result.exit_code == 0, result.output
    call("explain", scene, "-m", "demo", "-p", PROMPT, "-o", usual, "--max-new-tokens", "12")
    assert files(live) == files(usual)
    one, other = (Explanation.load(folder / "explanation.safetensors") for folder in (live, usual))
    assert result.stdout.splitlines()[0] == one.answer.strip() == other.answer.strip()
    np.testing.assert_allclose(one.token_maps, other.token_maps, atol=2e-3)  # saved as float16
    assert one.grounding is not None
    assert other.grounding is not None
    np.testing.assert_allclose(one.grounding, other.grounding, atol=1e-4)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("interrupted", [False, True], ids=["to the end", "ctrl-c"])
def test_in_a_pseudo_terminal(scene: Path, tmp_path: Path, root: Path, interrupted: bool) -> None:
    """The whole command, watched from outside: the text grows, in colours; Ctrl-C ends it with 130."""
    master, slave = pty.openpty()
    arguments = ["explain", str(scene), "-m", "demo", "-p", PROMPT, "-o", str(tmp_path), "--live"]
    command = [sys.executable, "-m", "dexar_fast", *arguments]
    environment = {**os.environ, **TERMINAL, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=subprocess.PIPE, env=environment)
    os.close(slave)
    frames: list[str] = []
    while chunk := read(master):
        frames.append(chunk)
        if interrupted and "at the" in ESCAPE.sub("", "".join(frames)):
            process.send_signal(signal.SIGINT)
            interrupted = False
            frames.append("<interrupted>")
    _, errors = process.communicate(timeout=60)
    os.close(master)
    whole = "".join(frames)
    if "<interrupted>" in whole:
        assert process.returncode == 130, errors
        assert not (tmp_path / "report.html").exists()
        return
    assert process.returncode == 0, errors
    answer = Explanation.load(tmp_path / "explanation.safetensors").answer.strip()
    lines = ESCAPE.sub("", whole).split("\r\n")
    assert lines[2] == answer
    shaded = {match[4].strip() for match in SHADED.finditer(whole)}
    assert {"large", "circle", "triangle"} <= shaded
    assert len(frames) > 5, "it came in pieces"


def read(master: int) -> str:
    """What has come; empty when the other end is closed."""
    try:
        return os.read(master, 65536).decode()
    except OSError:
        return ""
