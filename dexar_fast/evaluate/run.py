"""A run: explain every sample by every method, score the maps, remove the image piece by piece, keep the records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..engine.teacher_forcing import answer_log_probabilities
from ..errors import InputError
from ..layout.grid import to_pixels
from ..models.state import evaluating
from ..progress import ProgressCallback, silent
from ..result.explanation import Explanation
from .data import DataSet, Sample
from .exported import write_maps
from .identity import identity
from .perturbation import STEPS, Perturbed, perturbation_curves
from .records import Record, RecordStore
from .scoring import score, score_ceiling, score_controls, words_with_truth

if TYPE_CHECKING:
    from ..explainer import Explainer

PART = 16
"""Samples per part of the records: what an interrupted run may lose, and what shares forward passes."""
NOT_PERTURBED = ("uniform", "centre")


@dataclass(frozen=True)
class Plan:
    """What a run does.

    Attributes:
        methods: names for `Explainer.explain(method=...)`; the first one's maps also serve as controls.
        n: number of samples, the data set's first ones.
        options: further options of `Explainer.explain` (layers, normalization, text_set), the same for all methods.
        prompt: asked of every image instead of the data set's own prompt, if given.
        max_new_tokens: limit of answers that the model writes.
        perturbation: measure perturbation curves, in `steps` steps with `removal` (see `perturbation_curves`).
        word_curves: also those of every word with a mask, by its own map.
        batch_size: pictures per forward pass.
        maps: also write every sample's maps (`exported.write_maps`).
    """

    methods: tuple[str, ...]
    n: int
    options: Mapping[str, Any] = field(default_factory=dict)
    prompt: str | None = None
    max_new_tokens: int = 256
    perturbation: bool = True
    steps: int = STEPS
    removal: str = "mean"
    word_curves: bool = False
    batch_size: int = 32
    maps: bool = False


@dataclass
class Explained:
    """One sample, its answer, and what the methods say."""

    sample: Sample
    answer_ids: Tensor
    forward_seconds: float
    explanations: dict[str, Explanation] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def evaluate(
    explainer: Explainer,
    data: DataSet,
    plan: Plan,
    folder: Path,
    *,
    progress: ProgressCallback = silent,
) -> list[Record]:
    """Run a plan; what an earlier run of the same plan has finished in the folder is not done again.

    A sample or method that fails leaves a record that says why, and the run goes on.

    Args:
        explainer: the model, with its processor.
        data: samples with truth.
        plan: what to do.
        folder: for the records.
        progress: called with ``("evaluating", samples done, samples)``.

    Returns:
        All records, as they are in `records.parquet`.

    Raises:
        InputError: the folder holds records of another plan, of other rows or another model, or pyarrow is missing.
    """
    n = min(plan.n, len(data))
    settings = {"model": explainer.model_name, "data": data.name, **asdict(replace(plan, n=n))}
    settings |= {"methods": list(plan.methods), **identity(explainer, data, n)}
    store = RecordStore(folder, settings)
    parts = [range(start, min(start + PART, n)) for start in range(0, n, PART)]
    for number, indices in enumerate(parts):
        progress("evaluating", indices.start, n)
        if not store.has_part(number):
            store.write_part(
                number,
                run_part(explainer, data, indices, plan, folder, lambda done: progress("evaluating", done, n)),
            )
    progress("evaluating", n, n)
    return store.finish(len(parts))


def run_part(
    explainer: Explainer,
    data: DataSet,
    indices: Sequence[int],
    plan: Plan,
    folder: Path | None = None,
    done: Callable[[int], None] = lambda _: None,
) -> list[Record]:
    """Records of some samples.

    Args:
        explainer, plan: as for `evaluate`.
        data: samples with truth.
        indices: which of them.
        folder: for the maps, where the plan asks for them.
        done: called with every index that is explained.
    """
    records: list[Record] = []
    explained: list[Explained] = []
    for index in indices:
        try:
            sample = data[index]
            if plan.prompt is not None:
                sample = replace(sample, prompt=plan.prompt)
            one, failures = explain_sample(explainer, sample, plan)
            for explanation in one.explanations.values():
                list(words_with_truth(sample, explanation))  # tells now if the truth does not fit the answer
        except Exception as error:
            records.append(_failure(data.key(index), "", error))
        else:
            records += failures
            if one.explanations:
                explained.append(one)
                if plan.maps and folder is not None:
                    write_maps(folder, index, one.sample, one.explanations)
        done(index)
    curves = _curves(explainer, explained, plan) if plan.perturbation else [{} for _ in explained]
    for position, one in enumerate(explained):
        neighbour = explained[position - 1] if len(explained) > 1 else None
        try:
            records += _records(one, neighbour, plan, curves[position])
        except Exception as error:
            records.append(_failure(one.sample.key, "", error))
    return records


def predicted_seconds(explainer: Explainer, data: DataSet, plan: Plan) -> float:
    """About how long a run takes: as long as its second sample, alone, for every sample. The first one warms up."""
    n = min(plan.n, len(data))
    seconds = 0.0
    for index in range(min(2, n)):
        start = perf_counter()
        run_part(explainer, data, [index], plan)
        seconds = perf_counter() - start
    return n * seconds


def explain_sample(explainer: Explainer, sample: Sample, plan: Plan) -> tuple[Explained, list[Record]]:
    """Every method's explanation of one sample, and the failures of single methods."""
    inputs, answer_ids = explainer.encode(
        [sample.image], sample.prompt, sample.answer, max_new_tokens=plan.max_new_tokens
    )
    if len(answer_ids) == 0:
        raise InputError("answer: expected at least one token; got an empty answer")
    options = _options(explainer, sample, plan, inputs, answer_ids)
    one = Explained(sample, answer_ids, _forward_seconds(explainer, inputs, answer_ids))
    failures = []
    for method in plan.methods:
        start = perf_counter()
        try:
            explanation = explainer.explain_ids(
                inputs, answer_ids, image=sample.image, prompt=sample.prompt, method=method, **options
            )
        except Exception as error:
            failures.append(_failure(sample.key, method, error))
        else:
            one.explanations[method] = explanation
            one.seconds[method] = perf_counter() - start
    return one, failures


def _options(
    explainer: Explainer, sample: Sample, plan: Plan, inputs: Mapping[str, Tensor], answer_ids: Tensor
) -> dict[str, Any]:
    """The plan's options; the text set "content_only" as a mask, since ids do not say what the template is."""
    options = dict(plan.options)
    if options.get("text_set") == "content_only":
        encoder = explainer.prompt_encoder
        of_prompt = encoder.template([sample.image], sample.prompt, explainer.decoder.prompt_ids(inputs)[0])
        options["text_set"] = ~torch.cat((of_prompt, encoder.special(answer_ids)))
    return options


def _forward_seconds(explainer: Explainer, inputs: Mapping[str, Tensor], answer_ids: Tensor) -> float:
    """A plain forward pass over prompt and answer: the unit of every method's cost."""
    start = perf_counter()
    with evaluating(explainer.model):
        answer_log_probabilities(explainer.decoder, inputs, answer_ids)[-1].item()  # waits for a GPU
    return perf_counter() - start


def _curves(explainer: Explainer, explained: Sequence[Explained], plan: Plan) -> list[dict[str, Any]]:
    """Per sample, perturbation curves by order; of a sample that fails, the error."""
    samples = [_perturbed(one, plan) for one in explained]
    options: dict[str, Any] = {"steps": plan.steps, "removal": plan.removal, "batch_size": plan.batch_size}
    try:
        return list(perturbation_curves(explainer, samples, **options))
    except Exception:
        # One of them spoils the batch: find out which.
        found: list[dict[str, Any]] = []
        for sample in samples:
            try:
                found += perturbation_curves(explainer, [sample], **options)
            except Exception as error:
                found.append({"error": error})
        return found


def _perturbed(one: Explained, plan: Plan) -> Perturbed:
    orders = {}
    for method, explanation in one.explanations.items():
        if method in NOT_PERTURBED:
            continue
        orders[method] = to_pixels(explanation.answer_map, explanation.grid)
        if plan.word_curves:
            for index, word, truth in words_with_truth(one.sample, explanation):
                if truth.mask is not None:
                    orders[f"{method} {index}"] = to_pixels(word.map, explanation.grid)
    grid = next(iter(one.explanations.values())).grid
    return Perturbed(one.sample.image, one.sample.prompt, one.answer_ids, grid, orders)


def _records(one: Explained, neighbour: Explained | None, plan: Plan, curves: Mapping[str, Any]) -> list[Record]:
    records: list[Record] = []
    if "error" in curves:
        records.append(_failure(one.sample.key, "", curves["error"]))
    for method, explanation in one.explanations.items():
        words = explanation.words()
        for record in score(one.sample, method, explanation):
            name = method if record.target == "answer" else f"{method} {record.index}"
            if name in curves:
                span = slice(None)
                if record.target == "word":
                    span = slice(words[record.index].start, words[record.index].stop)
                fall: dict[str, Any] = {way: tuple(curve.drop(span).tolist()) for way, curve in curves[name].items()}
                record = replace(record, **fall)
            if record.target == "answer":
                record = replace(
                    record,
                    text=explanation.answer,
                    seconds=one.seconds[method],
                    forward_seconds=one.forward_seconds,
                )
            records.append(record)
    first = plan.methods[0]
    if first in one.explanations:
        other = neighbour.explanations.get(first) if neighbour is not None else None
        records += score_controls(one.sample, first, one.explanations[first], other)
        records += score_ceiling(one.sample, one.explanations[first])
    return records


def _failure(sample: str, method: str, error: Exception) -> Record:
    return Record(sample, method, error=" ".join(f"{type(error).__name__}: {error}".split()))
