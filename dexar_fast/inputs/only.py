"""Which part of the answer is explained: the rows before it are only run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from numbers import Integral
from typing import Any

from ..errors import InputError
from .targets import Span, whole_tokens

# A name of `PARTS`, a regular expression over the answer's text, or a half-open range of tokens; None for all.
Only = str | re.Pattern[str] | Span | None

PARTS = ("last_sentence", "after_thinking")

_THINKING_ENDS = re.compile(r"</think(?:ing)?>|</thought>|</reasoning>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>")
_SENTENCE_ENDS = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s)|[。！？]+[”’」』）]*|\n+")


def check_only(only: Any) -> None:
    """Refuse what names no part of an answer.

    Raises:
        InputError: says so.
    """
    expected = f"only: expected one of {', '.join(PARTS)}, a compiled regular expression or a range (start, stop)"
    if only is None or (isinstance(only, str) and only in PARTS):
        return
    if isinstance(only, str):
        raise InputError(f"{expected}; got {only!r}. Pass re.compile({only!r}) for a regular expression.")
    if isinstance(only, re.Pattern):
        if not isinstance(only.pattern, str):
            raise InputError(f"{expected} over text; got one over bytes")
    elif not (
        isinstance(only, Sequence)
        and len(only) == 2
        and all(isinstance(end, Integral) and not isinstance(end, bool) for end in only)
    ):
        raise InputError(f"{expected} of tokens; got {only!r}")


def find_part(only: Only, tokens: Sequence[str]) -> Span | None:
    """The tokens ``start <= t < stop`` of the answer that are explained; None for all of them.

    Args:
        only: as `check_only` takes it. "last_sentence": from behind the last mark that ends a sentence, or the last
            line break, before it. "after_thinking": what follows the last tag that closes a reasoning model's thoughts,
            such as ``</think>``. A regular expression: its first match, widened to whole tokens. A range may count from
            the end, as slices do.
        tokens: T pieces of the answer; joined they are its text.

    Raises:
        InputError: the answer has no such part.
    """
    if only is None:
        return None
    text = "".join(tokens)
    if isinstance(only, re.Pattern):
        match = next((found for found in only.finditer(text) if found[0]), None)
        if match is None:
            raise InputError(f"only: {only.pattern!r} matches nothing in the answer {text!r}")
        return whole_tokens(match.span(), tokens)
    if only == "after_thinking":
        ends = [match.end() for match in _THINKING_ENDS.finditer(text)]
        if not ends:
            raise InputError(
                "only: the answer holds no tag that closes thoughts (such as </think>). It may have been cut off: "
                "raise max_new_tokens, or leave only out."
            )
        return _behind(ends[-1], tokens, "there is nothing behind the tag that closes the answer's thoughts")
    if isinstance(only, str):
        written = text.rstrip()
        ends = [match.end() for match in _SENTENCE_ENDS.finditer(written) if match.end() < len(written)]
        return _behind(ends[-1] if ends else 0, tokens, "the answer is white space alone")
    start, stop = (int(end) + len(tokens) * (end < 0) for end in only)
    if not 0 <= start < stop <= len(tokens):
        raise InputError(
            f"only: expected a range (start, stop) within the {len(tokens)} tokens of the answer; got {tuple(only)}"
        )
    return start, stop


def as_json(only: Only) -> Any:
    """The same as JSON values, as results record it."""
    if isinstance(only, re.Pattern):
        return {"pattern": only.pattern, "flags": only.flags}
    return only if only is None or isinstance(only, str) else [int(end) for end in only]


def _behind(character: int, tokens: Sequence[str], otherwise: str) -> Span:
    """The tokens behind a character, without white space around them."""
    text = "".join(tokens)
    rest = text[character:].strip()
    if not rest:
        raise InputError(f"only: {otherwise}")
    first = text.index(rest, character)
    start, stop = whole_tokens((first, first + len(rest)), tokens)
    return start, stop
