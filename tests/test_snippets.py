"""Every code block of the README and of the pages in docs/ runs, or its page says why it cannot."""

from __future__ import annotations

import linecache
import re
import tomllib
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dexar_fast import Explainer
from dexar_fast.cli import app
from dexar_fast.demo import CHECKPOINT
from dexar_fast.demo.scenes import draw_scene

from .conftest import ROOT
from .snippets import HUB_ID, PYTHON, blocks

PAGES = {
    path.relative_to(ROOT).as_posix(): path
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
    if "_build" not in path.parts
}
ELSEWHERE = {
    "docs/batch.md": "needs a data set and a cluster; tests/test_batch.py",
    "docs/app.md": "runs until it is stopped; tests/test_app_browser.py",
    "docs/serving.md": "runs until it is stopped; tests/test_serve.py",
    "docs/scale.md": "needs a cluster; tests/test_batch_ray.py",
    "docs/evaluation.md": "takes hours, or data sets that are not here; tests/test_evaluate_run.py",
}
"""Pages whose blocks are not run here, with where their commands are tested."""

NOT_RUN = {
    "CONTRIBUTING.md": 1,
    "README.md": 1,
    "docs/how-to/flash-attention.md": 2,
    "docs/how-to/four-bits.md": 2,
    "docs/how-to/notebooks.md": 1,
    "docs/inputs.md": 1,
    "docs/models.md": 4,
    "docs/trained-models.md": 1,
}
"""How many blocks of a page are marked as not to be run: whoever marks one more says so here as well."""


def pages_with(*languages: str) -> list[str]:
    return [
        name
        for name, path in PAGES.items()
        if name not in ELSEWHERE and any(block.language in languages and not block.not_run for block in blocks(path))
    ]


@pytest.fixture(scope="module")
def demo() -> Explainer:
    return Explainer.from_pretrained("demo", device="cpu")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a page's code runs, with the pictures that the pages name."""
    for name in ("photo.jpg", "scene.png", "before.jpg", "after.jpg"):
        draw_scene(24, scale=4).image.save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def embedded_model(demo: Explainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is loaded once for all pages, and stands for the models that the pages name."""
    load = Explainer.from_pretrained.__func__  # type: ignore[attr-defined]

    def from_pretrained(cls: type[Explainer], model: Any, **how: Any) -> Explainer:
        return demo if model in ("demo", str(CHECKPOINT)) and not how else load(cls, model, **how)

    monkeypatch.setattr(Explainer, "from_pretrained", classmethod(from_pretrained))


# A tokenizer of a few words warns of those of the pages.
@pytest.mark.filterwarnings("ignore:.*tokenizer does not know")
@pytest.mark.parametrize("name", pages_with(PYTHON))
def test_python_runs(name: str) -> None:
    namespace: dict[str, Any] = {"__name__": "page"}
    for block in blocks(PAGES[name]):
        if block.language == PYTHON and not block.not_run and (block.needs is None or find_spec(block.needs)):
            code = "\n" * block.line + HUB_ID.sub(str(CHECKPOINT), block.code)
            linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)  # for what reads its source
            exec(compile(code, name, "exec"), namespace)  # a traceback names the page's line


@pytest.mark.filterwarnings("ignore:.*tokenizer does not know")
@pytest.mark.parametrize("name", pages_with("sh", "bash"))
def test_commands_run(name: str) -> None:
    for block in blocks(PAGES[name]):
        if block.language == PYTHON or block.not_run:
            continue
        for command, *arguments in block.commands():
            if command == "dexar-fast":
                result = CliRunner().invoke(app, arguments)
                assert result.exit_code == 0, (name, arguments, result.output)
            else:
                assert is_there(command, arguments), (name, command, arguments)


def is_there(command: str, arguments: list[str]) -> bool:
    """Of what is not run but can be looked up: targets of make, extras of an install, modules of Python."""
    if command == "make":
        targets = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split()
        return arguments[0] in targets
    if command == "pip":
        known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        extras = re.findall(r"\[(.*?)\]", " ".join(arguments))
        return arguments[0] == "install" and all(name in known for group in extras for name in group.split(","))
    return command.endswith("python") and arguments[0] == "-m" and find_spec(arguments[1]) is not None


def test_blocks_that_are_not_run_are_counted() -> None:
    marked = Counter(name for name, path in PAGES.items() for block in blocks(path) if block.not_run)
    assert dict(marked) == NOT_RUN


def test_pages_that_are_tested_elsewhere_exist() -> None:
    assert set(ELSEWHERE) <= set(PAGES)
    for reason in ELSEWHERE.values():
        assert (ROOT / re.findall(r"tests/\w+\.py", reason)[0]).is_file()
