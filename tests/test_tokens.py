"""Tokens as text, and words."""

import pytest

from dexar_fast.tokens import TokenPieces, token_pieces, word_spans

from .tiny import tiny_processor


@pytest.mark.parametrize(
    "answer", ["a red square", " two stars.\n\nand  more", "héllo wörld", "日本語 と emoji 🦊!", "a", "<b>&amp;"]
)
def test_pieces_join_to_the_answer(answer: str) -> None:
    tokenizer = tiny_processor().tokenizer
    ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
    pieces = token_pieces(tokenizer, ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == answer


def test_character_of_several_tokens_is_carried_by_the_last() -> None:
    tokenizer = tiny_processor().tokenizer
    ids = tokenizer("🦊", add_special_tokens=False)["input_ids"]
    assert token_pieces(tokenizer, ids) == ["", "", "", "🦊"]


def test_invalid_bytes_do_not_swallow_what_follows() -> None:
    tokenizer = tiny_processor().tokenizer
    fox = tokenizer("🦊", add_special_tokens=False)["input_ids"]
    ids = [*tokenizer("a")["input_ids"], *fox[:2], *tokenizer("red star")["input_ids"]]
    pieces = token_pieces(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids)
    assert pieces[-1] != ""


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_pieces_of_an_answer_that_grows(at_once: int) -> None:
    tokenizer = tiny_processor().tokenizer
    ids = tokenizer(" 日本 and 🦊!", add_special_tokens=False)["input_ids"]
    growing = TokenPieces(tokenizer)
    pieces = [piece for start in range(0, len(ids), at_once) for piece in growing.add(ids[start : start + at_once])]
    assert pieces == token_pieces(tokenizer, ids)


def test_half_a_character_is_shown_only_at_the_end() -> None:
    tokenizer = tiny_processor().tokenizer
    half = tokenizer("🦊", add_special_tokens=False)["input_ids"][:2]
    assert TokenPieces(tokenizer).add(half) == ["", ""]
    assert TokenPieces(tokenizer).add(half, ended=True) == ["", "\ufffd"]


def test_long_answers_are_cut_into_pieces_in_constant_time_per_token() -> None:
    tokenizer = tiny_processor().tokenizer
    decoded: list[int] = []

    class Counting:
        def decode(self, ids: list[int], **options: bool) -> str:
            decoded.append(len(ids))
            return tokenizer.decode(ids, **options)

    ids = tokenizer(" a small red square" * 50, add_special_tokens=False)["input_ids"]
    token_pieces(Counting(), ids)
    assert max(decoded) <= 4


def test_without_a_tokenizer_pieces_are_ids() -> None:
    assert token_pieces(None, [7, 8]) == [" 7", " 8"]


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ([" a", " red", " ball"], ["a", "red", "ball"]),
        (["a", " b", "all", "."], ["a", "ball."]),
        (["x", "\n", "y"], ["x", "y"]),
        (["x\n", "y"], ["x", "y"]),
        (["", "", "🦊", "s"], ["🦊s"]),
        (["red", "", "", " 🦊"], ["red", "🦊"]),
        (["red", "", "🦊"], ["red🦊"]),
        (["a", "", " "], ["a"]),
        ([" ", " "], []),
        ([], []),
    ],
    ids=str,
)
def test_words(tokens: list[str], words: list[str]) -> None:
    assert ["".join(tokens[start:stop]).strip() for start, stop in word_spans(tokens)] == words


def test_first_bytes_belong_to_the_character_they_begin() -> None:
    assert word_spans(["re", "d", "", "", " 🦊", "!"]) == [(0, 2), (2, 6)]
