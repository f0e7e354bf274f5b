"""What the commands print: the words of an explanation, and the environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..inputs.tokens import printable

if TYPE_CHECKING:
    from ..result.explanation import Explanation

BAR_WIDTH = 16


def word_table(explanation: Explanation) -> Table:
    """One row per word or target: how far it rests on the image, and where its map is strongest."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    what = "word" if explanation.targets is None else "target"
    for heading in ("#", what, "grounding", "", "strongest at"):
        table.add_column(heading, justify="right" if heading in ("#", "grounding") else "left", no_wrap=heading != what)
    for index, word in enumerate(explanation.words()):
        grounding = word.grounding
        # Text, not str: a word such as "[red]" is no markup.
        table.add_row(
            str(index),
            Text(printable(word.text)),
            "" if grounding is None else f"{grounding:.2f}",
            "" if grounding is None else ProgressBar(total=1.0, completed=grounding, width=BAR_WIDTH),
            word.place if word.grids else "",
        )
    return table


def info_table(facts: dict[str, Any]) -> Table:
    """The environment, one fact a row."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    devices = [f"{each['name']}, {each['memory_gib']} GiB, sm_{each['capability']}" for each in facts["devices"]]
    rows = {
        "dexar-fast": facts["dexar_fast"],
        "python": facts["python"],
        **{name: version or "not installed" for name, version in facts["packages"].items()},
        "system": facts["system"],
        "cpu": f"{facts['cpu']}, {facts['cores']} cores, torch uses {facts['threads']} threads",
        "cuda": facts["cuda"] or "torch was built without it",
        "gpus": "\n".join(devices) or "none",
        "backends": ", ".join(facts["backends"]),
        "missing": "\n".join(f"{name}: {reason}" for name, reason in facts["missing_backends"].items()) or "none",
        "auto": ", ".join(f"{backend} on {device}" for device, backend in facts["auto_backend"].items()),
        "c++ kernels": f"compiled, run with {facts['cpu_instructions']}" if facts["cpu_instructions"] else "not there",
    }
    for name, value in rows.items():
        table.add_row(name, Text("\n".join(map(printable, value.splitlines()))))
    return table


def model_table(report: dict[str, Any]) -> Table:
    """What the self-test found of a model, one fact a row."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    explained, n_layers = report["explained_layers"], report["layers"]
    which = "all" if len(explained) == n_layers else ", ".join(map(str, explained))
    grid = report["grid"]
    rows = {
        "model": report["model"],
        "class": f"{report['model_class']}, family {report['family']}",
        "layers": f"{n_layers}, explained: {which}",
        "heads": str(report["heads"]),
        "keys": report["keys"],
        "image": f"{report['image_tokens']} tokens, " + (f"map {grid[0]} x {grid[1]}" if grid else "no map"),
        "gradient path": report["gradient_path"],
        "attention": f"{report['attention']}, {report['dtype']} on {report['device']}",
        "self-test": "passed",
    }
    for name, value in rows.items():
        table.add_row(name, Text(printable(value)))
    return table
