"""A richer language: several sentences, two ways of speaking, patterns, relations, words of several tokens.

The way of speaking follows the question: "describe the image ." is answered soberly, "tell me what you see ." with the
synonyms of `CASUAL`.
"""

from collections.abc import Sequence

import numpy as np

from .language import (
    COLOURS,
    NUMBERS,
    PLACES,
    SHAPES,
    SIZES,
    Described,
    Language,
    Question,
    Text,
    about,
    join,
)

PATTERNS: tuple[str, ...] = ("plain", "striped", "spotted")
CASUAL: dict[str, str] = {
    "small": "tiny", "large": "big", "circle": "disc", "square": "box", "ring": "hoop", "cross": "plus",
    "there": "i", "is": "see", "are": "see", "object": "thing", "objects": "things",
}  # fmt: skip
"""The other word for a word; the rest is said alike."""
PROMPTS = ("describe the image .", "tell me what you see .")
RELATIONS = ("left of", "right of", "above", "below")
PIECES: dict[str, tuple[str, str]] = {
    "purple": ("pur", "ple"), "yellow": ("yel", "low"), "triangle": ("tri", "angle"), "striped": ("strip", "ed"),
    "spotted": ("spot", "ted"), "circle": ("cir", "cle"),
}  # fmt: skip
"""Words that are two tokens."""


def vocabulary() -> tuple[str, ...]:
    """Every token of the language once, in a fixed order; what goes on a word starts with ##."""
    phrases = (
        *COLOURS, *SHAPES, *SIZES, *PATTERNS, *PLACES, *NUMBERS, *PROMPTS, *RELATIONS, *CASUAL, *CASUAL.values(),
        "there is one object . the a at is in yes no ?", "what colour pattern shape size has where how many",
    )  # fmt: skip
    words = dict.fromkeys(" ".join(phrases).split())
    tokens: dict[str, None] = {}
    for word in words:
        first, *rest = PIECES.get(word, (word,))
        tokens |= dict.fromkeys([first, *(f"##{part}" for part in rest)])
    return tuple(tokens)


def name(thing: Described) -> str:
    """For example "small striped red square"."""
    return f"{thing.size} {thing.pattern} {thing.colour} {thing.shape}"


def relation(one: Described, other: Described) -> str:
    """How an object lies to another one: beside it in one row, else above or below it."""
    at, to = PLACES.index(one.place), PLACES.index(other.place)
    if at // 3 == to // 3:
        return "left of" if at < to else "right of"
    return "above" if at < to else "below"


def describe(things: Sequence[Described], prompt: str = PROMPTS[0]) -> Text:
    """How many there are, a sentence for each, and how the first lies to the last, as the prompt wants it said."""
    everything = tuple(range(len(things)))
    stop = about(".", ())
    one = len(things) == 1
    parts = [
        about("there is" if one else "there are", ()),
        about(f"{NUMBERS[len(things) - 1]} {'object' if one else 'objects'}", everything),
        stop,
    ]
    for index, thing in enumerate(things):
        parts += [about(thing.place, (index,)), about(f"is a {name(thing)}", (index,)), stop]
    if not one:
        first, last = things[0], things[-1]
        parts += [
            about(f"the {first.colour} {first.shape}", (0,)),
            about("is", ()),
            about(relation(first, last), (0, len(things) - 1)),
            about(f"the {last.colour} {last.shape}", (len(things) - 1,)),
            stop,
        ]
    text = join(parts)
    if prompt == PROMPTS[0]:
        return text
    opening = 2  # "there is" is "i see"; later on "is" stays
    words = [CASUAL.get(w, w) if i < opening or w not in ("is", "are") else w for i, w in enumerate(text.words)]
    return Text(tuple(words), text.refers_to)


def ask(things: Sequence[Described], rng: np.random.Generator) -> tuple[Question, ...]:
    """Unambiguous questions. Relations are asked of two objects, with as many noes as yeses."""
    found: list[Question] = []
    by_shape = {s: tuple(i for i, t in enumerate(things) if t.shape == s) for s in SHAPES}
    by_colour = {c: tuple(i for i, t in enumerate(things) if t.colour == c) for c in COLOURS}
    for shape, owners in by_shape.items():
        if len(owners) == 1:
            only = things[owners[0]]
            found += [
                Question("colour", f"what colour is the {shape} ?", about(only.colour, owners)),
                Question("pattern", f"what pattern has the {shape} ?", about(only.pattern, owners)),
                Question("place", f"where is the {shape} ?", about(only.place, owners)),
            ]
    for colour, owners in by_colour.items():
        if len(owners) == 1:
            only = things[owners[0]]
            found.append(Question("shape", f"what shape has the {colour} object ?", about(only.shape, owners)))
        if owners:
            found.append(
                Question("count", f"how many {colour} objects are there ?", about(NUMBERS[len(owners) - 1], owners))
            )
    for pattern in PATTERNS:
        owners = tuple(i for i, t in enumerate(things) if t.pattern == pattern)
        if owners:
            found.append(
                Question("count", f"how many {pattern} objects are there ?", about(NUMBERS[len(owners) - 1], owners))
            )
    for index, thing in enumerate(things):
        found.append(Question("content", f"what is {thing.place} ?", about(f"a {name(thing)}", (index,))))
    alone = [owners[0] for owners in by_shape.values() if len(owners) == 1]
    for one in alone:
        for other in alone:
            if one != other:
                a, b = things[one], things[other]
                true = relation(a, b)
                said = true if rng.random() < 0.5 else str(rng.choice([r for r in RELATIONS if r != true]))
                answer = about("yes" if said == true else "no", (one, other))
                found.append(Question("relation", f"is the {a.shape} {said} the {b.shape} ?", answer))
    return tuple(found)


RICH = Language(
    words=vocabulary(),
    prompts=PROMPTS,
    describe=describe,
    ask=ask,
    kinds=("colour", "pattern", "shape", "place", "count", "content", "relation"),
    aspects={
        "place": tuple(dict.fromkeys(w for place in PLACES for w in place.split() if w not in ("at", "the", "in"))),
        "size": (*SIZES, "tiny", "big"),
        "pattern": PATTERNS,
        "colour": COLOURS,
        "shape": (*SHAPES, "disc", "box", "hoop", "plus"),
        "number": NUMBERS,
        "relation": ("of", "above", "below"),
        "yes or no": ("yes", "no"),
    },
    opening=1,
)
