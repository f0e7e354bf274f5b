"""From records to figures: means with intervals, method by method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from .perturbation import area
from .records import Record
from .statistics import Interval, bootstrap

CHANCE = ("random", "uniform", "centre")
"""Methods that do not look at the answer."""

CEILING = "mask"
"""In place of a method: the mask itself, as well as the map's grid can show it."""

ALL_WORDS = "all words"


class Figure(NamedTuple):
    """One column of a table.

    Attributes:
        title, unit: shown at its head.
        of: value of a record, or None where it has none.
        decimals: shown.
        best: "high", "low", or "" where neither is better.
    """

    title: str
    unit: str
    of: Callable[[Record], float | None]
    decimals: int = 1
    best: str = "high"


def _percent(name: str) -> Callable[[Record], float | None]:
    def of(record: Record) -> float | None:
        value = getattr(record, name)
        return None if value is None else 100 * value

    return of


def _area(direction: str, perplexity: bool) -> Callable[[Record], float | None]:
    def of(record: Record) -> float | None:
        fall = getattr(record, direction)
        if fall is None:
            return None
        return area(np.exp(fall) if perplexity else np.asarray(fall))

    return of


def _cost(record: Record) -> float | None:
    if record.seconds is None or record.forward_seconds is None:
        return None
    return record.seconds / record.forward_seconds


SNR = Figure("SNR", "dB", lambda record: record.snr)
AUROC = Figure("AUROC", "%", _percent("auroc"))
POINTING = Figure("pointing", "%", _percent("pointing"), 0)
PEAK = Figure("peak", "%", _percent("peak"), 0)
LOCALISATION = (
    SNR,
    AUROC,
    Figure("AP", "%", _percent("average_precision")),
    Figure("soft-IoU", "%", _percent("soft_iou")),
    Figure("IoU", "%", _percent("iou")),
    Figure("EPG", "%", _percent("epg")),
    POINTING,
    PEAK,
)
PERTURBATION = (
    Figure("positive", "nats", _area("positive", False), 2),
    Figure("negative", "nats", _area("negative", False), 2, "low"),
    Figure("positive NPPL", "", _area("positive", True)),
    Figure("negative NPPL", "", _area("negative", True), 1, "low"),
)
COST = Figure("cost", "forwards", _cost, 1, "")
WORD = (SNR, AUROC, POINTING, PEAK)


class Row(NamedTuple):
    """What stands at the head of a table's row, and its records.

    Attributes:
        name: method, or control.
        role: "" for a method; "chance" knows nothing of the answer, "ceiling" knows the truth.
        records: of one target (and kind).
    """

    name: str
    role: str
    records: list[Record]


def rows(records: Iterable[Record], target: str, kind: str | None = None) -> list[Row]:
    """Records of one target and kind by method: methods as they were asked for, then what they compare with.

    Args:
        records: of a run.
        target: "answer" or "word".
        kind: of words; None or `ALL_WORDS` takes all with a mask.
    """
    found: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record.error is not None or record.target != target:
            continue
        if target == "word" and (record.area is None or kind not in (None, ALL_WORDS, record.kind)):
            continue
        found.setdefault((record.method, record.control), []).append(record)
    lines = [
        Row(f"{method}, {control}" if control else method, _role(method, control), members)
        for (method, control), members in found.items()
    ]
    return sorted(lines, key=lambda row: bool(row.role))  # stable


def _role(method: str, control: str) -> str:
    if method == CEILING:
        return "ceiling"
    return "chance" if control or method in CHANCE else ""


def interval(records: Iterable[Record], figure: Figure) -> Interval:
    """Mean of a figure with its 95 % interval over samples; NaN where no record has it."""
    pairs = [(figure.of(record), record.sample) for record in records]
    known = [(value, sample) for value, sample in pairs if value is not None]
    return bootstrap([value for value, _ in known], [sample for _, sample in known])


def kinds(records: Iterable[Record]) -> list[str]:
    """Kinds of words that have masks, most frequent first."""
    counts: dict[str, int] = {}
    for record in records:
        if record.target == "word" and record.area is not None and not record.control:
            counts[record.kind] = counts.get(record.kind, 0) + 1
    return sorted(counts, key=lambda kind: -counts[kind])


def mean_curves(records: Iterable[Record], direction: str) -> dict[str, tuple[Sequence[float], Sequence[float]]]:
    """Mean fall of the log-probability by method for whole answers: the curve over fractions 0 to 1, in nats."""
    curves = {}
    for row in rows(records, "answer"):
        falls = [fall for record in row.records if (fall := getattr(record, direction)) is not None]
        if falls:
            curves[row.name] = (np.linspace(0, 1, len(falls[0])).tolist(), np.mean(falls, axis=0).tolist())
    return curves


def failures(records: Iterable[Record]) -> list[Record]:
    """Records of what went wrong."""
    return [record for record in records if record.error is not None]


def constant_maps(records: Iterable[Record]) -> dict[str, int]:
    """How many maps of each method were constant, which counts as a failure of the method."""
    counts: dict[str, int] = {}
    for record in records:
        if record.constant and not record.control and record.method != "uniform":
            counts[record.method] = counts.get(record.method, 0) + 1
    return counts
