"""Tokens as text for people, and their grouping into words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class TokenPieces:
    """One piece of text per token of an answer, also of one that is still being written; joined they are the answer.

    Each piece is what the token adds to the text before it, so spaces come out right for every tokenizer. A token that
    ends inside a character adds nothing; the token that completes the character carries it.

    Args:
        tokenizer: a transformers tokenizer, or None; then a piece is a space and the id.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._ids: list[int] = []
        # Decoding from the last token whose text is settled keeps spaces right and the cost per token constant.
        self._start = self._settled = 0

    def add(self, ids: Sequence[int], *, ended: bool = False) -> list[str]:
        """Pieces of the tokens that come next.

        Args:
            ids: of these tokens.
            ended: nothing comes behind them: a last one that ends inside a character shows a replacement character.
        """
        if self.tokenizer is None:
            return [f" {i}" for i in ids]
        pieces: list[str] = []
        for index, token in enumerate(ids):
            self._ids.append(token)
            stop = len(self._ids)
            before, now = self._text(self._settled), self._text(stop)
            last = ended and index == len(ids) - 1
            if (now.endswith("\ufffd") and not last) or len(now) <= len(before):
                pieces.append("")
                continue
            pieces.append(now[len(before) :])
            self._start, self._settled = self._settled, stop
        return pieces

    def _text(self, stop: int) -> str:
        decoded: str = self.tokenizer.decode(self._ids[self._start : stop], clean_up_tokenization_spaces=False)
        return decoded


def token_pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The `TokenPieces` of a whole answer, T of them."""
    return TokenPieces(tokenizer).add(ids, ended=True)


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
