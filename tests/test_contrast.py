"""Why this word rather than that one: which token a foil is, and that its numbers are those of autograd."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from benchmarks.naive import explain as explain_naively
from dexar_fast import Explainer, InputError
from dexar_fast.demo.tokenizer import build_tokenizer
from dexar_fast.inputs.contrast import find_foils
from dexar_fast.inputs.methods import METHODS

from .test_exactness import EXACT, assert_equal
from .tiny import picture, tiny_answer, tiny_inputs, tiny_llava, tiny_processor, with_float64_norms

SENTENCES = [
    "a small red square on the left and a cat",
    "two blue stars, a dog and a green circle",
    "unreachable cats are doglike; the catfish is under the reddish square",
    "一只红色的猫和一只狗",
] * 5
SPECIALS = ["<unk>", "<s>", "</s>"]


@cache
def byte_level() -> Any:
    return tiny_processor().tokenizer


@cache
def sentencepiece() -> Any:
    """As Llama's: a mark for each space and one in front, bytes for what has no token."""
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    octets = [f"<0x{octet:02X}>" for octet in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=450, special_tokens=[*SPECIALS, *octets], show_progress=False)
    core.train_from_iterator(SENTENCES, trainer)
    core.add_special_tokens(SPECIALS)
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@cache
def unigram() -> Any:
    """As T5's: what is white space becomes a plain space, before marks take the place of spaces."""
    core = Tokenizer(models.Unigram())
    core.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("\n", " ")])
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    core.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=SPECIALS, unk_token="<unk>", initial_alphabet=["(", "-"], show_progress=False
    )
    core.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@cache
def wordpiece() -> Any:
    """As BERT's: what goes on inside a word is marked, and case is lost."""
    core = Tokenizer(models.WordPiece(unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.decoder = decoders.WordPiece(cleanup=False)
    core.post_processor = processors.TemplateProcessing(single="$A")
    core.train_from_iterator(
        SENTENCES, trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIALS, show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


VOCABULARY: Any = SimpleNamespace(vocabulary_size=10_000)  # all that is asked of the model here


def pieces_of(tokenizer: Any, answer: str, contrast: Any) -> list[tuple[str, str | None]]:
    """Each token and its foil, as the vocabulary writes them."""
    ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
    foils = find_foils(contrast, VOCABULARY, tokenizer, ids)
    assert foils is not None
    names = tokenizer.convert_ids_to_tokens
    return [(names(own), None if foil is None else names(foil.token_id)) for own, foil in zip(ids, foils, strict=True)]


@pytest.mark.parametrize(
    ("tokenizer", "answer", "foil", "expected"),
    [
        (byte_level, "red red.", "blue", [("re", "bl"), ("d", "bl"), ("Ġre", "Ġbl"), ("d", "bl"), (".", "bl")]),
        (byte_level, "a 猫", "狗", [("a", "ç"), ("Ġ", "Ġ"), ("ç", "ç"), ("Į", "ç"), ("«", "ç")]),
        (sentencepiece, "red red,", "dog", [("▁red", "▁dog"), ("▁red", "▁dog"), (",", "do")]),
        (sentencepiece, "猫", "狗", [("▁", "▁"), ("猫", "狗")]),
        (sentencepiece, "🐱", "🐶", [("▁", "▁"), ("<0xF0>", "<0xF0>"), ("<0x9F>", "<0xF0>"), ("<0x90>", "<0xF0>"),
                                     ("<0xB1>", "<0xF0>")]),
        (sentencepiece, "a\nb", "dog", [("▁a", "▁dog"), ("<0x0A>", "▁dog"), ("b", "do")]),
        (wordpiece, "a Cat", "Dog", [("a", "dog"), ("cat", "dog")]),
        (unigram, "catfish", "dog", [("▁cat", "▁dog"), ("f", "d"), ("is", "d"), ("h", "d")]),
        (build_tokenizer, "a red star", "Blue", [("a", "blue"), ("red", "blue"), ("star", "blue")]),
    ],
    ids=["byte level", "byte level, bytes", "sentencepiece", "Chinese", "emoji", "line break", "wordpiece", "unigram",
         "words"],
)  # fmt: skip
def test_foil_is_written_as_the_token_is(tokenizer: Any, answer: str, foil: str, expected: list[Any]) -> None:
    """With a space before it where the token has one, without where it has none; and the first token of that."""
    assert pieces_of(tokenizer(), answer, foil) == expected


@pytest.mark.parametrize("foil", ["cat", " cat", "cat\n"])
def test_white_space_around_a_foil_does_not_count(foil: str) -> None:
    assert pieces_of(sentencepiece(), "a dog", foil) == [("▁a", "▁cat"), ("▁dog", "▁cat")]


def test_a_foil_for_each_token() -> None:
    dog = sentencepiece().convert_tokens_to_ids("▁dog")
    expected = [("▁a", None), ("▁red", "▁blue"), ("▁cat", "▁dog")]
    assert pieces_of(sentencepiece(), "a red cat", [None, "blue", dog]) == expected
    assert find_foils(None, VOCABULARY, sentencepiece(), [5]) is None


def test_foils_are_recorded_with_what_they_would_add() -> None:
    explainer = Explainer(tiny_llava(), tiny_processor())
    e = explainer.explain(picture(), "what?", "red red", contrast="blue")
    assert e.foils is not None
    assert [foil.text for foil in e.foils if foil] == ["bl", "bl", " bl", "bl"]
    names = tiny_processor().tokenizer.convert_ids_to_tokens([foil.token_id for foil in e.foils if foil])
    assert names == ["bl", "bl", "Ġbl", "bl"]
    assert (e.targets, e.settings["contrast"]) == (None, "blue")
    assert e.rather_than(0, 3) == "bl"
    assert e.rather_than(9, 9) == ""
    fox = explainer.explain(picture(), "what?", "a", contrast="🦊")
    assert [foil.text for foil in fox.foils or () if foil] == ["\ufffd"]  # the first of four bytes


@pytest.mark.parametrize("normalization", ["paper", "reference"])
@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.filters_heads])
def test_equals_autograd(method: str, normalization: str) -> None:
    ours, theirs = with_float64_norms(tiny_llava()), with_float64_norms(tiny_llava(attention="eager"))
    inputs, answer = tiny_inputs(ours), tiny_answer(5)
    foils = [41, None, 43, 44, int(answer[0])]
    explanation = Explainer(ours).explain_ids(
        inputs, answer, contrast=foils, method=method, normalization=normalization, unfiltered=True
    )
    mask = torch.cat((inputs["input_ids"][0] != ours.config.image_token_id, torch.ones(5, dtype=torch.bool)))
    oracle = explain_naively(theirs, inputs, answer, [0, 1, 2], normalization, mask, method, foils)
    assert oracle.token_weights.max() > 0
    assert_equal(explanation, oracle, EXACT)


def test_a_foil_for_all_that_is_the_token_gives_an_empty_map() -> None:
    model = tiny_llava()
    inputs, answer = tiny_inputs(model), tiny_answer(4)
    e = Explainer(model).explain_ids(inputs, answer, contrast=int(answer[3]))  # the row that is checked at run time
    plain = Explainer(model).explain_ids(inputs, answer)
    assert (e.token_maps[3] == 0).all()
    assert (e.image_scores[3] == 0).all()
    assert (e.token_maps[:3].max(axis=(1, 2)) == 1).all()
    assert np.abs(e.token_maps[1] - plain.token_maps[1]).max() > 0.01


def test_bfloat16_takes_the_difference_in_full() -> None:
    """Of ids that bfloat16 could not count, too."""
    model = tiny_llava()
    inputs, answer = tiny_inputs(model), tiny_answer(6)
    exact = Explainer(model).explain_ids(inputs, answer, contrast=299)
    rounded = Explainer(tiny_llava().to(torch.bfloat16)).explain_ids(inputs, answer, contrast=299)
    assert [foil.token_id for foil in rounded.foils or () if foil] == [299] * 6
    assert np.corrcoef(exact.token_maps.ravel(), rounded.token_maps.ravel())[0, 1] > 0.98


@pytest.mark.parametrize(
    ("contrast", "message"),
    [
        (["blue", None], r"contrast: expected one foil for all tokens, or 3 foils, .*; got 2\. Use None"),
        (4.5, r"contrast: expected a foil \(text or a token id\) for all tokens, or a sequence .*; got 4\.5"),
        ([True, None, None], r"contrast: expected a foil .*; got True"),
        (np.array([5, 6, 7]), r"contrast: expected a foil "),
        (300, r"contrast: expected ids from 0 to 299; got 300 at token 0"),
        ([None, -1, None], r"got -1 at token 1"),
        (" ", r"contrast: expected a word or a token id; got ' '"),
        ([None, "", None], r"contrast: expected a word or a token id; got ''"),
        (b"cat", r"contrast: expected a foil .*; got b'cat'"),
        ([None, "d", None], r"the foil 'd' of token 1 is that token itself \(id \d+\)"),
    ],
    ids=str,
)
def test_unusable_foils_are_named(contrast: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Explainer(tiny_llava(), tiny_processor()).explain(picture(), "what?", "red.", contrast=contrast)


def test_words_that_the_vocabulary_lacks_are_named() -> None:
    with pytest.raises(InputError, match="no token begins the foil 'zebra' behind a space, as the answer's token is"):
        pieces_of(build_tokenizer(), "a red star", "zebra")


def test_text_needs_a_tokenizer() -> None:
    model = tiny_llava()
    with pytest.raises(InputError, match="contrast: expected token ids, without a processor; got the text 'cat'"):
        Explainer(model).explain_ids(tiny_inputs(model), tiny_answer(3), contrast="cat")
    e = Explainer(model).explain_ids(tiny_inputs(model), tiny_answer(3), contrast=7)
    assert [foil.text for foil in e.foils or () if foil] == [" 7"] * 3


def test_methods_without_a_score_refuse() -> None:
    model = tiny_llava()
    with pytest.raises(InputError, match="contrast: method 'attention' does not start from a score"):
        Explainer(model).explain_ids(tiny_inputs(model), tiny_answer(3), contrast=7, method="attention")
