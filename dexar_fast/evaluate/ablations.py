"""What the figures owe to which choice: layers, normalization, text set, head filter, weights of words, flow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..inputs.methods import FOCUS
from ..inputs.options import TEXT_SETS
from ..progress import ProgressCallback, silent
from ..result.explanation import Explanation, Floats, minmax
from .combine import focused, gain, weighted, with_flow
from .data import DataSet, Sample
from .focus_parts import variants
from .records import Record
from .scoring import score
from .summary import ALL_WORDS, AUROC, PEAK, POINTING, SNR, Figure, Row, interval, kinds, rows
from .tables import Table, shown

if TYPE_CHECKING:
    from ..explainer import Explainer

Explain = Callable[..., Explanation]

DEXAR, ATTENTION, CONTRAST = "dexar", "dexar-attention", "attention-contrast"
FLOW = ("dexar", "dexar-contribution")


def ablation_tables(explainer: Explainer, data: DataSet, n: int, *, progress: ProgressCallback = silent) -> list[Table]:
    """Tables of options and of combinations, on the first n samples; only the maps' places are measured.

    Args:
        explainer: the model.
        data: samples with answers and masks.
        n: number of samples.
        progress: called with ``("varying", done, n)``.
    """
    of_options: list[Record] = []
    of_answers: list[Record] = []
    of_parts: list[Record] = []
    n = min(n, len(data))
    for index in range(n):
        progress("varying", index, n)
        sample = data[index]
        if sample.answer is None:
            raise InputError(f"data: ablations explain given answers; sample {sample.key} has none")
        explain: Explain = partial(explainer.explain, sample.image, sample.prompt, sample.answer)
        for name, explanation in _options(explainer, explain, sample):
            of_options += score(sample, name, explanation)
        for name, explanation in variants(explainer, sample):
            of_parts += score(replace(sample, mask=None), name, explanation)
        answer_alone = replace(sample, words={})
        for name, explanation in _combinations(explain):
            of_answers += score(answer_alone, name, explanation)
    progress("varying", n, n)
    return [
        _table(f"Parts of {FOCUS}", of_parts, _word_kinds(of_parts), (SNR, AUROC, PEAK)),
        _table("Options", of_options, [None, *_word_kinds(of_options)]),
        _table("Combining words into the answer map", of_answers, [None]),
    ]


def _options(explainer: Explainer, explain: Explain, sample: Sample) -> Iterator[tuple[str, Explanation]]:
    yield DEXAR, explain(method=DEXAR)
    for layer in range(len(explainer.decoder.layers)):
        yield f"{DEXAR}, layer {layer}", explain(method=DEXAR, layers=[layer])
    yield f"{DEXAR}, reference normalization", explain(method=DEXAR, normalization="reference")
    for name in TEXT_SETS[1:]:
        yield f"{DEXAR}, text set {name}", explain(method=DEXAR, text_set=name)
    yield f"{DEXAR}, unfiltered", explain(method="dexar-unfiltered")
    yield ATTENTION, explain(method=ATTENTION)
    yield CONTRAST, explain(method=CONTRAST)
    for layer in range(len(explainer.decoder.layers)):
        yield f"{CONTRAST}, layer {layer}", explain(method=CONTRAST, layers=[layer])
    for method in FLOW:
        yield f"{method}, unfiltered, no flow", _unfiltered(explain(method=method, unfiltered=True))
        assert sample.answer is not None
        yield (
            f"{method}, unfiltered, flow",
            with_flow(explainer, sample.image, sample.prompt, sample.answer, method),
        )


def _unfiltered(explanation: Explanation) -> Explanation:
    """The unfiltered maps in place of the filtered ones. Its words are single tokens' maps scaled alike."""
    maps, answer = explanation.unfiltered_token_maps, explanation.unfiltered_answer_map
    assert maps is not None
    assert answer is not None
    ranges = np.stack((np.zeros(len(maps)), np.ones(len(maps))), axis=1)
    return replace(explanation, token_maps=maps, answer_map=answer, token_map_ranges=ranges)


def _combinations(explain: Explain) -> Iterator[tuple[str, Explanation]]:
    maps = {method: explain(method=method) for method in (ATTENTION, CONTRAST)}
    maps[DEXAR] = explain(method=DEXAR, grounding=True)
    gains = gain(maps[DEXAR])
    equal = np.ones(len(gains))
    for method in (DEXAR, ATTENTION, CONTRAST):
        one = maps[method]
        ways: dict[str, Floats] = {
            "delta of dexar": weighted(one, maps[DEXAR].token_weights),
            "equal": weighted(one, equal),
            "gain": weighted(one, gains),
            "focus": focused(one, equal),
            "gain and focus": focused(one, gains),
        }
        for way, answer_map in ways.items():
            yield f"{method}, by {way}", replace(one, answer_map=answer_map)
    by_gain = weighted(maps[DEXAR], gains)
    for method in (ATTENTION, CONTRAST):
        sharp = focused(maps[method], gains)
        both = {"plus": minmax(by_gain + sharp), "times": minmax(by_gain * np.sqrt(sharp))}
        both["plus, squared"] = both["plus"] ** 2
        for way, answer_map in both.items():
            yield f"{DEXAR} by gain {way} {method} by gain and focus", replace(maps[DEXAR], answer_map=answer_map)


def _word_kinds(records: list[Record]) -> list[str]:
    found = kinds(records)
    return [ALL_WORDS, *found] if len(found) > 1 else found


def _table(
    title: str,
    records: list[Record],
    targets: list[Any],
    figures: tuple[Figure, ...] = (SNR, AUROC, POINTING),
) -> Table:
    """A row per variant; the figures of the answer map (None), then of each kind of words."""
    names: dict[str, None] = {}
    columns: list[dict[str, Row]] = []
    for kind in targets:
        of_kind = rows(records, "answer") if kind is None else rows(records, "word", kind)
        columns.append({row.name: row for row in of_kind})
        names.update(dict.fromkeys(columns[-1]))
    body = []
    for name in names:
        cells = [(name, False)]
        for column in columns:
            for figure in figures:
                cells.append((shown(interval(column[name].records, figure), figure.decimals), False))
        body.append(tuple(cells))
    head = [
        f"{'answer' if kind is None else kind}: {figure.title} ({figure.unit})"
        for kind in targets
        for figure in figures
    ]
    samples = len({record.sample for record in records})
    return Table(title, ("variant", *head), tuple(body), f"{samples} samples, mean and 95 % bootstrap interval.")
