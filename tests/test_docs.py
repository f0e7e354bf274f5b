"""What the pages of docs/ say about the package and about each other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from .conftest import ROOT
from .notebooks import NOTEBOOKS, execute, texts

DOCS = ROOT / "docs"
PLACEHOLDER = "…"
OWN_HEADINGS = re.compile(r"(A map|The map|It) ")
"""Of symptoms without a message."""


def messages() -> list[str]:
    """Every text of the package, with … in the place of what differs."""
    found = []
    for path in (ROOT / "dexar_fast").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = [str(part.value) if isinstance(part, ast.Constant) else PLACEHOLDER for part in node.values]
                found.append("".join(parts))
    return [" ".join(text.split()) for text in found]


def test_headings_of_troubleshooting_are_messages_of_the_package() -> None:
    known = messages()
    headings = re.findall(r"^### (.*)$", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    texts_of_errors = [heading for heading in headings if not OWN_HEADINGS.match(heading)]
    assert len(texts_of_errors) > 20
    unknown = [heading for heading in texts_of_errors if not any(heading in text for text in known)]
    assert unknown == []


def test_every_page_is_in_the_table_of_contents() -> None:
    # Sphinx tells this as well; here it is told without building.
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^([\w/-]+)$", index, re.MULTILINE)) | {"index"}
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")}
    notebooks = {f"examples/{Path(name).stem}" for name in NOTEBOOKS}
    assert listed == pages | notebooks


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_runs_and_holds_what_it_says(name: str, tmp_path: Path) -> None:
    import nbformat

    kept = nbformat.read(ROOT / "examples" / name, as_version=4)
    ran = execute(name, tmp_path)
    assert words(texts(kept)) == words(texts(ran))


def words(outputs: list[str]) -> list[str]:
    """The letters alone: the last digits of a number are a processor's own."""
    return [word for text in outputs for word in re.findall(r"[^\W\d_]+", text)]
