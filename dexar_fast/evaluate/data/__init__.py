"""Data sets with ground truth."""

from __future__ import annotations

from pathlib import Path

from ...errors import InputError
from .demo import DEMO, DemoPages, DemoQuestions, DemoScenes
from .files import Listed
from .sample import DataSet, Mask, Sample, WordTruth
from .voc import PascalVOC


class Later:
    """The samples of a data set from a number on.

    Raises:
        InputError: there are none.
    """

    def __init__(self, data: DataSet, skip: int) -> None:
        if not 0 <= skip < len(data):
            raise InputError(f"skip: expected a number from 0 to {len(data) - 1}; got {skip}")
        self.name, self.data, self.skip = f"{data.name} from {skip} on", data, skip

    def __len__(self) -> int:
        return len(self.data) - self.skip

    def key(self, index: int) -> str:
        return self.data.key(self.skip + index)

    def __getitem__(self, index: int) -> Sample:
        return self.data[self.skip + index]


def open_data(name: str, skip: int = 0) -> DataSet:
    """The data set of a name, without its first samples.

    Args:
        name: one of `DEMO` ("demo" is the embedded model's scenes described, "demo-reader" the reader's pages),
            "voc:FOLDER", or the path of a `.jsonl` or `.parquet` file.
        skip: how many samples are left out.

    Raises:
        InputError: nothing of that name, not in the expected form, or no sample is left.
    """
    if skip:
        return Later(open_data(name), skip)
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
    "Later",
    "Listed",
    "Mask",
    "PascalVOC",
    "Sample",
    "WordTruth",
    "open_data",
]
