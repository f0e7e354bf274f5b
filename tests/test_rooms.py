"""The rooms of `dexar_fast/` and the arrows between them: imports only run down the table, and never in a circle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import dexar_fast

from .conftest import ROOT

PACKAGE = Path(dexar_fast.__file__).parent

# Every room may import the ground floor (errors, progress, stages, ...) and what stands behind it here.
BELOW_ENGINE = {"inputs", "layout", "models", "ops", "result"}
BELOW_FACES = {*BELOW_ENGINE, "engine", "methods", "render", "runs"}
ROOMS = {
    "layout": set(),
    "kernels": set(),
    "ops": {"kernels"},
    "models": {"layout", "ops"},
    "inputs": {"layout", "models"},
    "result": {"inputs", "layout"},
    "render": {"inputs", "layout", "result"},
    "engine": BELOW_ENGINE,
    "methods": {*BELOW_ENGINE, "engine"},
    "runs": {*BELOW_ENGINE, "engine", "methods"},
    "demo": set(),
    "explainer": {*BELOW_FACES, "demo"},
    "batch": {*BELOW_FACES, "explainer"},
    "compat": {*BELOW_FACES, "explainer"},
    "evaluate": {*BELOW_FACES, "explainer", "demo"},
    "app": {*BELOW_FACES, "explainer", "demo"},
    "serve": {*BELOW_FACES, "explainer", "demo"},
    "cli": {*BELOW_FACES, "app", "batch", "explainer", "demo", "evaluate", "environment", "serve"},
    "environment": {"ops"},
}
GROUND_FLOOR = {"", "errors", "interrupts", "paths", "plain_text", "progress", "stages"}
# The one arrow that runs up, when a picture is asked for: `Explanation.plot` and its like.
LAZY = {("result", "render")}


def module_name(path: Path) -> str:
    """Of a file, without the package's: "engine.request"; a package has its folder's."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# In a checkout, kernels/ is a link, which `rglob` does not follow.
FILES = {
    module_name(path): path
    for path in sorted({*PACKAGE.rglob("*.py"), *(PACKAGE / "kernels").glob("*.py")})
    if path.name != "__main__.py"
}


def imports(name: str, source: str) -> Iterator[tuple[str, str]]:
    """Modules of this package that one of its files imports, each with "now", "call" or "type": when it is needed."""
    tree = ast.parse(source)
    kinds: dict[ast.AST, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            kinds.update(dict.fromkeys(ast.walk(node), "call"))
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            kinds.update(dict.fromkeys(ast.walk(node), "type"))
    package = name.split(".") if FILES[name].name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not (node.level or (node.module or "").startswith("dexar_fast")):
            continue
        base = package[: len(package) - node.level + 1] if node.level else []
        module = (node.module or "").removeprefix("dexar_fast").lstrip(".")
        start = ".".join(filter(None, [*base, module]))
        for alias in node.names:
            whole = f"{start}.{alias.name}".lstrip(".")
            yield whole if whole in FILES else start, kinds.get(node, "now")


def room(name: str) -> str:
    """The folder that a module lies in; of a file on the ground floor its own name."""
    first = name.split(".")[0]
    return "" if first in GROUND_FLOOR else first


def forbidden(name: str, source: str) -> list[str]:
    """What a file imports against the table, each with both files and the rule."""
    own, found = room(name), []
    for other, when in imports(name, source):
        target = room(other)
        if target in ("", own) or (own and target in ROOMS[own]):
            continue
        if when == "type" or (when == "call" and (not own or (own, target) in LAZY)):
            continue
        rule = f"{own or 'the ground floor'} may import {', '.join(sorted(ROOMS.get(own, ()))) or 'no other room'}"
        found.append(f"{name} imports {other}: {rule}")
    return found


@pytest.mark.parametrize("name", sorted(FILES), ids=lambda name: name or "dexar_fast")
def test_imports_run_downwards(name):
    assert room(name) in {"", *ROOMS}, f"{name}: a new room needs its line in the table"
    assert forbidden(name, FILES[name].read_text(encoding="utf-8")) == []


def test_no_circle_between_files():
    graph = {
        name: {
            other
            for other, when in imports(name, path.read_text(encoding="utf-8"))
            if when == "now" and other != name and FILES[other].name != "__init__.py"
        }
        for name, path in FILES.items()
    }
    assert list(TopologicalSorter(graph).static_order())


def test_no_circle_between_rooms():
    assert list(TopologicalSorter(ROOMS).static_order())


def test_the_picture_of_the_house_has_every_room_and_no_arrow_of_its_own():
    picture = (ROOT / "docs" / "images" / "house.svg").read_text(encoding="utf-8")
    drawn = {name.strip("/").removesuffix(".py") for name in re.findall(r'class="name"[^>]*>([^<]+)<', picture)}
    assert drawn == set(ROOMS) - {"environment"}  # a file, named in the text
    arrows = {(start, end) for start, end in re.findall(r'<path[^>]* id="(\w+)-(\w+)"', picture)}
    assert arrows >= LAZY
    assert [(start, end) for start, end in sorted(arrows - LAZY) if end not in ROOMS[start]] == []
    assert {end for _, end in arrows} == drawn - {"cli", "compat"}  # where one comes in


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("layout.grid", "from ..engine.request import Request"),
        ("inputs.options", "from dexar_fast.methods.comparisons import COMPARISONS"),
        ("engine.engine", "def compare():\n    from ..methods import comparisons"),
        ("result.explanation", "from ..render.overlay import overlay"),
        ("errors", "from .ops import KeySets"),
    ],
    ids=["up", "absolute", "in-a-function", "eager-picture", "ground-floor"],
)
def test_a_planted_arrow_is_seen(name, line):
    (message,) = forbidden(name, line)
    assert message.startswith(f"{name} imports ")
    assert "may import" in message


@pytest.mark.parametrize("name", sorted(name for name in ROOMS if (PACKAGE / name).is_dir() and name != "kernels"))
def test_a_room_says_what_it_is_for(name):
    tree = ast.parse((PACKAGE / name / "__init__.py").read_text(encoding="utf-8"))
    docstring = ast.get_docstring(tree)
    assert docstring
    assert "mport" in docstring
