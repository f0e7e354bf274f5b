"""Tokens as text for people, and their grouping into words."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import regex

from ..errors import InputError

_SETTLES_TEXT = 4  # tokens before another one that decide how it is shown: a character has at most four bytes

_REPLACEMENT = "\ufffd"  # what a decoder writes for bytes that make no character

# Scripts that put no white space between words: SA is Unicode's class of Thai, Lao, Khmer, Myanmar and their kin.
_NO_SPACES = r"\p{Han}\p{Hiragana}\p{Bopomofo}\p{Line_Break=SA}"
_KATAKANA = r"\p{Word_Break=Katakana}"
_OPENING = r"\p{Ps}\p{Pi}"
_WIDE_PUNCTUATION = r"[\p{P}&&[\p{East_Asian_Width=W}\p{East_Asian_Width=F}]]"
_WORD = regex.compile(
    rf"""(?V1)
    [{_OPENING}]*+
    (?: {_KATAKANA}+ | [{_NO_SPACES}] | [^\s{_NO_SPACES}{_KATAKANA}{_WIDE_PUNCTUATION}]+ )
    [\p{{M}}\p{{Cf}}[\p{{P}}--[{_OPENING}]]]*
    | [{_OPENING}]+ | \S""",
    regex.VERBOSE,
)
_SPACE = regex.compile(r"\s*")


class TokenPieces:
    """One piece of text per token of an answer, also of one that is still being written; joined they are the answer.

    Each piece is what the token adds to the text before it, so spaces come out right for every tokenizer. The token
    that completes a character carries it, with the white space before it; those with its first bytes carry only what
    stands before that. Bytes that make no character are replacement characters, on the tokens that they came with, or
    on the first one that was not handed out yet.

    Args:
        tokenizer: a transformers tokenizer, or None; then a piece is a space and the id.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._ids: list[int] = []
        # Decoding from the last token whose text is settled keeps spaces right and the cost per token constant.
        self._start = self._settled = 0
        self._given = ""  # text of the pieces from `_start` on

    def add(self, ids: Sequence[int], *, ended: bool = False) -> list[str]:
        """Pieces of the tokens that come next.

        Args:
            ids: of these tokens.
            ended: nothing comes behind them: a last one that ends inside a character shows a replacement character.
        """
        if self.tokenizer is None:
            return [f" {i}" for i in ids]
        pieces: list[str] = []
        before = len(self._ids)
        for index, token in enumerate(ids):
            self._ids.append(token)
            now = self._text()
            unfinished = now.endswith(_REPLACEMENT) and not (ended and index == len(ids) - 1)
            piece = (now.rstrip(_REPLACEMENT) if unfinished else now)[len(self._given) :]
            if unfinished and piece.isspace():
                piece = ""
            self._given += piece
            pieces.append(piece)
            if piece and not unfinished:
                _give_back(pieces, max(0, self._settled - before))
                self._start, self._settled = self._settled, len(self._ids)
                self._given = self._text()
        return pieces

    def _text(self) -> str:
        decoded: str = self.tokenizer.decode(self._ids[self._start :], clean_up_tokenization_spaces=False)
        return decoded


def token_pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The `TokenPieces` of a whole answer, T of them."""
    return TokenPieces(tokenizer).add(ids, ended=True)


def _give_back(pieces: list[str], first: int) -> None:
    """Move replacement characters that begin the last piece to the tokens from ``first`` on, which left them open."""
    rest = pieces[-1].lstrip(_REPLACEMENT)
    n_broken, last = len(pieces[-1]) - len(rest), len(pieces) - 1
    if first < last:
        pieces[-1] = rest
        for i in range(n_broken):
            pieces[min(first + i, last)] += _REPLACEMENT


def piece_behind(tokenizer: Any, before: Sequence[int], token_id: int) -> str:
    """What one token adds to the text of those before it."""
    return token_pieces(tokenizer, [*before[-_SETTLES_TEXT:], token_id])[-1]


def word_spans(tokens: Sequence[str]) -> list[tuple[int, int]]:
    """Half-open token ranges of the words. A word is made of whole tokens.

    A token begins a word if white space precedes its text. In scripts that have none between words (Chinese, Japanese,
    Thai, Lao, Khmer, Burmese) it begins one wherever it begins a character; a run of katakana is one word, marks and
    closing punctuation stay with the character before them, opening brackets with the one behind them.

    Tokens of white space alone belong to no word. Tokens without text of their own are the first bytes of the character
    that the next token completes, and belong to its word.
    """
    starts = {word.start() for word in _WORD.finditer("".join(tokens))}
    spans: list[tuple[int, int]] = []
    first_bytes: int | None = None
    for index, (piece, stop) in enumerate(zip(tokens, accumulate(map(len, tokens)))):
        if not piece:
            first_bytes = index if first_bytes is None else first_bytes
            continue
        start, first_bytes = (index if first_bytes is None else first_bytes), None
        n_spaces = _SPACE.match(piece).end()
        if n_spaces == len(piece):
            continue
        if stop - len(piece) + n_spaces in starts:
            spans.append((start, index + 1))
        else:
            spans[-1] = (spans[-1][0], index + 1)
    return spans


def token_labels(tokens: Sequence[str]) -> list[str]:
    """Each token on one line, with nothing in it that a terminal would obey: for tables and titles.

    A space alone is shown as U+2423, other white space, control and invisible characters as escapes, a mark that
    combines with what precedes it on a dotted circle. A token without text of its own, such as the first bytes of a
    character, names the character that comes next.
    """
    labels: list[str] = []
    following = ""
    for piece in reversed(tokens):
        core = piece.strip()
        if not piece:
            labels.append(f"(before {printable(following)})" if following else "(no text)")
            continue
        following = core[:1]
        if not core:
            labels.append(printable(piece.replace(" ", "\u2423")))
        elif unicodedata.category(core[0]).startswith("M"):
            labels.append(printable("\u25cc" + core))
        else:
            labels.append(printable(piece))
    return labels[::-1]


def require_characters(name: str, text: str) -> None:
    """Refuse halves of a surrogate pair, such as what is left of bytes that were no UTF-8: no tokenizer takes them.

    Raises:
        InputError: names the argument and the place.
    """
    for index, character in enumerate(text):
        if "\ud800" <= character <= "\udfff":
            raise InputError(
                f"{name}: expected text of whole characters; got half of one ({character!a}) at {index}. Read the text "
                "as UTF-8, or take that out."
            )


def printable(text: str, *, running: bool = False) -> str:
    """The text with nothing in it that a terminal would obey.

    Args:
        text: of a model, or of a user.
        running: to be read, not inspected: line breaks, wide spaces and what joins letters or emoji stay as they are.
            Else it is all on one line, with escapes for these.
    """

    def shown(character: str) -> bool:
        if character.isprintable():
            return True
        return running and (character in "\n\u200c\u200d" or unicodedata.category(character) == "Zs")

    return "".join(c if shown(c) else c.encode("unicode_escape").decode() for c in text)
