"""Several prompts about one image in one sequence, each seeing the image and itself only.

The image's part of a LLaVA sequence is the same for every prompt about it: "USER:" and the image tokens come
first. So one sequence holds that prefix once and then segments, each numbered on from the prefix's last
position and masked from the other segments. The model computes exactly what it would for each prompt alone,
at a fraction of the cost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from .language import PLAIN, Described, Kind, Language


@dataclass(frozen=True)
class Mix:
    """What is asked of a scene, and how much it matters."""

    weight: Mapping[Kind, float]
    """How much a word of an answer counts in the loss; a word of a description counts 1."""
    share: Mapping[Kind, float]
    """How often a kind is asked, relative to the others, while a scene still has questions of it."""
    described: float
    """The share of scenes that are also described."""


LEARNING = Mix(
    weight={"colour": 4.0, "shape": 2.0, "place": 2.0, "count": 4.0, "presence": 4.0, "content": 1.0,
            "pattern": 4.0, "relation": 4.0},
    share={"colour": 3.0, "shape": 1.5, "place": 3.0, "count": 1.5, "presence": 2.5, "content": 0.8,
           "pattern": 2.5, "relation": 2.5},
    described=1.0,
)  # fmt: skip
REVISION = Mix(
    weight={"colour": 4.0, "shape": 3.0, "place": 4.0, "count": 4.0, "presence": 4.0, "content": 1.0,
            "pattern": 4.0, "relation": 4.0},
    share={"colour": 2.5, "shape": 2.0, "place": 6.0, "count": 4.0, "presence": 2.0, "content": 0.5,
           "pattern": 2.0, "relation": 4.0},
    described=0.5,
)  # fmt: skip
"""For a model that describes well: more of the questions that are learned last."""


@dataclass(frozen=True)
class Segment:
    """A prompt and its answer as token ids. `weight` is the loss weight of each answer token."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    weight: float

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


class Encoder:
    """Turns sentences of the grammar into segments, as the chat template would write them after the image.

    Args:
        tokenizer: of the model.
        image_tokens: how many the model sees.
        before, after: the tokens in front of the image's and behind them.
        ask: those between a prompt and its answer.
        image: the image token.
        grid: rows and columns of the image tokens where positions have three axes (time, row, column), as in Qwen2-VL.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        image_tokens: int,
        *,
        image: str = "<image>",
        before: tuple[str, ...] = ("USER:",),
        after: tuple[str, ...] = (),
        ask: tuple[str, ...] = ("ASSISTANT:",),
        grid: tuple[int, int] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self._ids: dict[str, tuple[int, ...]] = {}  # of the words so far
        self.pad = int(tokenizer.pad_token_id)
        self.image = int(tokenizer.convert_tokens_to_ids(image))
        self.ask = ask
        tokens = (*before, *[image] * image_tokens, *after)
        self.prefix: tuple[int, ...] = tuple(tokenizer.convert_tokens_to_ids(tokens))
        self.places: NDArray[np.int64] = np.arange(len(tokens))[None]
        """Positions of the prefix: (axes, len(prefix))."""
        if grid is not None:
            start = len(before)
            axes = np.stack([np.zeros(grid, dtype=np.int64), *np.indices(grid)]).reshape(3, -1) + start
            behind = axes.max() + 1 + np.arange(len(after))
            self.places = np.concatenate([np.tile(np.arange(start), (3, 1)), axes, np.tile(behind, (3, 1))], axis=1)
        self.first = int(self.places.max()) + 1
        """Position of a segment's first token."""

    def segment(self, prompt: str, answer: Sequence[str], weight: float) -> Segment:
        """ "{prompt} ASSISTANT:" and "{answer}</s>"."""
        return Segment(
            self.ids_of((*prompt.split(), *self.ask)),
            self.ids_of((*answer, "</s>")),
            weight,
        )

    def ids_of(self, words: Sequence[str]) -> tuple[int, ...]:
        """The tokens of words, of which each may be several."""
        for word in words:
            if word not in self._ids:
                self._ids[word] = tuple(self.tokenizer(word, add_special_tokens=False)["input_ids"])
        return tuple(token for word in words for token in self._ids[word])


@dataclass(frozen=True)
class Packed:
    """A batch of B packed sequences of L tokens."""

    ids: torch.Tensor  # int64 (B, L)
    positions: torch.Tensor  # int64 (B, L), or (3, B, L) where positions have three axes
    visible: torch.Tensor  # bool (B, 1, L, L): may row see column
    targets: torch.Tensor  # int64 (B, L): the id that should follow; -100 where nothing is learned
    weights: torch.Tensor  # float32 (B, L)

    def to(self, device: torch.device) -> "Packed":
        return Packed(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def choose_segments(
    things: Sequence[Described],
    encoder: Encoder,
    budget: int,
    rng: np.random.Generator,
    mix: Mix = LEARNING,
    language: Language = PLAIN,
) -> list[Segment]:
    """A description and as many questions as fit into `budget` tokens, with a mix of kinds.

    Now and then a prompt loses its final mark, so that the model does not depend on it.
    """

    def prompt_of(text: str) -> str:
        return text[:-2] if rng.random() < 0.2 else text

    prompt = language.prompts[int(rng.integers(len(language.prompts)))]
    segments = [encoder.segment(prompt_of(prompt), language.describe(things, prompt).words, 1.0)]
    if mix.described < 1.0 and rng.random() >= mix.described:
        segments = []
    left = budget - sum(map(len, segments))
    questions = list(language.ask(things, rng))
    shares = np.array([mix.share[q.kind] for q in questions])
    crowd = {kind: sum(q.kind == kind for q in questions) for kind in mix.share}
    shares /= np.array([crowd[q.kind] ** 0.5 for q in questions])
    order = np.argsort(rng.exponential(size=len(questions)) / shares)  # weighted, without replacement
    for index in order:
        question = questions[index]
        segment = encoder.segment(prompt_of(question.text), question.answer.words, mix.weight[question.kind])
        if len(segment) <= left:
            segments.append(segment)
            left -= len(segment)
    return segments


def pack(batch: Sequence[Sequence[Segment]], encoder: Encoder, length: int) -> Packed:
    """Lay out the segments of each image after the common prefix; `length` is L, the prefix included."""
    shape = (len(batch), length)
    start = len(encoder.prefix)
    ids = np.full(shape, encoder.pad, dtype=np.int64)
    positions = np.zeros((len(encoder.places), *shape), dtype=np.int64)
    owner = np.full(shape, -1, dtype=np.int64)  # segment number; 0 the prefix, -1 padding
    targets = np.full(shape, -100, dtype=np.int64)
    weights = np.zeros(shape, dtype=np.float32)
    ids[:, :start], positions[..., :start], owner[:, :start] = encoder.prefix, encoder.places[:, None], 0
    for row, segments in enumerate(batch):
        at = start
        for number, segment in enumerate(segments, start=1):
            end = at + len(segment)
            if end > length:
                raise ValueError(f"segments of image {row} need more than {length} tokens")
            ids[row, at:end] = segment.prompt + segment.answer
            positions[:, row, at:end] = encoder.first + np.arange(len(segment))
            owner[row, at:end] = number
            learned = slice(at + len(segment.prompt) - 1, end - 1)  # the rows that predict the answer
            targets[row, learned], weights[row, learned] = segment.answer, segment.weight
            at = end
    return Packed(
        torch.from_numpy(ids),
        torch.from_numpy(positions if len(positions) > 1 else positions[0]),
        torch.from_numpy(_visible(owner))[:, None],
        torch.from_numpy(targets),
        torch.from_numpy(weights),
    )


def _visible(owner: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(B, L) segment numbers to (B, L, L): earlier tokens of the prefix or of the same segment."""
    length = owner.shape[1]
    earlier = np.tril(np.ones((length, length), dtype=np.bool_))
    same = (owner[:, None, :] == owner[:, :, None]) | (owner[:, None, :] == 0)
    return np.asarray(earlier & same)
