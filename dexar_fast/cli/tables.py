"""What the commands print: the tokens of an explanation, and the environment."""

from __future__ import annotations

import unicodedata
from math import floor, log10
from typing import TYPE_CHECKING, Any

from rich import box
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from ..explanation import Explanation, Floats

BAR_WIDTH = 16


def printable(text: str, *, lines: bool = False) -> str:
    """The text with nothing in it that a terminal would obey, on one line unless ``lines`` may end."""

    def harmless(character: str) -> bool:
        joins = character in "\u200c\u200d"  # letters of some scripts, and emoji
        is_space = unicodedata.category(character) == "Zs"
        return character.isprintable() or joins or is_space or (lines and character == "\n")

    return "".join(
        character if harmless(character) else character.encode("unicode_escape").decode() for character in text
    )


def token_table(explanation: Explanation) -> Table:
    """One row per token: its weight in the answer map, and its strongest score on the image and on the text."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("#", "token", "weight", "", "image score", "text score"):
        table.add_column(heading, justify="left" if heading in ("token", "") else "right", no_wrap=heading != "token")
    weights = explanation.token_weights
    greatest = float(weights.max()) or 1.0
    rows = zip(
        explanation.tokens,
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
            Text(printable(token)),
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
        table.add_row(name, Text(value))
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
