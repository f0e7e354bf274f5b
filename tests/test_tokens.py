"""Tokens as text, and words."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from dexar_fast.inputs.tokens import TokenPieces, token_labels, token_pieces, word_spans

from .tiny import tiny_processor

FAMILY = "\U0001f468\u200d\U0001f469"  # two emoji and a joiner, one picture
ANSWERS = [
    "a red square",
    " two stars.\n\nand  more",
    "héllo wörld",
    "日本語 と emoji 🦊!",
    "红色的🦊。",
    "שלום عالم",
    f"e\u0301 {FAMILY} \u200b x",
    "tab\there\r\n",
    "\x00\x1b[31m \u202eback\u202c",
    "\ufffd stays",
    "a",
    "<b>&amp;",
]


@cache
def byte_level() -> Any:
    """As GPT-2, Qwen2 and Llama 3: pieces of bytes, merged or not."""
    return tiny_processor().tokenizer


@cache
def byte_fallback() -> Any:
    """As Llama 2 and Gemma: pieces of characters, U+2581 for a space, and <0xE4> for what is not in the vocabulary."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *"\u2581abcdefghijklmnopqrstuvwxyz.!红色"]
    model = models.BPE(
        vocab={piece: index for index, piece in enumerate(pieces)}, merges=[], byte_fallback=True, unk_token="<unk>"
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


TOKENIZERS = pytest.mark.parametrize("tokenizer", [byte_level, byte_fallback], ids=["byte-level", "byte-fallback"])


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@TOKENIZERS
@pytest.mark.parametrize("answer", ANSWERS, ids=ascii)
def test_pieces_join_to_the_answer(tokenizer: Any, answer: str) -> None:
    ids = ids_of(tokenizer(), answer)
    pieces = token_pieces(tokenizer(), ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == answer


@TOKENIZERS
@pytest.mark.parametrize("answer", ["🦊", "日", "é"])
def test_character_of_several_tokens_is_carried_by_the_last(tokenizer: Any, answer: str) -> None:
    ids = ids_of(tokenizer(), "a" + answer)
    pieces = token_pieces(tokenizer(), ids)
    assert pieces[-1] == answer
    assert "".join(pieces[-len(answer.encode()) : -1]) == ""


def test_a_token_that_ends_inside_a_character_has_the_text_before_it() -> None:
    """Byte-level merges cross characters."""
    pieces = ["ab\xf0\x9f", "\xa6", "\x8a!", " \xf0\x9f", "\xa6\x8a"]

    class Bytes:
        def decode(self, ids: list[int], **_: bool) -> str:
            return "".join(pieces[i] for i in ids).encode("latin-1").decode("utf-8", errors="replace")

    assert token_pieces(Bytes(), list(range(5))) == ["ab", "", "🦊!", "", " 🦊"]


@TOKENIZERS
@pytest.mark.parametrize("before", ["", "a"])
@pytest.mark.parametrize("behind", ["", "red", "🦊"])
def test_bytes_that_make_no_character_stay_on_their_own_tokens(tokenizer: Any, before: str, behind: str) -> None:
    of = tokenizer()
    broken = ids_of(byte_level(), "🦊")[:2] if of is byte_level() else of.convert_tokens_to_ids(["<0xF0>", "<0x9F>"])
    first = ids_of(of, before)
    ids = [*first, *broken, *(ids_of(of, behind) if behind else [])]
    pieces = token_pieces(of, ids)
    assert set("".join(pieces[len(first) : len(first) + 2])) == {"\ufffd"}
    assert "".join(pieces).count("\ufffd") <= 2
    assert "".join(pieces[len(first) + 2 :]).strip() == behind
    assert "".join(pieces[: len(first)]) == before


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
    assert TokenPieces(tokenizer).add(half, ended=True) == ["\ufffd", ""]


def test_long_answers_are_cut_into_pieces_in_constant_time_per_token() -> None:
    tokenizer = byte_level()
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
        (["((", "x", "))"], ["((x))"]),
        (["a", "\x1c", "b"], ["a\x1cb"]),
        # Scripts without white space between words.
        (["红", "色", "的", "球", "，", "左", "边", "。"], ["红", "色", "的", "球，", "左", "边。"]),
        (["红色", "的", "小", "球"], ["红色", "的", "小", "球"]),
        (["", "", "红", "", "", "色"], ["红", "色"]),
        (["有", "3", "个", "red", " star", "s"], ["有", "3", "个", "red", "stars"]),
        (["AI", "，", "ML", "（", "红", "）"], ["AI，", "ML", "（红）"]),
        (["カ", "メラ", "は", "「", "赤", "い", "」", "です"], ["カメラ", "は", "「赤", "い」", "です"]),
        (["か", "\u3099", "な"], ["か\u3099", "な"]),
        (["ลู", "ก", "บอล", " สี"], ["ลู", "ก", "บอล", "สี"]),
        (["다", "람", "쥐", " 공"], ["다람쥐", "공"]),
        (["של", "ום", " ע"], ["שלום", "ע"]),
        (["，", "。"], ["，", "。"]),
    ],
    ids=str,
)
def test_words(tokens: list[str], words: list[str]) -> None:
    assert ["".join(tokens[start:stop]).strip() for start, stop in word_spans(tokens)] == words


def test_first_bytes_belong_to_the_character_they_begin() -> None:
    assert word_spans(["re", "d", "", "", " 🦊", "!"]) == [(0, 2), (2, 6)]


@pytest.mark.parametrize(
    ("tokens", "labels"),
    [
        ([" a", "b", "\n", " ", "\t "], [" a", "b", "\\n", "␣", "\\t␣"]),
        (["", "", " 🦊", ""], ["(before 🦊)", "(before 🦊)", " 🦊", "(no text)"]),
        (["e", "\u0301", "\u200d", "\x1b[0m"], ["e", "\u25cc\u0301", "\\u200d", "\\x1b[0m"]),
        (["", "\u202e"], ["(before \\u202e)", "\\u202e"]),
        ([], []),
    ],
    ids=ascii,
)
def test_labels(tokens: list[str], labels: list[str]) -> None:
    assert token_labels(tokens) == labels
