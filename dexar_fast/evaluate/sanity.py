"""Sanity checks (Adebayo et al., 2018): does a map depend on what it claims to explain?

A map that stays the same when the model's weights, the image or the word change explains none of them. Every check
gives the rank correlation (Spearman) between a token's map and its map after the change: 1 where nothing changed, 0
where the two have nothing in common. The mean over tokens of an answer is one figure of its sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..errors import InputError, NotFiniteError
from ..progress import ProgressCallback, silent
from ..result.explanation import Explanation
from .data import DataSet, Sample
from .statistics import bootstrap
from .tables import Table, shown

if TYPE_CHECKING:
    from ..explainer import Explainer

Floats = NDArray[np.floating[Any]]

REPEATED = "same input again"
ANOTHER_TOKEN = "another token of the answer"
ANOTHER_IMAGE = "another image, same answer"


def sanity(
    explainer: Explainer,
    data: DataSet,
    methods: Sequence[str],
    n: int,
    *,
    seed: int = 0,
    progress: ProgressCallback = silent,
) -> Table:
    """All checks as a table: a row per check or per stage of the randomisation, a column per method.

    Args:
        explainer: the model; its weights are changed meanwhile and are the same again afterwards.
        data: samples.
        methods: names for `Explainer.explain`.
        n: number of samples.
        seed: of the randomisation.
        progress: called with ``("checking", done, total)``.

    Raises:
        InputError: fewer than two samples.
    """
    samples = [data[index] for index in range(min(n, len(data)))]
    if len(samples) < 2:
        raise InputError(f"n: expected at least 2 samples, another image is needed; got {len(samples)}")
    stages = cascade(explainer)
    total, done = len(methods) * len(samples) * (len(stages) + 3), 0

    def explained(method: str, sample: Sample, answer: str, image: Sample | None = None) -> Explanation:
        nonlocal done
        done += 1
        progress("checking", done, total)
        return explainer.explain((image or sample).image, sample.prompt, answer, method=method)

    answers = [sample.answer or explainer.explain(sample.image, sample.prompt).answer for sample in samples]
    figures: dict[tuple[str, str], list[float]] = {}
    originals: dict[tuple[str, int], Explanation] = {}
    for method in methods:
        for number, (sample, answer) in enumerate(zip(samples, answers, strict=True)):
            first, again = (explained(method, sample, answer) for _ in range(2))
            other = explained(method, sample, answer, image=samples[number - 1])
            originals[method, number] = first
            same = float(np.array_equal(first.token_maps, again.token_maps))
            figures.setdefault((REPEATED, method), []).append(same)
            shuffled = np.roll(first.token_maps, max(1, len(first.tokens) // 2), axis=0)
            figures.setdefault((ANOTHER_TOKEN, method), []).append(similarity(first.token_maps, shuffled))
            figures.setdefault((ANOTHER_IMAGE, method), []).append(similarity(first.token_maps, other.token_maps))
    with randomising(explainer, stages, seed) as randomise:
        for stage in stages:
            randomise(stage)
            for (method, number), original in originals.items():
                try:
                    maps = explained(method, samples[number], answers[number]).token_maps
                except NotFiniteError:  # random weights may overflow: no map is left
                    maps = np.zeros_like(original.token_maps)
                figures.setdefault((stage, method), []).append(similarity(original.token_maps, maps))
    return _table(figures, methods, [REPEATED, ANOTHER_IMAGE, ANOTHER_TOKEN, *stages], len(samples))


def similarity(maps: Floats, others: Floats) -> float:
    """Mean over tokens of Spearman's rank correlation of ``(T, rows, cols)`` maps; a constant map has none: 0."""
    a, b = (_ranks(each.reshape(len(each), -1)) for each in (maps, others))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    scale = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return float(np.divide((a * b).sum(axis=1), scale, out=np.zeros(len(a)), where=scale > 0).mean())


def _ranks(values: Floats) -> Floats:
    """Ranks along the last axis, ties sharing their mean."""
    ranks = np.empty(values.shape)
    for row, of_row in zip(values, ranks, strict=True):
        _, place, counts = np.unique(row, return_inverse=True, return_counts=True)
        of_row[:] = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks


def cascade(explainer: Explainer) -> list[str]:
    """Stages of the randomisation from the head down; each is randomised on top of those before it."""
    n_layers = len(explainer.decoder.layers)
    return ["head random", *(f"and layer {layer}" for layer in reversed(range(n_layers))), "and everything below"]


@contextmanager
def randomising(explainer: Explainer, stages: Sequence[str], seed: int) -> Iterator[Any]:
    """Gives a function that randomises one stage; every weight is put back on exit, also after an exception.

    A tensor's own values are shuffled: their distribution stays what it was.
    """
    decoder, model = explainer.decoder, explainer.model
    parts: dict[str, list[nn.Parameter]] = {}
    taken: set[int] = set()

    def take(parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
        fresh = [parameter for parameter in parameters if id(parameter) not in taken]
        taken.update(id(parameter) for parameter in fresh)
        return fresh

    family = explainer.family
    top = [model.get_submodule(family.head), model.get_submodule(family.final_norm)]
    parts[stages[0]] = take([parameter for module in top for parameter in module.parameters()])
    for stage, layer in zip(stages[1:-1], reversed(decoder.layers), strict=True):
        parts[stage] = take(list(layer.parameters()))
    parts[stages[-1]] = take(list(model.parameters()))
    saved: list[tuple[nn.Parameter, torch.Tensor]] = []
    generator = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def randomise(stage: str) -> None:
        for parameter in parts[stage]:
            saved.append((parameter, parameter.detach().clone()))
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))

    with explainer.turn():  # nobody else may see these weights
        try:
            yield randomise
        finally:
            with torch.no_grad():
                for parameter, values in saved:
                    parameter.copy_(values)


def _table(figures: dict[tuple[str, str], list[float]], methods: Sequence[str], checks: Sequence[str], n: int) -> Table:
    body = []
    for check in checks:
        cells = [(check, False)]
        for method in methods:
            values = figures[check, method]
            if check == REPEATED:
                cells.append(("identical" if min(values) == 1 else f"differs in {values.count(0.0)} of {n}", False))
            else:
                cells.append((shown(bootstrap(values, range(len(values))), 2), False))
        body.append(tuple(cells))
    note = (
        f"Rank correlation of token maps with the original ones: 0 is best, 1 means that the map does not care. {n} "
        "samples, mean and 95 % bootstrap interval. Weights are shuffled within their tensors, from the head down."
    )
    return Table("Sanity checks", ("after", *methods), tuple(body), note)
