"""Settings of the documentation site: `make docs`."""

import re
import sys
from pathlib import Path
from typing import Any

import dexar_fast

sys.path.insert(0, str(Path(__file__).parent))  # for llms.py

project = "dexar_fast"
author = "The dexar_fast developers"
copyright = "The dexar_fast developers"
release = dexar_fast.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "llms",
]
exclude_patterns = ["_build"]
highlight_language = "none"

# Links as in the pages of the repository: relative paths, and headings by their GitHub anchors.
myst_heading_anchors = 4
# A notebook is kept with what it printed, for those who read it in the repository; a test runs it.
nb_execution_mode = "off"

default_role = "py:obj"  # a name in a docstring links to its entry, where it has one
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_typehints_format = "short"
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"dexar_fast {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]


def short_types(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Without "Any", and arrays by their name alone: dtype and shape stand in the text."""
    lines[:] = [
        re.sub(r"numpy\.ndarray\[tuple\[Any, \.\.\.\], numpy\.dtype\[[\w.]+(\[Any\])?\]\]", "numpy.ndarray", line)
        for line in lines
        if line.strip() != ":type: Any"
    ]


def of_a_class(app: Any, env: Any, node: Any, content: Any) -> Any:
    """The entry of "Explainer.explain" or "Explanation", which docstrings name without their module."""
    target = node.get("reftarget", "").removesuffix("()")
    python = env.get_domain("py")
    found = [name for name in python.objects if re.match("[A-Z]", target) and name.endswith(f".{target}")]
    if len(found) != 1:
        return None
    return python.resolve_xref(env, node["refdoc"], app.builder, "obj", found[0], node, content)


def setup(app: Any) -> None:
    app.connect("missing-reference", of_a_class)
    app.connect("autodoc-process-docstring", short_types, priority=900)  # behind napoleon
