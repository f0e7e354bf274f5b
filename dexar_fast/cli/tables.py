"""What the commands print: the tokens of an explanation, and the environment."""

from __future__ import annotations

from math import floor, log10
from typing import TYPE_CHECKING, Any

from rich import box
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..inputs.tokens import printable, token_labels

if TYPE_CHECKING:
    from ..result.explanation import Explanation, Floats

BAR_WIDTH = 16


def token_table(explanation: Explanation) -> Table:
    """One row per token or target: weight in the answer map, and strongest score on the image and on the text."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    what = "token" if explanation.targets is None else "target"
    for heading in ("#", what, "weight", "", "image score", "text score"):
        table.add_column(heading, justify="left" if heading in (what, "") else "right", no_wrap=heading != what)
    weights = explanation.token_weights
    greatest = float(weights.max()) or 1.0
    rows = zip(
        token_labels(explanation.row_texts),
        weights,
        _figures(weights),
        _figures(explanation.image_scores.max(axis=(1, 2))),
        _figures(explanation.text_scores.max(axis=(1, 2))),
        strict=True,
    )
    for index, (token, weight, weight_text, image_score, text_score) in enumerate(rows):
        # Text, not str: a token such as "[red]" is no markup.
        table.add_row(
            str(index),
            Text(token),
            weight_text,
            ProgressBar(total=greatest, completed=float(weight), width=BAR_WIDTH),
            image_score,
            text_score,
        )
    return table


def _figures(values: Floats) -> list[str]:
    """The values with as many decimals as give the greatest three digits, so that a column reads as one scale."""
    greatest = float(values.max())
    decimals = max(0, 2 - floor(log10(greatest))) if greatest > 0 else 0
    return [f"{value:.{decimals}f}" for value in values]


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
