"""A part of the answer is explained; what stands before it only runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dexar_fast import Explainer, ExplainRequest, Explanation, InputError
from dexar_fast.inputs.only import find_part

from .families.case import all_cases, answer
from .families.oracle import DoubleThroughout
from .families.test_families import encode, explainer_of
from .tiny import picture, tiny_llava, tiny_processor

ANSWER = " a small red square. two blue stars on the left"


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer(tiny_llava(), tiny_processor())


def rows_equal(part: Explanation, whole: Explanation, rows: slice) -> None:
    """Everything of a token but its map's common scale."""
    assert part.tokens == whole.tokens[rows]
    assert part.token_ids.tolist() == whole.token_ids[rows].tolist()
    np.testing.assert_allclose(part.image_scores, whole.image_scores[rows], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(part.text_scores, whole.text_scores[rows], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "mllama", "florence2", "lfm2_vl", "paligemma"])
def test_rows_are_those_of_the_whole_answer(name: str) -> None:
    """Over a cache, without one, behind an encoder: the part's rows are the whole answer's."""
    case = all_cases()[name]
    model = explainer_of(case)
    inputs, _ = encode(model, case, next(iter(case.prompts)))
    ids = answer(7, model.decoder.vocabulary_size)
    with DoubleThroughout():
        whole = model.explain_ids(inputs, ids, grounding=True)
        part = model.explain_ids(inputs, ids, only=(2, 5), grounding=True)
    rows_equal(part, whole, slice(2, 5))
    assert part.log_probabilities is not None
    assert whole.log_probabilities is not None
    np.testing.assert_allclose(part.log_probabilities, whole.log_probabilities[2:5], rtol=1e-6)


@pytest.mark.parametrize("row_chunk", [1, 2, "auto"])
def test_rows_before_a_part_are_not_explained(explainer: Explainer, row_chunk: Any) -> None:
    seen: list[tuple[int, int | None]] = []
    explainer.explain(
        picture(),
        "what is it?",
        ANSWER,
        only=(-3, -1),
        row_chunk=row_chunk,
        progress=lambda stage, done, total: seen.append((done, total)) if stage == "explaining" else None,
    )
    chunks = 2 if row_chunk == 1 else 1
    assert seen[-1] == (3 * chunks, 3 * chunks)  # three layers of two rows


def test_part_of_an_answer_that_the_model_writes() -> None:
    model = tiny_llava()
    model.generation_config.suppress_tokens = [0, 1, 2, 3]
    explainer = Explainer(model, tiny_processor())
    whole = explainer.explain(picture(), "what is it?", max_new_tokens=6)
    part = explainer.explain(picture(), "what is it?", max_new_tokens=6, only=(3, 6))
    rows_equal(part, whole, slice(3, 6))
    assert part.settings["part"] == [3, 6]
    assert part.settings["whole_answer"] == "".join(whole.tokens)


def test_targets_and_foils_count_the_part(explainer: Explainer) -> None:
    whole = explainer.explain(picture(), "what is it?", ANSWER)
    start = find_part(re.compile("two.*"), whole.tokens)[0]  # type: ignore[index]
    only = re.compile("two.*")
    words = explainer.explain(picture(), "what is it?", ANSWER, only=only, targets="words")
    assert words.targets is not None
    assert [target.text for target in words.targets] == ["two", "blue", "stars", "on", "the", "left"]
    spans = [(start + target.start, start + target.stop) for target in words.targets]
    wanted = explainer.explain(picture(), "what is it?", ANSWER, targets=spans)
    np.testing.assert_allclose(words.image_scores, wanted.image_scores, rtol=1e-9, atol=1e-12)
    foils = explainer.explain(picture(), "what is it?", ANSWER, only=only, contrast=" red")
    contrasted = explainer.explain(picture(), "what is it?", ANSWER, contrast=" red")
    rows_equal(foils, contrasted, slice(start, len(whole.tokens)))
    assert len(foils.foils or ()) == len(foils.tokens)
    with pytest.raises(InputError, match=r"contrast: expected one foil for all tokens, or 2 foils"):
        explainer.explain(picture(), "what is it?", ANSWER, only=(0, 2), contrast=[None])


@pytest.mark.parametrize("method", ["attention", "gradient-input", "occlusion"])
def test_methods_to_compare_with(explainer: Explainer, method: str) -> None:
    whole = explainer.explain(picture(), "what is it?", " a small red square", method=method)
    part = explainer.explain(picture(), "what is it?", " a small red square", method=method, only=(1, 3))
    assert part.tokens == whole.tokens[1:3]
    for one, other in zip(part.token_maps, whole.token_maps[1:3]):
        np.testing.assert_allclose(one / max(one.max(), 1e-9), other / max(other.max(), 1e-9), atol=1e-5)


def test_part_in_a_batch_and_in_a_file(explainer: Explainer, tmp_path: Path) -> None:
    requests = [ExplainRequest(picture(), "what is it?", ANSWER), ExplainRequest(picture(), "what is it?", " two. one")]
    found = list(explainer.explain_many(requests, only="last_sentence"))
    assert ["".join(e.tokens).strip() for e in found] == ["two blue stars on the left", "one"]
    alone = explainer.explain(picture(), "what is it?", ANSWER, only="last_sentence")
    np.testing.assert_allclose(found[0].token_maps, alone.token_maps, atol=1e-9)
    loaded = Explanation.load(alone.save(tmp_path / "e.safetensors"))
    assert loaded.settings["only"] == "last_sentence"
    assert loaded.settings["whole_answer"] == ANSWER
    loaded.to_html(tmp_path / "e.html")


TOKENS = ["<think>", "It", " is", ".", "</think>", "\n\n", "A", " cat", ".", " On", " a", " mat", "!", "\n"]


@pytest.mark.parametrize(
    ("only", "text"),
    [
        ("after_thinking", "A cat. On a mat!"),
        ("last_sentence", "On a mat!"),
        (re.compile("cat"), "cat"),
        (re.compile("a.?"), "cat"),  # the first match, widened to whole tokens
        ((6, 9), "A cat."),
        ((-2, 14), "!"),
    ],
    ids=str,
)
def test_parts_are_found(only: Any, text: str) -> None:
    start, stop = find_part(only, TOKENS)  # type: ignore[misc]
    assert "".join(TOKENS[start:stop]).strip() == text


@pytest.mark.parametrize(
    ("answer", "last"),
    [
        ("One. Two", "Two"),
        ("It costs 3.5 euros", "It costs 3.5 euros"),
        ("First line\nsecond line\n", "second line"),
        ('He said "Go." She went.', "She went."),
        ("猫です。マットの上。", "マットの上。"),
    ],
)
def test_last_sentences(answer: str, last: str) -> None:
    pieces = re.findall(r"\s?\S|\s", answer)
    start, stop = find_part("last_sentence", pieces)  # type: ignore[misc]
    assert "".join(pieces[start:stop]).strip() == last


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("sentence", r"only: expected one of last_sentence, after_thinking, .*; got 'sentence'\. Pass re\.compile"),
        (3, r"only: expected .* of tokens; got 3"),
        ((1, 2, 3), r"only: expected .*; got \(1, 2, 3\)"),
        (re.compile(b"a"), r"over text; got one over bytes"),
        ((4, 4), r"expected a range \(start, stop\) within the 3 tokens of the answer; got \(4, 4\)"),
        ((2, 1), r"expected a range"),
        (re.compile("dog"), r"only: 'dog' matches nothing in the answer"),
        ("after_thinking", r"only: the answer holds no tag that closes thoughts"),
    ],
    ids=str,
)
def test_other_parts_are_refused(explainer: Explainer, only: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        explainer.explain_ids(*_short(explainer), only=only)


def _short(explainer: Explainer) -> tuple[dict[str, torch.Tensor], list[int]]:
    inputs, _ = explainer.encode([picture()], "what is it?", "a")
    return inputs, [70, 80, 90]
