"""Data sets with ground truth."""

from __future__ import annotations

from pathlib import Path

from .demo import DEMO, DemoPages, DemoQuestions, DemoScenes
from .files import Listed
from .sample import DataSet, Mask, Sample, WordTruth
from .voc import PascalVOC


def open_data(name: str) -> DataSet:
    """The data set of a name.

    Args:
        name: one of `DEMO` ("demo" is the embedded model's scenes described, "demo-reader" the reader's pages),
            "voc:FOLDER", or the path of a `.jsonl` or `.parquet` file.

    Raises:
        InputError: nothing of that name, or not in the expected form.
    """
    if name in DEMO:
        return DEMO[name]()
    if name.startswith("voc:"):
        return PascalVOC(Path(name.removeprefix("voc:")))
    return Listed(Path(name))


__all__ = [
    "DEMO",
    "DataSet",
    "DemoPages",
    "DemoQuestions",
    "DemoScenes",
    "Listed",
    "Mask",
    "PascalVOC",
    "Sample",
    "WordTruth",
    "open_data",
]
