"""What of an answer is explained: each token, or words, phrases and other runs of tokens as wholes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from numbers import Integral
from typing import Any

from ..errors import InputError
from .tokens import word_spans

Span = tuple[int, int]
# A name of `TARGETS`, a regular expression over the answer's text, or half-open spans of tokens.
TargetSelection = str | re.Pattern[str] | Sequence[Span]

TARGETS = ("tokens", "words", "phrases")

_WITHIN_PHRASES = "%&@/"  # punctuation to Unicode, yet they stand for words


@dataclass(frozen=True)
class Target:
    """A run of answer tokens that is explained as a whole, or an alternative to one.

    Attributes:
        text: its text, without white space around it unless it is nothing else.
        start, stop: its tokens are ``tokens[start:stop]`` of the answer.
        token_id: of an alternative, the id that it has in place of the answer's token; else None.
        probability: of an alternative, how probable the model holds it at this place; else None.
    """

    text: str
    start: int
    stop: int
    token_id: int | None = None
    probability: float | None = None


@dataclass(frozen=True)
class Foil:
    """A token that an answer token is contrasted with.

    Attributes:
        token_id: its id.
        text: what it would add to the answer's text in the token's place.
    """

    token_id: int
    text: str


def check_targets(targets: Any, method: str) -> None:
    """Refuse what is no selection of targets, and what the method cannot do.

    Raises:
        InputError: says so.
    """
    expected = f"targets: expected one of {', '.join(TARGETS)}, a compiled regular expression or (start, stop) spans"
    if isinstance(targets, str):
        if targets not in TARGETS:
            raise InputError(f"{expected}; got {targets!r}. Pass re.compile({targets!r}) for a regular expression.")
    elif isinstance(targets, re.Pattern):
        if not isinstance(targets.pattern, str):
            raise InputError(f"{expected} over text; got one over bytes")
    elif not isinstance(targets, Sequence) or not all(_is_span(span) for span in targets):
        raise InputError(f"{expected}; got {targets!r}")
    if targets != "tokens" and method != "dexar":
        raise InputError(
            f'targets: only the method "dexar" explains several tokens as one: their shared attention has a gradient, '
            f'but no one probability that {method!r} could read. Leave targets at "tokens"; Explanation.words() '
            "groups their maps."
        )


def find_targets(targets: TargetSelection, tokens: Sequence[str]) -> tuple[Target, ...] | None:
    """The targets in an answer, in its order; None for each token by itself.

    Args:
        targets: as `check_targets` takes it. The names "words" (`tokens.word_spans`) and "phrases" (`phrase_spans`); a
            regular expression, whose matches are widened to whole tokens; or spans, which may overlap.
        tokens: T pieces of the answer; joined they are its text.

    Raises:
        InputError: there is no target, or a span is none of this answer.
    """
    if targets == "tokens":
        return None
    if isinstance(targets, str):
        spans = word_spans(tokens) if targets == "words" else phrase_spans(tokens)
    elif isinstance(targets, re.Pattern):
        spans = [whole_tokens(match.span(), tokens) for match in targets.finditer("".join(tokens)) if match[0]]
    else:
        spans = [(int(start), int(stop)) for start, stop in targets]
        for start, stop in spans:
            if not 0 <= start < stop <= len(tokens):
                raise InputError(
                    f"targets: expected spans (start, stop) with 0 <= start < stop <= {len(tokens)}, the tokens of the "
                    f"answer; got {(start, stop)}"
                )
    if not spans:
        what = f"{targets.pattern!r} matches nothing" if isinstance(targets, re.Pattern) else f"no {targets or 'span'}"
        raise InputError(f"targets: {what} in the answer {''.join(tokens)!r}")
    texts = ["".join(tokens[start:stop]) for start, stop in sorted(spans)]
    return tuple(Target(text.strip() or text, *span) for text, span in zip(texts, sorted(spans)))


def phrase_spans(tokens: Sequence[str]) -> list[Span]:
    """Half-open token ranges of the phrases: what stands between punctuation marks or line breaks, in whole tokens.

    Punctuation is what Unicode calls so, except ``% & @ /``. An ASCII mark or an apostrophe between two letters or
    digits separates nothing (don't, red-brown, 3.5), unless one of them is East Asian: there no space follows a mark.
    A language without spaces has phrases as any other.
    """
    text = "".join(tokens)
    spans: list[Span] = []
    start = 0
    for end in [*(at for at in range(len(text)) if _separates(text, at)), len(text)]:
        part = text[start:end]
        if part.strip():
            leading = len(part) - len(part.lstrip())
            spans.append(whole_tokens((start + leading, start + len(part.rstrip())), tokens))
        start = end + 1
    return spans


def whole_tokens(characters: Span, tokens: Sequence[str]) -> Span:
    """The tokens that a range of characters, not empty, touches; with those that are first bytes of a character."""
    ends = list(accumulate(len(piece) for piece in tokens))
    first = next(i for i, end in enumerate(ends) if end > characters[0])
    last = next(i for i, end in enumerate(ends) if end >= characters[1])
    while first > 0 and not tokens[first - 1]:
        first -= 1
    return first, last + 1


def _separates(text: str, at: int) -> bool:
    """Whether the character there ends a phrase."""
    mark = text[at]
    if mark == "\n":
        return True
    if not unicodedata.category(mark).startswith("P") or mark in _WITHIN_PHRASES:
        return False
    return not ((mark.isascii() or mark == "\u2019") and all(_neighbours(text, at)))


def _neighbours(text: str, at: int) -> Iterator[bool]:
    """Of the characters before and behind: a letter or digit of a script that is written with spaces?"""
    for beside in (text[at - 1 : at] if at else "", text[at + 1 : at + 2]):
        yield beside.isalnum() and unicodedata.east_asian_width(beside) not in ("W", "F")


def _is_span(span: Any) -> bool:
    """Whether it is a pair of integers."""
    return (
        isinstance(span, Sequence)
        and not isinstance(span, str)
        and len(span) == 2
        and all(isinstance(end, Integral) and not isinstance(end, bool) for end in span)
    )
