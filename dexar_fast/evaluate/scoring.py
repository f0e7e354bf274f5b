"""From one explanation and the truth about its sample to records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import InputError
from ..layout.grid import Grid, to_cells, to_pixels
from ..result.explanation import Explanation, Word
from .data import Mask, Sample, WordTruth
from .metrics import METRICS, localisation, normalise
from .records import ANOTHER_IMAGE, ANOTHER_TOKEN, Record
from .summary import CEILING

UNIFORM = "uniform"

Floats = NDArray[np.floating[Any]]


class Scored(NamedTuple):
    """A map that is to be scored: a record that says what it is, its cells, and the mask that it should find."""

    record: Record
    cells: Floats
    mask: Mask | None


def score(sample: Sample, method: str, explanation: Explanation) -> list[Record]:
    """Records of the answer map and of every word with truth.

    Raises:
        InputError: the truth names words that the answer does not have.
    """
    scored = [Scored(Record(sample.key, method), explanation.answer_map, sample.mask)]
    for index, word, truth in words_with_truth(sample, explanation):
        record = Record(
            sample.key,
            method,
            target="word",
            index=index,
            text=word.text,
            kind=truth.kind,
            weight=word.weight,
        )
        scored.append(Scored(record, word.map, truth.mask))
    return _measure(scored, explanation)


def score_controls(sample: Sample, method: str, own: Explanation, other: Explanation | None) -> list[Record]:
    """What chance would do with this method's own maps: those of another token, and of another image."""
    scored = []
    words, others = own.words(), [] if other is None else other.words()
    for index, word, truth in words_with_truth(sample, own):
        record = Record(sample.key, method, target="word", index=index, text=word.text, kind=truth.kind)
        shuffled = words[(index + max(1, len(words) // 2)) % len(words)]
        if len(words) > 1:
            scored.append(Scored(replace(record, control=ANOTHER_TOKEN), shuffled.map, truth.mask))
        if others:
            foreign = others[index % len(others)].map
            scored.append(Scored(replace(record, control=ANOTHER_IMAGE), foreign, truth.mask))
    if other is not None:
        scored.append(Scored(Record(sample.key, method, ANOTHER_IMAGE), other.answer_map, sample.mask))
    # A map of another grid says nothing about this image.
    fitting = [one for one in scored if one.cells.shape == own.answer_map.shape and one.mask is not None]
    return _measure(fitting, own)


def score_ceiling(sample: Sample, explanation: Explanation) -> list[Record]:
    """What a map on this grid can reach: the masks themselves, averaged over its cells."""
    targets = [(Record(sample.key, CEILING), sample.mask)]
    for index, word, truth in words_with_truth(sample, explanation):
        record = Record(sample.key, CEILING, target="word", index=index, text=word.text, kind=truth.kind)
        targets.append((record, truth.mask))
    scored = [Scored(record, to_cells(mask, explanation.grid), mask) for record, mask in targets if mask is not None]
    return _measure(scored, explanation)


def words_with_truth(sample: Sample, explanation: Explanation) -> Iterator[tuple[int, Word, WordTruth]]:
    """Index, word and truth.

    Raises:
        InputError: the truth names words that the answer does not have.
    """
    words = explanation.words()
    for index, truth in sample.words.items():
        if not 0 <= index < len(words):
            raise InputError(f"data: sample {sample.key} says what word {index} is about; the answer has {len(words)}")
        yield index, words[index], truth


def peak(scored: Scored, grid: Grid) -> float:
    """The share of the strongest cells, mostly one, that touch the mask: where a map points, at its own resolution."""
    assert scored.mask is not None
    strongest = scored.cells == scored.cells.max()
    return float((to_cells(scored.mask, grid)[strongest] > 0).mean())


def _measure(scored: Sequence[Scored], explanation: Explanation) -> list[Record]:
    """The records with their metrics; those without a usable mask stay without."""
    findable = [one for one in scored if one.mask is not None and 0 < one.mask.mean() < 1]
    if not findable:
        return [one.record for one in scored]
    pixels = np.stack([to_pixels(one.cells, explanation.grid).reshape(-1) for one in findable])
    masks = torch.from_numpy(np.stack([one.mask.reshape(-1) for one in findable if one.mask is not None]))
    maps, constant = normalise(torch.from_numpy(pixels))
    if findable[0].record.method == UNIFORM:
        maps = torch.ones_like(maps)  # the one method whose constant map is no failure
    values = localisation(maps, masks)
    areas = masks.double().mean(dim=1)
    measured = {}
    for row, one in enumerate(findable):
        figures: dict[str, Any] = {name: float(getattr(values, name)[row]) for name in METRICS}
        figures |= {"area": float(areas[row]), "constant": bool(constant[row]), "peak": peak(one, explanation.grid)}
        measured[id(one)] = replace(one.record, **figures)
    return [measured.get(id(one), one.record) for one in scored]
