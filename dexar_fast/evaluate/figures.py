"""The perturbation curves of a run as a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

from ..result.atomic import write_atomically
from .perturbation import DIRECTIONS
from .records import Record
from .summary import CHANCE, mean_curves

_TITLES = {"positive": "most relevant first: higher is better", "negative": "least relevant first: lower is better"}

Curves = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def write_curves(records: Sequence[Record], folder: Path) -> list[Path]:
    """Write `curves.svg` and `curves.png`; nothing where no curve was measured.

    Raises:
        ImportError: matplotlib is not installed.
    """
    curves = {direction: mean_curves(records, direction) for direction in DIRECTIONS}
    if not any(curves.values()):
        return []
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    for axes, direction in zip(figure.subplots(1, 2), DIRECTIONS, strict=True):
        for number, (name, (fractions, fall)) in enumerate(curves[direction].items()):
            axes.plot(fractions, fall, label=name, linewidth=1.4, marker=".", markersize=4, **_line(name, number))
        axes.set_title(_TITLES[direction], fontsize=10)
        axes.set_xlabel("share of the image removed")
        axes.set_ylabel("fall of log p(answer) per token, nats")
        axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    written = []
    for suffix in ("svg", "png"):
        buffer = BytesIO()
        with rc_context({"svg.hashsalt": "dexar-fast"}):  # the same file for the same curves
            figure.savefig(buffer, format=suffix, dpi=120, metadata={"Date": None} if suffix == "svg" else None)
        written.append(write_atomically(folder / f"curves.{suffix}", buffer.getvalue()))
    return written


def _line(name: str, number: int) -> dict[str, str]:
    """Colour and style by which a line is told from all others: there are ten colours."""
    if name in CHANCE:
        return {"color": "0.4", "linestyle": "--"}
    return {"color": f"C{number % 10}", "linestyle": "-" if number < 10 else "-."}
