"""One thing to evaluate: an image, what is asked and answered, and where the truth lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class WordTruth:
    """What one word of the answer is about.

    Attributes:
        kind: a name to group words by, such as "colour" or "noun"; "function" for words that name nothing seen.
        mask: ``(height, width)`` bool, the word's pixels; None if it has none.
    """

    kind: str
    mask: Mask | None = None


@dataclass(frozen=True, eq=False)
class Sample:
    """One image with its question.

    Attributes:
        key: unique in its data set, and the same in every run.
        image: the picture.
        prompt: as `Explainer.explain` takes it.
        answer: the answer to explain, or None to let the model write it.
        mask: ``(height, width)`` bool, what the whole answer is about; None leaves only perturbation to measure.
        words: truth by index of the word in the answer (`Explanation.words()`).
    """

    key: str
    image: Image.Image
    prompt: str
    answer: str | None = None
    mask: Mask | None = None
    words: Mapping[int, WordTruth] = field(default_factory=dict)


class DataSet(Protocol):
    """Samples that are read when they are asked for.

    Reading one may raise `dexar_fast.InputError`; a run then records the failure and goes on.
    """

    name: str

    def __len__(self) -> int: ...

    def key(self, index: int) -> str:
        """The sample's key, without reading it."""

    def __getitem__(self, index: int) -> Sample: ...
