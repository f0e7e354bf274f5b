"""Time and memory against the length of the answer, as SVG figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..figures import write_svg

COLOURS = {"naive": "tab:red", "plain": "0.5", "explain": "tab:blue", "after": "tab:green", "generate": "tab:orange"}
LABELS = {
    "naive": "naive",
    "plain": "plain forward",
    "explain": "explain",
    "after": "explain after generation",
    "generate": "generation",
}


def times(rows: Sequence[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """(T, seconds) of each way."""
    found: dict[str, list[tuple[int, float]]] = {name: [] for name in LABELS}
    for row in rows:
        seconds = {name: row[f"{name}_s"]["median"] for name in LABELS if name != "naive" and f"{name}_s" in row}
        if "naive_s" in row:
            seconds["naive"] = row["naive_s"]
        for name, value in seconds.items():
            found[name].append((row["answer_tokens"], value))
    return {name: points for name, points in found.items() if points}


def peaks(rows: Sequence[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """(T, MiB above the model) of each way; of the naive method while it explains the last token."""
    of_way = {"naive": "naive_last_token", "plain": "plain", "explain": "explain"}
    found = {
        name: [(row["answer_tokens"], row["peak_mib"][way]) for row in rows if way in row.get("peak_mib", {})]
        for name, way in of_way.items()
    }
    return {name: points for name, points in found.items() if points}


def slope(points: Sequence[tuple[int, float]]) -> float:
    """Of the line through the logarithms: 1 is linear, 2 quadratic."""
    x, y = np.log(np.array(points, dtype=float)).T
    return float(np.polyfit(x, y, 1)[0])


def plot(rows: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Seconds, and MiB above the model, against the answer's length, both axes logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    of_time, of_memory = figure.subplots(1, 2)
    for axes, ways, what in ((of_time, times(rows), "seconds"), (of_memory, peaks(rows), "MiB above the model")):
        for name, points in ways.items():
            label = f"{LABELS[name]}, slope {slope(points):.2f}" if len(points) > 1 else LABELS[name]
            axes.plot(*zip(*points), marker="o", markersize=4, color=COLOURS[name], label=label)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("answer tokens T")
        axes.set_ylabel(what)
        axes.grid(color="0.9")
        axes.legend(fontsize=7)
    figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    write_svg(figure, path)
