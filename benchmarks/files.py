"""Where results lie, and how they get into the documentation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dexar_fast.result.atomic import write_atomically

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def write_results(path: Path, document: dict[str, Any]) -> None:
    """Write one set of results as JSON, whole or not at all; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(document, indent=1) + "\n").encode())


def put_between_markers(path: Path, name: str, text: str) -> None:
    """Replace what stands between ``<!-- name -->`` and ``<!-- /name -->`` in a Markdown file."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, rest = path.read_text().split(start)
    _, after = rest.split(end)
    write_atomically(path, f"{before}{start}\n{text}\n{end}{after}".encode())
