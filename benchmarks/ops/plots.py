"""Results as one SVG figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..figures import write_svg

MARKS = {"unfused": ("x", "0.55"), "compiled": ("+", "0.3"), "reference": ("s", "tab:gray")}
OWN_MARK = ("o", "tab:blue")


def plot(document: dict[str, Any], path: Path) -> None:
    """Each case a line: the time of every contender over that of the bare product, on a logarithmic axis."""
    from matplotlib.figure import Figure

    rows = document["rows"]
    figure = Figure(figsize=(8, 1.2 + 0.22 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    names = dict.fromkeys(name for row in rows for name in row["contenders"])
    for name in names:
        points = [
            (row["contenders"][name]["over_product"], line)
            for line, row in enumerate(rows)
            if "over_product" in row["contenders"].get(name, {})
        ]
        marker, colour = MARKS.get(name, OWN_MARK)
        if points:
            x, y = zip(*points, strict=True)
            axes.scatter(x, y, marker=marker, color=colour, s=28, label=name)
    axes.axvline(1, color="0.8", linewidth=1, zorder=0)
    axes.set_xscale("log")
    axes.set_xlabel("time / that of the bare product (torch.bmm)")
    axes.set_yticks(range(len(rows)), [_label(row) for row in rows], fontsize=7)
    axes.invert_yaxis()
    axes.set_title(document["environment"]["device"], fontsize=9, loc="left")
    figure.legend(fontsize=7, loc="outside upper right", ncols=len(names))
    write_svg(figure, path)


def _label(row: dict[str, Any]) -> str:
    of_row = [row["op"], row["signal"], row["model"], f"T={row['T']}", f"N={row['N']}", row["dtype"]]
    return " ".join(filter(None, of_row))
