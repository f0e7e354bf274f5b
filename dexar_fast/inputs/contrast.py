"""Why this word rather than that one: the foils of the answer tokens."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

from ..errors import InputError
from ..models.decoder import Decoder
from .methods import METHODS
from .targets import Foil
from .tokens import piece_behind, require_characters, token_pieces

# One foil for all tokens, or one for each: text, a token id, or None for none.
Contrast = str | int | Sequence[str | int | None] | None

# What a foil is written behind to see how it is written inside a word; the first that does not merge with it counts.
_BEFORE = ("\n", "(", "-", "a")


def check_contrast(contrast: Any, method: str) -> None:
    """Refuse what is no contrast, and methods that have no score to contrast.

    Raises:
        InputError: says so.
    """
    for foil in contrast if _is_for_each(contrast) else [contrast]:
        if not (foil is None or isinstance(foil, str | Integral)) or isinstance(foil, bool):
            raise InputError(
                "contrast: expected a foil (text or a token id) for all tokens, or a sequence with a foil or None for "
                f"each; got {foil!r}"
            )
        if isinstance(foil, str) and not foil.strip():
            raise InputError(f"contrast: expected a word or a token id; got {foil!r}")
        if isinstance(foil, str):
            require_characters("contrast", foil)
    if contrast is not None and method not in METHODS:
        raise InputError(
            f"contrast: method {method!r} does not start from a score that could be contrasted; use one of "
            f"{', '.join(METHODS)}"
        )


def find_foils(
    contrast: Contrast, decoder: Decoder, tokenizer: Any, answer_ids: Sequence[int], rows: slice | None = None
) -> tuple[Foil | None, ...] | None:
    """The foil of each of T answer tokens, or None without a contrast. Tokens outside of ``rows`` have none.

    A foil given as text stands for the first token that it would be written with in the place of the answer's token:
    as a token that begins with a space if the answer's does, and as one that does not if it does not. White space
    around the foil's text does not count. An id is taken as it is.

    Args:
        contrast: as `check_contrast` takes it. A single foil may be the answer's token in places: there the score, and
            the map, is zero.
        decoder: knows the vocabulary.
        tokenizer: of the model; only ids can be foils without one.
        answer_ids: T ids.
        rows: the tokens that are explained, None for all; foils for each are those of these.

    Raises:
        InputError: text without such a token, an id that the vocabulary lacks, another number of foils than tokens, or
            a token's own foil that is the token.
    """
    if contrast is None:
        return None
    each = _is_for_each(contrast)
    rows = slice(0, len(answer_ids)) if rows is None else rows
    n_rows = rows.stop - rows.start
    given: Any = contrast if each else [contrast] * n_rows
    if len(given) != n_rows:
        raise InputError(
            f"contrast: expected one foil for all tokens, or {n_rows} foils, one for each token of the "
            f"answer; got {len(given)}. Use None where there is none."
        )
    given = [None] * rows.start + list(given) + [None] * (len(answer_ids) - rows.stop)
    known: dict[Any, int] = {}  # one text has few tokens, whatever the length of the answer
    foils: list[Foil | None] = []
    for token, (foil, own) in enumerate(zip(given, answer_ids)):
        if foil is None:
            foils.append(None)
            continue
        if isinstance(foil, str):
            spaced = _begins_with_space(tokenizer, own)
            if (foil, spaced) not in known:
                known[foil, spaced] = _first_token(foil, spaced, tokenizer)
            token_id = known[foil, spaced]
        else:
            token_id = int(foil)
        if not 0 <= token_id < decoder.vocabulary_size:
            raise InputError(
                f"contrast: expected ids from 0 to {decoder.vocabulary_size - 1}; got {token_id} at token {token}"
            )
        if each and token_id == own:
            raise InputError(
                f"contrast: the foil {foil!r} of token {token} is that token itself (id {own}): there is nothing to "
                "tell apart. Pass None for it, or another foil."
            )
        foils.append(Foil(token_id, piece_behind(tokenizer, answer_ids[:token], token_id)))
    return tuple(foils)


def _is_for_each(contrast: Any) -> bool:
    """Whether there is a foil for each token."""
    return isinstance(contrast, Sequence) and not isinstance(contrast, str | bytes)


def _begins_with_space(tokenizer: Any, token_id: int) -> bool:
    """Whether a token's text begins with white space where text stands before it: the token itself, say."""
    return token_pieces(tokenizer, [token_id, token_id])[1][:1].isspace()


def _first_token(foil: str, spaced: bool, tokenizer: Any) -> int:
    """The first token of a text, written with or without a space before it."""
    text = foil.strip()
    if tokenizer is None:
        raise InputError(f"contrast: expected token ids, without a processor; got the text {foil!r}")

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    candidates = [encode(text), encode(f" {text}")]
    for before in () if spaced else _BEFORE:
        prefix, whole = encode(before), encode(before + text)
        if whole[: len(prefix)] == prefix:
            candidates.append(whole[len(prefix) :])
    fitting = [
        ids[0]
        for ids in candidates
        if ids and ids[0] != tokenizer.unk_token_id and _begins_with_space(tokenizer, ids[0]) == spaced
    ]
    for token_id in fitting:
        begins = token_pieces(tokenizer, [token_id])[0].strip()
        if begins and (text.casefold().startswith(begins.casefold()) or "\ufffd" in begins):
            return token_id
    for token_id in fitting:
        if token_pieces(tokenizer, [token_id, token_id])[1].isspace():  # the text goes on behind a space of its own
            return token_id
    raise InputError(
        f"contrast: no token begins the foil {foil!r} {'behind' if spaced else 'without'} a space, as the answer's "
        "token is written. Pass the id of the token that you mean."
    )
