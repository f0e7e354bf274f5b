"""The tables of a run, as Markdown and as HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan

from .records import Record
from .statistics import Interval
from .summary import ALL_WORDS, COST, LOCALISATION, PERTURBATION, WORD, Figure, Row, interval, kinds, rows


@dataclass(frozen=True)
class Table:
    """Text, ready to be written.

    Attributes:
        title: what it shows.
        head: headings; the first column names the row.
        body: rows of cells, each with whether it is emphasised.
        note: what a reader must know.
    """

    title: str
    head: tuple[str, ...]
    body: tuple[tuple[tuple[str, bool], ...], ...]
    note: str

    def markdown(self) -> str:
        """A heading, the table, the note."""
        lines = [f"### {self.title}", "", _line(self.head), _line(["---", *["---:"] * (len(self.head) - 1)])]
        lines += [_line([f"**{text}**" if strong else text for text, strong in row]) for row in self.body]
        return "\n".join([*lines, "", self.note, ""])

    def html(self) -> str:
        """The same as elements; everything is escaped."""
        head = "".join(f"<th>{html.escape(text)}</th>" for text in self.head)
        body = "\n".join(
            "<tr>"
            + "".join(
                f"<td>{f'<b>{html.escape(text)}</b>' if strong else html.escape(text)}</td>" for text, strong in row
            )
            + "</tr>"
            for row in self.body
        )
        return (
            f"<h2>{html.escape(self.title)}</h2>\n<table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>\n"
            f"<p>{html.escape(self.note)}</p>"
        )


def tables(records: Sequence[Record]) -> list[Table]:
    """All tables that the records have figures for."""
    found = []
    answers = rows(records, "answer")
    if any(record.area is not None for row in answers for record in row.records):
        found.append(_table("Answer maps", answers, (*LOCALISATION, COST)))
    if any(record.positive is not None for row in answers for record in row.records):
        perturbed = [row for row in answers if any(record.positive is not None for record in row.records)]
        found.append(_table("Removing the image piece by piece", perturbed, PERTURBATION))
    of_words = kinds(records)
    for kind in [*([ALL_WORDS] if len(of_words) > 1 else []), *of_words]:
        lines = rows(records, "word", kind)
        figures: tuple[Figure, ...] = WORD
        if any(record.positive is not None for row in lines for record in row.records):
            figures = (*WORD, *PERTURBATION[:2])
        title = "Words, all kinds" if kind == ALL_WORDS else f"Words: {kind}"
        found.append(_table(title, lines, figures))
    return found


def _table(title: str, lines: Sequence[Row], figures: Sequence[Figure]) -> Table:
    columns = [[interval(row.records, figure) for row in lines] for figure in figures]
    strong = [_among_the_best(column, lines, figure) for column, figure in zip(columns, figures, strict=True)]
    body = []
    for number, row in enumerate(lines):
        cells = [(f"{row.name} ({row.role})" if row.role else row.name, False)]
        for figure, column, marks in zip(figures, columns, strong, strict=True):
            cells.append((shown(column[number], figure.decimals), marks[number]))
        body.append(tuple(cells))
    head = tuple(f"{figure.title} ({figure.unit})" if figure.unit else figure.title for figure in figures)
    counts = [len(row.records) for row in lines]
    samples = {record.sample for row in lines for record in row.records}
    n = (
        f"{max(counts, default=0)} maps a row"
        if len(set(counts)) <= 1
        else f"{min(counts)} to {max(counts)} maps a row"
    )
    note = (
        f"{n}, from {len(samples)} samples. Mean, and 95 % bootstrap interval over samples. Bold: the best method and "
        "all whose interval overlaps with its interval."
    )
    return Table(title, ("method", *head), tuple(body), note)


def _among_the_best(column: Sequence[Interval], lines: Sequence[Row], figure: Figure) -> list[bool]:
    """The best method, and those whose interval overlaps with its."""
    sign = {"high": 1, "low": -1}.get(figure.best, 0)
    rivals = [one for one, row in zip(column, lines, strict=True) if not row.role and not isnan(one.mean)]
    if not rivals or sign == 0:
        return [False] * len(column)
    best = max(rivals, key=lambda one: sign * one.mean)
    return [
        not row.role and one.low <= best.high and best.low <= one.high for one, row in zip(column, lines, strict=True)
    ]


def shown(value: Interval, decimals: int) -> str:
    """ "mean (low to high)", or a dash where there is nothing."""
    if isnan(value.mean):
        return "–"
    mean, low, high = (f"{number:.{decimals}f}" for number in value)
    return f"{mean} ({low} to {high})"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
