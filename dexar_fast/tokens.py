"""Tokens as text for people, and their grouping into words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_SETTLES_TEXT = 4  # tokens before another one that decide how it is shown: a character has at most four bytes


def token_pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """One piece of text per token; joined they are the decoded answer.

    Each piece is what the token adds to the text before it, so spaces come out right for every tokenizer. A token that
    ends inside a character adds nothing; the token that completes the character carries it.

    Args:
        tokenizer: a transformers tokenizer, or None; then a piece is a space and the id.
        ids: T token ids.
    """
    if tokenizer is None:
        return [f" {i}" for i in ids]

    def text(start: int, stop: int) -> str:
        decoded: str = tokenizer.decode(ids[start:stop], clean_up_tokenization_spaces=False)
        return decoded

    # Decoding from the last token whose text is settled keeps spaces right and the cost per token constant.
    pieces: list[str] = []
    start = settled = 0
    for stop in range(1, len(ids) + 1):
        before, now = text(start, settled), text(start, stop)
        unfinished = now.endswith("\ufffd") and stop < len(ids)
        if unfinished or len(now) <= len(before):
            pieces.append("")
            continue
        pieces.append(now[len(before) :])
        start, settled = settled, stop
    return pieces


def piece_behind(tokenizer: Any, before: Sequence[int], token_id: int) -> str:
    """What one token adds to the text of those before it."""
    return token_pieces(tokenizer, [*before[-_SETTLES_TEXT:], token_id])[-1]


def word_spans(tokens: Sequence[str]) -> list[tuple[int, int]]:
    """Half-open token ranges of the words: a token that starts with white space, or follows it, starts a word.

    Tokens of white space alone belong to no word. Tokens without text of their own are the first bytes of the character
    that the next token completes, and belong to its word.
    """
    spans: list[tuple[int, int]] = []
    inside = False
    first_bytes: int | None = None
    for index, piece in enumerate(tokens):
        if not piece:
            first_bytes = index if first_bytes is None else first_bytes
            continue
        start, first_bytes = (index if first_bytes is None else first_bytes), None
        if not piece.strip():
            inside = False
            continue
        if inside and not piece[0].isspace():
            spans[-1] = (spans[-1][0], index + 1)
        else:
            spans.append((start, index + 1))
        inside = not piece[-1].isspace()
    return spans
