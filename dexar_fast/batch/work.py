"""Rows become records: read and decoded ahead of the model, explained in batches that never cross parts."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from ..errors import DexarFastError, InputError
from ..explainer import Explainer
from ..inputs.messages import read_messages
from ..inputs.options import AskedOptions
from ..inputs.prompts import Prompt
from ..progress import ProgressCallback, silent
from ..runs.many import explain_many
from ..runs.requests import ExplainIdsRequest, ExplainRequest
from .ahead import ahead
from .keys import exact_name, key_of
from .parts import Done
from .rows import Row, decode, read_image
from .schema import Keep, explained, failed
from .settings import AUTO

Request = ExplainRequest | ExplainIdsRequest
Part = tuple[int, list[Row]]
"""Its number in the input, and its rows."""


@dataclass
class Counts:
    """What was done, and how often each kind of error came, without the details behind its second colon."""

    explained: int = 0
    failed: int = 0
    done_before: int = 0
    errors: dict[str, int] = field(default_factory=dict)

    def add(self, other: Counts) -> None:
        """Count what another one counted, too."""
        self.explained += other.explained
        self.failed += other.failed
        self.done_before += other.done_before
        for kind, number in other.errors.items():
            self.errors[kind] = self.errors.get(kind, 0) + number


@dataclass
class _Waiting:
    """A row that is to be explained."""

    part: int
    row: Row
    files: list[bytes]
    key: str


@dataclass
class Work:
    """Explains the rows of parts that are not done.

    Attributes:
        explainer: the model.
        folder: of the results; exact files are written there, parts are not.
        settings: a part of every key, see `settings.explaining`.
        keep: what of the explanations.
        batch_size: answers that are taken up together, or "auto".
        asked: options of `Explainer.explain`.
        done: what is there already.
    """

    explainer: Explainer
    folder: Path
    settings: Mapping[str, Any]
    keep: Keep
    batch_size: int | str
    asked: AskedOptions
    done: Done = field(default_factory=dict)
    progress: ProgressCallback = silent
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        self.options = self.explainer.options(**self.asked)
        self.at_once = AUTO if isinstance(self.batch_size, str) else self.batch_size

    def parts(
        self, parts: Iterable[Part], total: int | None = None
    ) -> Generator[tuple[int, list[dict[str, Any]]], None, None]:
        """The number and the records of each part that has any, in order.

        Raises:
            InputError: a row has changed since it was done.
        """
        waiting = (each for part in ahead(self._waiting, parts, 1) for each in part)
        asked = ahead(self._request, waiting, 2 * self.at_once)
        for number, of_part in groupby(asked, lambda both: both[0].part):
            yield number, self._explain(of_part, total)

    def _waiting(self, part: Part) -> list[_Waiting]:
        """The rows of a part that are not done, those of like length together. Runs in a thread that reads ahead."""
        number, rows = part
        waiting = []
        for row in rows:
            files: list[bytes] = []
            try:
                files = [read_image(image, self.options.allow_urls) for image in row.images]
            except InputError as error:
                row = replace(row, error=row.error or f"InputError: {error}")
            key = key_of(row, files, self.settings)
            before = self.done.get((row.id, row.occurrence))
            if before is None:
                waiting.append(_Waiting(number, row, files, key))
            elif before == key:
                self.counts.done_before += 1
            else:
                raise InputError(
                    f"input: the row of id {row.id!r} is another than the one that was done. Name another folder; "
                    "or, if it failed before, pass retry_errors"
                )
        return sorted(waiting, key=lambda each: each.row.length)

    def _request(self, waiting: _Waiting) -> tuple[_Waiting, Request | str]:
        """What to ask, with the pictures decoded; or why not. Runs in a thread that reads ahead."""
        row = waiting.row
        try:
            if row.error is not None:
                return waiting, row.error
            images = [decode(data, self.options.background, self.options.frame) for data in waiting.files]
            if not self.keep.pictures:
                waiting.files = []
            prompt: Prompt = row.prompt
            if row.messages is not None:
                prompt, _ = read_messages(row.messages, images)
            if row.answer_ids is None and row.prompt_length is None:
                if row.messages is not None:
                    return waiting, ExplainRequest(images, answer=row.answer, messages=row.messages)
                return waiting, ExplainRequest(images, row.prompt, row.answer)
            kwargs = self.options.image_kwargs
            inputs = self.explainer.prompt_encoder.encode(images, prompt, kwargs)
            length = self.explainer.decoder.prompt_ids(inputs).shape[1]
            if row.prompt_length not in (None, length):
                raise InputError(
                    f"prompt: expected {row.prompt_length} ids, as many as the answer was written after; the processor "
                    f"makes {length} of it. Give the prompt or messages, and the settings of the processor, that were "
                    "used there"
                )
            if row.answer_ids is None:
                return waiting, ExplainRequest(images, None if row.messages else row.prompt, row.answer, row.messages)
            return waiting, ExplainIdsRequest(inputs, row.answer_ids, images, row.prompt, kwargs)
        except Exception as error:
            return waiting, told(error)

    def _explain(self, asked: Iterable[tuple[_Waiting, Request | str]], total: int | None) -> list[dict[str, Any]]:
        """The records of one part, in the order of the input."""
        records: list[tuple[int, dict[str, Any]]] = []
        under_way: deque[_Waiting] = deque()

        def fail(waiting: _Waiting, error: str) -> None:
            records.append((waiting.row.index, failed(waiting.row, waiting.key, error)))
            kind = ":".join(error.split(":")[:2])[:80]
            self.counts.add(Counts(failed=1, errors={kind: 1}))

        def requests() -> Iterator[Request]:
            for waiting, request in asked:
                if isinstance(request, str):
                    fail(waiting, request)
                else:
                    under_way.append(waiting)
                    yield request

        for result in explain_many(
            self.explainer, requests(), batch_size=self.at_once, return_exceptions=True, **self.asked
        ):
            waiting = under_way.popleft()
            if isinstance(result, Exception):
                fail(waiting, told(result))
            else:
                row = waiting.row
                if self.keep.exact:
                    result.save(self.folder / exact_name(row.id, row.occurrence), exact=True)
                records.append((row.index, explained(row, waiting.key, result, self.keep, waiting.files)))
                self.counts.explained += 1
            counts = self.counts
            self.progress("explaining", counts.explained + counts.failed + counts.done_before, total)
        return [record for _, record in sorted(records, key=lambda both: both[0])]


def in_parts(rows: Iterable[Row], part_size: int, shard: tuple[int, int]) -> Iterator[Part]:
    """The parts of the input that are a shard's."""
    for number, members in groupby(rows, lambda row: row.index // part_size):
        if number % shard[1] == shard[0]:
            yield number, list(members)


def told(error: Exception) -> str:
    """An error as the column says it, without the number that a request has in its part."""
    if isinstance(error, DexarFastError) and isinstance(error.__cause__, DexarFastError):
        error = error.__cause__
    return f"{type(error).__name__}: {error}"
