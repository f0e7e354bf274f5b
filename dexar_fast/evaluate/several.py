"""Several models, one table: the same methods on each, by the words of its own data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from ..demo import MODELS
from ..result.atomic import write_atomically
from .records import Record
from .summary import ALL_WORDS, AUROC, PEAK, SNR, Figure, Row, interval, rows
from .tables import Table, shown

SEVERAL = "models"
FIGURES: tuple[Figure, ...] = (SNR, AUROC, PEAK)


def shipped() -> list[str]:
    """Names of the trained models that come with this installation."""
    return [name for name, folder in MODELS.items() if (folder / "config.json").is_file()]


def table_of_models(records: Mapping[str, Sequence[Record]], *, intervals: bool = True) -> Table:
    """SNR, AUROC and peak of the words of every model, a row per method; of whole answers where words have no mask.

    Args:
        records: by the model's name.
        intervals: with them; else means alone.
    """
    lines: dict[str, dict[str, Row]] = {}
    names: dict[tuple[bool, str], None] = {}
    for model, of_model in records.items():
        found = rows(of_model, "word", ALL_WORDS) or rows(of_model, "answer")
        lines[model] = {f"{row.name} ({row.role})" if row.role else row.name: row for row in found}
        names.update({(bool(row.role), name): None for name, row in lines[model].items()})
    body = []
    for _, name in sorted(names, key=lambda one: one[0]):  # methods before what they compare with; stable
        cells = [(name, False)]
        for by_name in lines.values():
            for figure in FIGURES:
                row = by_name.get(name)
                text = shown(interval(row.records if row else [], figure), figure.decimals)
                cells.append((text if intervals else text.partition(" (")[0], False))
        body.append(tuple(cells))
    head = tuple(f"{model}: {figure.title} ({figure.unit})" for model in records for figure in FIGURES)
    counts = ", ".join(
        f"{len({record.sample for record in each})} samples of {model}" for model, each in records.items()
    )
    note = (
        f"{counts}. Words of all kinds. SNR and AUROC: how well the map separates the word's pixels from the others, "
        "chance 0 dB and 50 %. Peak: the strongest cell touches the word's pixels. "
        f"{'Means and 95 % bootstrap intervals' if intervals else 'Means'}."
    )
    return Table("All models", ("method", *head), tuple(body), note)


def write_table_of_models(records: Mapping[str, Sequence[Record]], folder: Path) -> Path:
    """Write `models.json` and `models.md`, with intervals; returns the path of the latter."""
    table = table_of_models(records)
    write_atomically(folder / f"{SEVERAL}.json", (json.dumps([asdict(table)], indent=1) + "\n").encode())
    return write_atomically(folder / f"{SEVERAL}.md", table.markdown().encode())
