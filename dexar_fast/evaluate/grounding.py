"""Which number tells best whether the image supports a word? Measured on words swapped for absent ones.

Two tasks, each an AUROC over words: a true colour or shape word against one that occurs nowhere in the scene, put in
its place and teacher-forced; and words about objects against function words.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..demo.language import COLOURS, DESCRIBE, SHAPES
from ..demo.scenes import HELD_OUT_SEEDS, Scene, draw_scene
from ..errors import InputError
from ..progress import ProgressCallback, silent
from ..result.atomic import write_atomically
from ..result.explanation import Explanation
from .statistics import auroc, bootstrap_auroc
from .tables import Table, shown

if TYPE_CHECKING:
    from ..explainer import Explainer

Floats = NDArray[np.floating[Any]]

CALIBRATION_SEEDS = HELD_OUT_SEEDS[500_000:]
"""Scenes that fit a calibration; figures are of others."""
_TINY = 1e-12


def _share(image: Floats, text: Floats) -> Floats:
    share: Floats = image / (image + text + _TINY)
    return share


def _gain(e: Explanation) -> Floats:
    log_p = e.log_probabilities
    if log_p is None:
        raise InputError("explanation: expected log-probabilities; explain(..., grounding=True) keeps them")
    gain: Floats = log_p[:, 0] - log_p[:, 1]
    return gain


DEFINITIONS: dict[str, Callable[[Explanation], Floats]] = {
    "grounding: p / (p + p of a blank image)": _gain,  # monotone in it, and never saturated
    "delta: relu(max S_img - max S_text)": lambda e: e.token_weights,
    "max S_img / (max S_img + max S_text)": lambda e: _share(
        e.image_scores.max(axis=(1, 2)), e.text_scores.max(axis=(1, 2))
    ),
    "mean over layers of the layer's ratio": lambda e: _share(
        e.image_scores.max(axis=2), e.text_scores.max(axis=2)
    ).mean(axis=1),
    "ratio of means over heads": lambda e: _share(e.image_scores.mean(axis=(1, 2)), e.text_scores.mean(axis=(1, 2))),
    "sum of relu(S_img - S_text)": lambda e: (e.image_scores - e.text_scores).clip(min=0).sum(axis=(1, 2)),
    "max S_img": lambda e: e.image_scores.max(axis=(1, 2)),
    "-max S_text": lambda e: -e.text_scores.max(axis=(1, 2)),
    "log p, with the image": lambda e: e.log_probabilities[:, 0] if e.log_probabilities is not None else _gain(e),
}
"""Candidates, each ``(T,)`` from an explanation: larger is more grounded."""


class Swap(NamedTuple):
    """An answer, the same with one word swapped for an absent one, and where."""

    scene: Scene
    true: str
    swapped: str
    place: int


def swaps(scene: Scene) -> Iterator[Swap]:
    """One colour and one shape word of the description, each swapped for one that the scene does not have."""
    rng = np.random.default_rng([scene.seed, 3])
    words = scene.description.words
    for options in (COLOURS, SHAPES):
        absent = [option for option in options if option not in words]
        places = [index for index, word in enumerate(words) if word in options]
        if absent and places:
            place, foreign = int(rng.choice(places)), str(rng.choice(absent))
            yield Swap(scene, " ".join(words), " ".join((*words[:place], foreign, *words[place + 1 :])), place)


class Collected(NamedTuple):
    """Values of every definition, what they should tell apart, and the scene of each."""

    values: dict[str, list[float]]
    positive: list[bool]
    scenes: list[int]

    def add(self, explanation: Explanation, words: Sequence[int], positive: bool, scene: int) -> None:
        spans = explanation.words()
        for name, definition in DEFINITIONS.items():
            of_tokens = definition(explanation)
            self.values.setdefault(name, [])
            # A word of several tokens: the sum of gains is that of the word; of scores the largest speaks.
            combine = np.sum if name.startswith(("grounding", "log p")) else np.max
            self.values[name] += [float(combine(of_tokens[spans[word].start : spans[word].stop])) for word in words]
        self.positive.extend([positive] * len(words))
        self.scenes.extend([scene] * len(words))


def collect(
    explainer: Explainer, seeds: Sequence[int], method: str = "dexar", progress: ProgressCallback = silent
) -> tuple[Collected, Collected]:
    """Both tasks on some scenes: (true against swapped, about objects against function words)."""
    swapped, content = Collected({}, [], []), Collected({}, [], [])
    for number, seed in enumerate(seeds):
        progress("grounding", number, len(seeds))
        scene = draw_scene(seed)

        def explained(answer: str, scene: Scene = scene) -> Explanation:
            return explainer.explain(scene.image, DESCRIBE[0], answer, method=method, grounding=True)

        true = explained(str(scene.description))
        for swap in swaps(scene):
            swapped.add(true, [swap.place], True, seed)
            swapped.add(explained(swap.swapped), [swap.place], False, seed)
        about = [bool(refers_to) for refers_to in scene.description.refers_to]
        content.add(true, np.flatnonzero(about).tolist(), True, seed)
        content.add(true, np.flatnonzero(np.logical_not(about)).tolist(), False, seed)
    progress("grounding", len(seeds), len(seeds))
    return swapped, content


def grounding_table(swapped: Collected, content: Collected) -> Table:
    """AUROC of every definition at both tasks."""
    body = []
    for name in DEFINITIONS:
        cells = [(name, False)]
        for task in (swapped, content):
            values, labels = np.asarray(task.values[name]), np.asarray(task.positive)
            cells.append((shown(bootstrap_auroc(values, labels, task.scenes), 3), False))
        body.append(tuple(cells))
    note = (
        f"AUROC, 0.5 is chance, with 95 % intervals over {len(set(swapped.scenes))} scenes; "
        f"{sum(swapped.positive)} true and {len(swapped.positive) - sum(swapped.positive)} swapped words, "
        f"{sum(content.positive)} words about objects, {len(content.positive) - sum(content.positive)} function words."
    )
    head = ("definition", "true against swapped words", "about objects against function words")
    return Table("Grounding", head, tuple(body), note)


@dataclass(frozen=True)
class Calibration:
    """Grounding as a probability of being right: ``sigmoid(slope * logit(grounding) + offset)``.

    Attributes:
        slope, offset: fitted on words whose truth is known.
    """

    slope: float
    offset: float

    def __call__(self, grounding: Floats) -> Floats:
        """Calibrated values of groundings in [0, 1], any shape."""
        clipped = np.clip(np.asarray(grounding, dtype=np.float64), _TINY, 1 - _TINY)
        supported: Floats = _sigmoid(self.slope * (np.log(clipped) - np.log1p(-clipped)) + self.offset)
        return supported

    def save(self, path: str | PathLike[str]) -> Path:
        """Write as JSON."""
        return write_atomically(path, json.dumps(asdict(self)).encode())

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Calibration:
        """Read what `save` wrote.

        Raises:
            InputError: there is no such file, or it holds something else.
        """
        try:
            fields = json.loads(Path(path).read_text(encoding="utf-8"))
            if sorted(fields) != ["offset", "slope"]:
                raise ValueError("expected slope and offset")
            calibration = cls(**{name: float(value) for name, value in fields.items()})
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"path: {path} is not a saved calibration ({error})") from error
        if not np.isfinite([calibration.slope, calibration.offset]).all():
            raise InputError(f"path: expected finite numbers in {path}; got {calibration}")
        return calibration


def calibrate(grounding: Sequence[float] | Floats, supported: Sequence[bool] | NDArray[np.bool_]) -> Calibration:
    """Fit a `Calibration` by logistic regression (Platt scaling with his smoothed targets), by Newton's method.

    Args:
        grounding: in [0, 1], one per word.
        supported: whether the word is true of its image.

    Raises:
        InputError: only one kind of word was given.
    """
    g = np.clip(np.asarray(grounding, dtype=np.float64), _TINY, 1 - _TINY)
    labels = np.asarray(supported, dtype=bool)
    n_true, n_false = int(labels.sum()), int((~labels).sum())
    if not n_true or not n_false:
        raise InputError(f"supported: expected words of both kinds; got {n_true} true and {n_false} false")
    x = np.stack((np.log(g) - np.log1p(-g), np.ones_like(g)), axis=1)
    target = np.where(labels, (n_true + 1) / (n_true + 2), 1 / (n_false + 2))
    fitted = np.zeros(2)
    for _ in range(100):
        p = _sigmoid(x @ fitted)
        hessian = (x * (p * (1 - p))[:, None]).T @ x + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, x.T @ (target - p))
        # A full step may overshoot where the two kinds hardly overlap.
        fitted = fitted + step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-8:
            break
    return Calibration(float(fitted[0]), float(fitted[1]))


def calibration_error(probability: Floats, labels: NDArray[np.bool_], bins: int = 10) -> float:
    """Expected calibration error over equally filled bins, in [0, 1]."""
    order = np.argsort(probability, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    gaps = [len(part) * abs(probability[part].mean() - labels[part].mean()) for part in parts]
    return float(sum(gaps) / len(order))


def _sigmoid(x: Floats) -> Floats:
    value: Floats = np.exp(-np.logaddexp(0.0, -x))
    return value


def study(
    explainer: Explainer, n: int, *, n_calibration: int = 50, progress: ProgressCallback = silent
) -> tuple[Table, Calibration]:
    """The table on the first n held-out scenes, with a calibration fitted on others and its error in the note."""
    swapped, content = collect(explainer, HELD_OUT_SEEDS[:n], progress=progress)
    table = grounding_table(swapped, content)
    fitting, _ = collect(explainer, CALIBRATION_SEEDS[:n_calibration], progress=progress)
    name = next(iter(DEFINITIONS))
    calibration = calibrate(_sigmoid(np.asarray(fitting.values[name])), fitting.positive)
    raw, labels = _sigmoid(np.asarray(swapped.values[name])), np.asarray(swapped.positive)
    errors = [calibration_error(values, labels) for values in (raw, calibration(raw))]
    note = (
        f" Calibrated on {n_calibration} other scenes: expected calibration error {errors[0]:.3f} as defined, "
        f"{errors[1]:.3f} calibrated; AUROC {auroc(calibration(raw), labels):.3f}."
    )
    return Table(table.title, table.head, table.body, table.note + note), calibration
