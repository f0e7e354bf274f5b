"""What can be said about a scene: descriptions, questions and answers, and what each word refers to.

Everything is a sequence of words from one small vocabulary. `refers_to` names, for every word, the objects
(by their index in the scene) that the word is about; function words refer to no object.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

COLOURS: tuple[str, ...] = ("red", "green", "blue", "yellow", "purple", "white", "black")
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star", "cross", "ring")
SIZES: tuple[str, ...] = ("small", "large")
PLACES: tuple[str, ...] = (
    "at the top left", "at the top middle", "at the top right",
    "at the middle left", "in the middle", "at the middle right",
    "at the bottom left", "at the bottom middle", "at the bottom right",
)  # fmt: skip
"""The nine places in reading order: place p is row p // 3 and column p % 3 of a 3 x 3 grid."""
NUMBERS: tuple[str, ...] = ("one", "two", "three", "four", "five", "six")

DESCRIBE: tuple[str, ...] = ("describe the image .", "what is in the image ?", "what do you see ?")
"""Prompts that ask for the whole description."""

Kind = Literal["colour", "shape", "place", "count", "presence", "content", "pattern", "relation"]
KINDS: tuple[Kind, ...] = ("colour", "shape", "place", "count", "presence", "content")
"""What the embedded model's questions ask for."""

_FUNCTION_WORDS = frozenset({"at", "the", "in", "a", "is"})


class Described(Protocol):
    """What language needs to know of an object."""

    @property
    def colour(self) -> str: ...
    @property
    def shape(self) -> str: ...
    @property
    def size(self) -> str: ...
    @property
    def place(self) -> str: ...
    @property
    def pattern(self) -> str: ...


@dataclass(frozen=True)
class Text:
    """Words and, for each, the indices of the objects it refers to (empty: none)."""

    words: tuple[str, ...]
    refers_to: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if len(self.words) != len(self.refers_to):
            raise ValueError(f"{len(self.words)} words but {len(self.refers_to)} references")

    def __str__(self) -> str:
        return " ".join(self.words)


@dataclass(frozen=True)
class Question:
    """A question with one right answer. `kind` says what is asked for."""

    kind: Kind
    text: str
    answer: Text


def vocabulary() -> tuple[str, ...]:
    """Every word of the grammar once, in a fixed order."""
    phrases = (
        *COLOURS, *SHAPES, *SIZES, *PLACES, *NUMBERS, *DESCRIBE,
        "there is a large red star .", "there are two objects in all .", "there is one object in all .",
        "what colour is the star ?", "what shape is the red object ?", "where is the red object ?",
        "how many red objects are there ?", "is there a red star ?", "yes no", "what is at the top left ?",
    )  # fmt: skip
    return tuple(dict.fromkeys(" ".join(phrases).split()))


def about(phrase: str, indices: tuple[int, ...]) -> Text:
    """A phrase whose content words all refer to the same objects."""
    words = tuple(phrase.split())
    return Text(words, tuple(() if word in _FUNCTION_WORDS else indices for word in words))


def join(parts: Sequence[Text]) -> Text:
    """Texts one behind the other."""
    words = tuple(word for part in parts for word in part.words)
    return Text(words, tuple(refers for part in parts for refers in part.refers_to))


def name(thing: Described) -> str:
    """For example "a small red square"."""
    return f"a {thing.size} {thing.colour} {thing.shape}"


def describe(things: Sequence[Described]) -> Text:
    """A clause per object, place first, in reading order (the order of `things`), then how many there are."""
    full_stop = about(".", ())
    parts: list[Text] = []
    for index, thing in enumerate(things):
        parts += [about(thing.place, (index,)), about(name(thing), (index,)), full_stop]
    everything = tuple(range(len(things)))
    one = len(things) == 1
    parts.append(about("there is" if one else "there are", ()))
    parts.append(about(NUMBERS[len(things) - 1], everything))
    parts.append(about("object in all ." if one else "objects in all .", ()))
    return join(parts)


def ask(things: Sequence[Described], rng: np.random.Generator) -> tuple[Question, ...]:
    """Every unambiguous question about the scene.

    Questions name an object by a property that no other object has. There are as many presence questions with
    the answer no as with yes; half of the noes, where the scene allows it, combine a colour and a shape that
    are both there, but not together. `rng` only chooses which noes.
    """
    by_colour = {c: tuple(i for i, t in enumerate(things) if t.colour == c) for c in COLOURS}
    by_shape = {s: tuple(i for i, t in enumerate(things) if t.shape == s) for s in SHAPES}
    found: list[Question] = []

    for shape in SHAPES:
        if len(by_shape[shape]) == 1:
            only = things[by_shape[shape][0]]
            found.append(Question("colour", f"what colour is the {shape} ?", about(only.colour, by_shape[shape])))
            found.append(Question("place", f"where is the {shape} ?", about(only.place, by_shape[shape])))
    for colour in COLOURS:
        if len(by_colour[colour]) == 1:
            only = things[by_colour[colour][0]]
            found.append(
                Question("shape", f"what shape is the {colour} object ?", about(only.shape, by_colour[colour]))
            )
            found.append(Question("place", f"where is the {colour} object ?", about(only.place, by_colour[colour])))
        if by_colour[colour]:
            number = NUMBERS[len(by_colour[colour]) - 1]
            text = f"how many {colour} objects are there ?"
            found.append(Question("count", text, about(number, by_colour[colour])))
    everything = tuple(range(len(things)))
    found.append(Question("count", "how many objects are there ?", about(NUMBERS[len(things) - 1], everything)))
    for index, thing in enumerate(things):
        found.append(Question("content", f"what is {thing.place} ?", about(name(thing), (index,))))
    found += _presence(things, rng)
    return tuple(found)


def _presence(things: Sequence[Described], rng: np.random.Generator) -> list[Question]:
    there = Counter((thing.colour, thing.shape) for thing in things)
    absent = [(c, s) for c in COLOURS for s in SHAPES if (c, s) not in there]
    colours = {colour for colour, _ in there}
    shapes = {shape for _, shape in there}
    near = [pair for pair in absent if pair[0] in colours and pair[1] in shapes]
    far = [pair for pair in absent if pair not in set(near)]
    noes: list[tuple[str, str]] = []
    for turn in range(len(there)):
        pool = near if (turn % 2 == 0 and near) else far
        noes.append(pool.pop(int(rng.integers(len(pool)))))
    questions = []
    for colour, shape in there:
        which = tuple(i for i, t in enumerate(things) if (t.colour, t.shape) == (colour, shape))
        questions.append(Question("presence", f"is there a {colour} {shape} ?", about("yes", which)))
    for colour, shape in noes:
        questions.append(Question("presence", f"is there a {colour} {shape} ?", about("no", ())))
    return questions


@dataclass(frozen=True)
class Language:
    """A way to talk about scenes.

    Attributes:
        words: every token once.
        prompts: what asks for a description.
        describe: the description of the objects of a scene, as such a prompt asks for it.
        ask: questions about them.
        kinds: of those questions.
        aspects: the words that say each property of an object, or of several.
        opening: number of sentences of a description before the one about the first object.
    """

    words: tuple[str, ...]
    prompts: tuple[str, ...]
    describe: Callable[[Sequence[Described], str], Text]
    ask: Callable[[Sequence[Described], np.random.Generator], tuple[Question, ...]]
    kinds: tuple[Kind, ...]
    aspects: Mapping[str, tuple[str, ...]]
    opening: int

    def kind_of(self, word: str, refers_to: tuple[int, ...]) -> str:
        """What a word says of the objects that it refers to: an aspect; "function" if it refers to none."""
        if not refers_to:
            return "function"
        return next((kind for kind, words in self.aspects.items() if word in words), "object")


PLAIN = Language(
    words=vocabulary(),
    prompts=DESCRIBE,
    describe=lambda things, prompt: describe(things),
    ask=ask,
    kinds=KINDS,
    aspects={
        "place": tuple(dict.fromkeys(w for place in PLACES for w in place.split() if w not in _FUNCTION_WORDS)),
        "size": SIZES,
        "colour": COLOURS,
        "shape": SHAPES,
        "number": NUMBERS,
        "yes or no": ("yes", "no"),
    },
    opening=0,
)
"""The embedded model's language."""
