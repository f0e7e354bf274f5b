"""Results as Markdown, and the page of the documentation that is made of them: ``python -m benchmarks.run tables``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import RESULTS, ROOT, put_between_markers
from ..timing import described, slug
from .contenders import BASELINES
from .plots import plot

PAGE = ROOT / "docs" / "benchmarks.md"
PREDICTION = RESULTS / "prediction-h100.json"
SHAPE = ("op", "signal", "T", "H", "H_kv", "D", "N", "K", "dtype")  # what a prediction is found by

HEADINGS = (
    "op",
    "signal",
    "shape of",
    "T",
    "N",
    "dtype",
    "backend",
    "unfused / it",
    "compiled / it",
    "it / bare product",
    "share of limit",
    "memory besides: it, unfused",
    "ms: device, wall",
)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """One line per row and backend, ratios of medians first; one without speed says why."""
    lines = [line for row in rows for line in _lines(row)]
    return "\n".join([_line(HEADINGS), _line(["---"] * 3 + ["---:"] * 2 + ["---"] * 2 + ["---:"] * 6), *lines])


def limits_table(document: dict[str, Any]) -> str:
    """The rates that the shares refer to."""
    lines = [
        _line([dtype, f"{each['operations_per_s'] / 1e12:.3g}", f"{each['bytes_per_s'] / 1e9:.3g}"])
        for dtype, each in document["limits"].items()
    ]
    return "\n".join(
        [_line(["dtype", "matrix product, TFLOP/s", "copy, GB/s"]), _line(["---", "---:", "---:"]), *lines]
    )


def layer_line(layer: dict[str, Any]) -> str:
    """The ops beside one decoder layer."""
    return (
        f"Both ops together ({layer['backend']}) take {layer['ops_over_layer']:.1%} of one {layer['model']} layer's "
        f"forward over the same {layer['T']} rows (N = {layer['N']}, {layer['dtype']})."
    )


def read_prediction() -> list[dict[str, Any]]:
    """Rows of `PREDICTION`."""
    document = json.loads(PREDICTION.read_text())
    rows: list[dict[str, Any]] = document["rows"] if isinstance(document, dict) else document
    return rows


def prediction_table(rows: Sequence[dict[str, Any]], predicted: Sequence[dict[str, Any]]) -> str:
    """Predicted and measured milliseconds of triton, and shares of the limit, for each row that was predicted."""
    by_shape = {tuple(each[name] for name in SHAPE): each for each in predicted}
    lines = []
    for row in rows:
        of_row = by_shape.get(tuple(row[name] for name in SHAPE))
        measured = row["contenders"].get("triton", {})
        if of_row is None or "seconds" not in measured:
            continue
        seconds = measured["seconds"]["median"]
        cells = [row["op"], row["signal"], row["model"], str(row["T"]), str(row["N"]), row["dtype"]]
        cells += [
            f"{of_row['predicted_s'] * 1e3:.4g}",
            f"{seconds * 1e3:.4g}",
            f"{seconds / of_row['predicted_s']:.2f}x",
        ]
        lines.append(_line([*cells, f"{of_row['share']:.0%}", f"{measured['share_of_limit']:.0%}"]))
    if not lines:
        return "No measured row was predicted."
    headings = [*HEADINGS[:6], "predicted ms", "measured ms", "measured / predicted", "predicted share", "share"]
    return "\n".join([_line(headings), _line(["---"] * len(headings)), *lines])


def write_page(page: Path = PAGE, results: Path = RESULTS) -> None:
    """Put the tables of all official results between the page's markers, and draw their plots beside it."""
    parts = []
    for path in sorted(results.glob("ops-*.json")):
        document = json.loads(path.read_text())
        name = slug(document["environment"])
        if path.stem != f"ops-{name}":
            continue  # a rehearsal, or some of the cases
        image = page.parent / "images" / f"{path.stem}.svg"
        plot(document, image)
        parts += [
            f"### {document['environment']['device']}",
            f"![Time of each backend over that of the bare product]({image.relative_to(page.parent).as_posix()})",
            limits_table(document),
            table(document["rows"]),
            *([layer_line(document["layer"])] if "layer" in document else []),
            described(document["environment"]) + ".",
        ]
    put_between_markers(page, "ops", "\n\n".join(parts) if parts else "No results yet.")


def _lines(row: dict[str, Any]) -> list[str]:
    facts = [f"`{row['op']}`", row["signal"], row["model"], str(row["T"]), str(row["N"]), row["dtype"]]
    contenders = row["contenders"]
    lines = []
    for name in dict.fromkeys([*contenders, *row["failures"]]):
        if name in BASELINES:
            continue
        figures = contenders.get(name, {})
        if "seconds" not in figures:
            reason = row["failures"].get(name) or row["left_out"][name]
            lines.append(_line([*facts, name, f"no speed: {reason}", *[""] * 5]))
            continue
        median = figures["seconds"]["median"]
        baselines = [_median(contenders.get(baseline, {})) for baseline in BASELINES]
        ratios = ["" if other is None else f"{other / median:.2f}x" for other in baselines]
        memory = [_mib(contenders.get(each, {})) for each in (name, "unfused")]
        cells = [
            *ratios,
            f"{figures['over_product']:.2f}x",
            f"{figures['share_of_limit']:.0%} ({row['binds']})",
            f"{', '.join(filter(None, memory))} MiB" if any(memory) else "",
            f"{median * 1e3:.4g}" + (f", {figures['wall_seconds'] * 1e3:.4g}" if "wall_seconds" in figures else ""),
        ]
        lines.append(_line([*facts, name, *cells]))
    return lines


def _median(figures: dict[str, Any]) -> float | None:
    return figures["seconds"]["median"] if "seconds" in figures else None


def _mib(figures: dict[str, Any]) -> str:
    return f"{figures['extra_mib']:.1f}" if "extra_mib" in figures else ""


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
