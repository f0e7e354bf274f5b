"""Results as Markdown, and the pages of the documentation that are made of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import RESULTS, ROOT, put_between_markers
from ..timing import described, slug
from .plots import LABELS, peaks, plot, slope, times

README, PAGE = ROOT / "README.md", ROOT / "docs" / "benchmarks.md"
MARKER = "end-to-end"
FEWEST_POINTS = 3  # of a plot

# Heading of a column, and what it says of a row; empty where that was not measured.
_FACTS = ("model", "image tokens", "attention")
_FIGURES = (
    "answer tokens",
    "explain / plain forward",
    "share of floor",
    "explain after generation / generation",
    "its share of floor",
    "stream / generation, by block",
    "naive / explain",
    "peak memory / plain forward's: explain, naive",
)
_RAW = ("seconds: plain, explain, generation, explain after it", "MiB above the model: plain, explain, naive")
_IN_README = [_FIGURES[i] for i in (0, 1, 3, 5, 6, 7)]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """One line per case: ratios first, then what they are made of; one without figures says why."""
    headings = [*_FACTS, *_FIGURES, *_RAW]
    return _table(headings, ["---", "---:", "---", *["---:"] * (len(_FIGURES) + len(_RAW))], rows)


def short_table(rows: Sequence[dict[str, Any]]) -> str:
    """The ratios of one model, without what is the same for all of them."""
    return _table(_IN_README, ["---:"] * len(_IN_README), rows)


def _table(headings: Sequence[str], alignment: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        cells = _cells(row)
        reason = row.get("left_out") or row.get("failure") or row.get("wrong")
        if reason:
            first = headings[headings.index("answer tokens") + 1]
            cells[first] = "; ".join(filter(None, (cells.get(first), reason)))
        lines.append(_line([cells.get(heading, "") for heading in headings]))
    return "\n".join([_line(headings), _line(alignment), *lines])


def _cells(row: dict[str, Any]) -> dict[str, str]:
    found = {
        "model": row["shape"],
        "image tokens": str(row["image_tokens"]),
        "attention": row["attention"],
        "answer tokens": str(row["answer_tokens"]),
    }
    if "wrong" in row:
        return found
    estimated = "about " if "generate_estimated_s" in row else ""
    for key, heading, form in (
        ("explain_over_plain", _FIGURES[1], "{:.2f}x"),
        ("share_of_floor", _FIGURES[2], "{:.0%}"),
        ("after_over_generation", _FIGURES[3], estimated + "{:.1%}"),
        ("share_of_floor_after", _FIGURES[4], "{:.0%}"),
        ("naive_over_explain", _FIGURES[6], "{:.0f}x"),
    ):
        if key in row:
            found[heading] = form.format(row[key])
    streams = row.get("stream_over_generation", {})
    found[_FIGURES[5]] = ", ".join(f"{block}: {ratio - 1:+.0%}" for block, ratio in streams.items())
    memory = row.get("peak_mib", {})
    plain = memory.get("plain")
    ways = ("plain", "explain", "naive_last_token")
    if plain:
        found[_FIGURES[7]] = ", ".join(f"{memory[way] / plain:.2g}x" for way in ways[1:] if way in memory)
    seconds = [row[f"{way}_s"]["median"] for way in ("plain", "explain", "generate", "after") if f"{way}_s" in row]
    if "generate_estimated_s" in row and len(seconds) == 3:
        seconds.insert(2, row["generate_estimated_s"])
    found[_RAW[0]] = ", ".join(f"{each:.3g}" for each in seconds)
    found[_RAW[1]] = ", ".join(f"{memory[way]:.0f}" for way in ways if way in memory)
    return found


def groups(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows that differ in the answer's length alone, by a name."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if "explain_over_plain" in row and "wrong" not in row:
            name = f"{row['shape']}, {row['image_tokens']} image tokens, {row['attention']}"
            found.setdefault(name, []).append(row)
    return found


def slopes(rows: Sequence[dict[str, Any]]) -> str:
    """How time and memory grow with the answer, as fitted exponents."""
    lines = []
    for name, group in groups(rows).items():
        for what, ways in (("time", times(group)), ("peak memory above the model", peaks(group))):
            fitted = [f"{LABELS[way]} {slope(points):.2f}" for way, points in ways.items() if len(points) > 1]
            if fitted:
                lines.append(f"- {name}: {what} grows with the answer's length to the power of: {', '.join(fitted)}.")
    return "\n".join(lines)


def official(results: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Results of whole sets on their own devices: neither rehearsals nor some of the cases."""
    documents = {path: json.loads(path.read_text()) for path in sorted(results.glob(f"{MARKER}-*.json"))}
    return [(path, each) for path, each in documents.items() if path.stem == f"{MARKER}-{slug(each['environment'])}"]


def write_pages(readme: Path = README, page: Path = PAGE, results: Path = RESULTS) -> None:
    """Put the tables between the markers of both pages, and draw the plots beside the documentation's."""
    short, whole = [], []
    for path, document in official(results):
        where, rows = document["environment"], document["rows"]
        caption = f"{described(where)}."
        if document["set"] == "cpu":
            short += [short_table(rows), caption]
        images = []
        for i, (name, group) in enumerate(groups(rows).items()):
            if len(group) >= FEWEST_POINTS:
                image = page.parent / "images" / f"{path.stem}{f'-{i}' if i else ''}.svg"
                plot(group, image, f"{where['device']}: {name}")
                images.append(f"![Time and memory of {name}](images/{image.name})")
        rates = ", ".join(
            f"{limits['operations_per_s'] / 1e12:.3g} TFLOP/s in {dtype}"
            for dtype, limits in document["limits"].items()
        )
        rate = f"The floor is at the rate of a large matrix product here: {rates}."
        whole += [f"### {where['device']}: whole answers", *images, table(rows), slopes(rows), f"{rate} {caption}"]
    for target, parts in ((readme, short), (page, whole)):
        put_between_markers(target, MARKER, "\n\n".join(parts) if parts else "No results yet.")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
