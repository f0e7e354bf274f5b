"""Run the notebooks of ``examples/``; ``python -m tests.notebooks`` writes what they print and show into them anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
NOTEBOOKS = sorted(path.name for path in EXAMPLES.glob("*.ipynb"))
SECONDS = 300  # for a cell


def execute(name: str, folder: Path) -> Any:
    """The notebook with its outputs, run in a folder of its own.

    Raises:
        CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=SECONDS, resources=resources, record_timing=False).execute()
    return notebook


def texts(notebook: Any) -> list[str]:
    """What the cells printed or have as their value, as text; pictures only by their being there."""
    return [
        output.get("text") or output["data"].get("text/plain", "")
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output.get("name") != "stderr"
    ]


def tidy(notebook: Any) -> Any:
    """Without bars and warnings, which name the machine, and with each picture once."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                output.get("data", {}).pop("image/jpeg", None)
    return notebook


def main() -> None:
    for name in NOTEBOOKS:
        nbformat.write(tidy(execute(name, EXAMPLES)), EXAMPLES / name)


if __name__ == "__main__":
    main()
