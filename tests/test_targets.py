"""Words, phrases and spans explained as one: what is taken for one, and that its numbers are those of autograd."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.naive import explain as explain_naively
from dexar_fast import Explainer, Explanation, InputError
from dexar_fast.engine.row_chunk import row_chunks
from dexar_fast.inputs.targets import find_targets, phrase_spans
from dexar_fast.render.montage import montage

from .test_exactness import EXACT, assert_equal
from .tiny import picture, tiny_answer, tiny_inputs, tiny_llava, tiny_processor, with_float64_norms

SPANS = [(0, 2), (2, 3), (4, 7), (4, 9), (10, 11)]  # with gaps, nested, of one token, and one row behind them
NUMBERS = ("token_maps", "answer_map", "token_weights", "image_scores", "text_scores", "token_map_ranges")


def explain(explainer: Explainer, length: int = 12, **options: Any) -> Explanation:
    return explainer.explain_ids(tiny_inputs(explainer.model), tiny_answer(length), **options)


def numbers(explanation: Explanation) -> list[Any]:
    return [getattr(explanation, name) for name in NUMBERS]


@pytest.mark.parametrize("normalization", ["paper", "reference"])
@pytest.mark.parametrize("contrast", [False, True], ids=["plain", "contrast"])
@pytest.mark.parametrize("window", [None, 8, 14], ids=["whole", "window 8", "window 14"])
def test_equals_autograd_through_shared_attention(window: int | None, contrast: bool, normalization: str) -> None:
    """The mean logit's gradient with respect to one vector added to the attention of all rows of a target."""
    shape: dict[str, Any] = {"text": "llama"} if window is None else {"text": "mistral", "sliding_window": window}
    ours = with_float64_norms(tiny_llava(**shape))
    theirs = with_float64_norms(tiny_llava(attention="eager", **shape))
    inputs, answer = tiny_inputs(ours), tiny_answer(12)
    foils = [None if t % 3 == 1 else 20 + t for t in range(12)] if contrast else None
    explanation = Explainer(ours).explain_ids(
        inputs, answer, targets=SPANS, contrast=foils, normalization=normalization, unfiltered=True
    )
    mask = torch.cat((inputs["input_ids"][0] != ours.config.image_token_id, torch.ones(12, dtype=torch.bool)))
    oracle = explain_naively(theirs, inputs, answer, [0, 1, 2], normalization, mask, foils=foils, spans=SPANS)
    assert oracle.image_scores.max() > 0
    assert_equal(explanation, oracle, EXACT)


def test_target_of_one_token_is_that_token() -> None:
    explainer = Explainer(tiny_llava())
    tokens = explain(explainer, unfiltered=True)
    targets = explain(explainer, unfiltered=True, targets=[(t, t + 1) for t in range(12)])
    assert tokens.targets is None
    for ours, theirs in zip(numbers(targets), numbers(tokens)):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(targets.unfiltered_answer_map, tokens.unfiltered_answer_map)
    few = explain(explainer, targets=[(7, 8), (2, 3)])
    np.testing.assert_array_equal(few.token_maps, tokens.token_maps[[2, 7]])
    assert [target.start for target in few.targets or ()] == [2, 7]


@pytest.mark.parametrize("row_chunk", [1, 2, 4, 5])
def test_chunks_change_nothing(row_chunk: int) -> None:
    """No target is cut; rows in gaps run, so that later ones see them."""
    explainer = Explainer(tiny_llava())
    for whole, chunked in zip(
        numbers(explain(explainer, targets=SPANS, row_chunk=12)),
        numbers(explain(explainer, targets=SPANS, row_chunk=row_chunk)),
    ):
        np.testing.assert_allclose(chunked, whole, rtol=0, atol=1e-11 * max(1, np.abs(whole).max()))


@pytest.mark.parametrize(
    ("at_once", "expected"),
    [(1, [1, 3, 4, 9, 10, 11, 12]), (2, [1, 3, 4, 9, 11, 12]), (4, [4, 9, 12]), (12, [12])],
)
def test_chunks_end_where_no_target_is_cut(at_once: int, expected: list[int]) -> None:
    chunks = row_chunks(slice(0, 12), at_once, [(1, 3), (4, 9), (5, 7)])
    assert [chunk.stop for chunk in chunks] == expected
    assert [chunk.start for chunk in chunks] == [0, *expected[:-1]]


def test_fewer_rows_where_memory_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half as many, but never less than a target; what was added before does not count twice."""
    from dexar_fast.engine import aggregate

    explainer = Explainer(tiny_llava())
    whole = explain(explainer, targets=SPANS)
    original = aggregate.score_and_accumulate
    failed: list[int] = []

    def limited(d_out: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(d_out, *args, **kwargs)
        if len(d_out) > most:
            failed.append(len(d_out))
            raise torch.OutOfMemoryError
        return result

    monkeypatch.setattr(aggregate, "score_and_accumulate", limited)
    most = 2
    with pytest.warns(UserWarning, match="out of memory with 11 answer tokens at once"):
        halved = explain(explainer, targets=SPANS)
    assert failed == [5]
    for ours, theirs in zip(numbers(halved), numbers(whole)):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-11 * max(1, np.abs(theirs).max()))
    most = 1  # two targets share rows 4 to 9
    with pytest.raises(torch.OutOfMemoryError), pytest.warns(UserWarning, match="out of memory"):
        explain(explainer, targets=SPANS)


def test_words_phrases_and_matches_of_a_real_tokenizer() -> None:
    explainer = Explainer(tiny_llava(), tiny_processor())
    answer = " a red square, two blue stars"
    tokens = explainer.explain(picture(), "what is it?", answer, method="dexar")
    cases: list[tuple[Any, list[str]]] = [
        ("words", ["a", "red", "square,", "two", "blue", "stars"]),
        ("phrases", ["a red square", "two blue stars"]),
        (re.compile("(?i)RED|blue \\w+"), ["red", "blue stars"]),
    ]
    for targets, texts in cases:
        e = explainer.explain(picture(), "what is it?", answer, targets=targets, grounding=True)
        assert e.answer == answer
        assert e.row_texts == texts
        assert len(e.token_maps) == len(e.token_weights) == len(texts)
        words = e.words()
        assert [word.text for word in words] == texts
        for index, word in enumerate(words):
            np.testing.assert_array_equal(word.map, e.token_maps[index])
            assert word.weight == e.token_weights[index]
            assert 0 < (word.grounding or 0) < 1
            if word.stop - word.start == 1:
                np.testing.assert_array_equal(word.map, tokens.token_maps[word.start])
        assert e.grounding is not None
        assert len(e.grounding) == len(tokens.tokens)
    assert e.settings["targets"] == {"pattern": "(?i)RED|blue \\w+", "flags": int(re.I | re.U)}
    assert e.overlay(word=-1).size == picture().size
    with pytest.raises(InputError, match=r"token: this explanation has no maps of tokens, but of 2 targets\. Use"):
        e.overlay(0)


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("A cat, a dog and (perhaps) a bird.", ["A cat", "a dog and", "perhaps", "a bird"]),
        ("It isn't a red-brown dog; it's 3.5 m, 50% off", ["It isn't a red-brown dog", "it's 3.5 m", "50% off"]),
        ("It’s “a \u201cbig\u201d one” — yes…no", ["It’s", "a", "big", "one", "yes", "no"]),
        ("- one\n- two", ["one", "two"]),
        ("一只红色的猫,在绿树旁。旁边是湖!", ["一只红色的猫", "在绿树旁", "旁边是湖"]),
        ("一只猫,两只狗", ["一只猫", "两只狗"]),
        ("猫が、木の上に。", ["猫が", "木の上に"]),
        ("¿Qué es? ¡Un gato!", ["Qué es", "Un gato"]),
        ("a 🐱 here", ["a 🐱 here"]),
        ("... , !", []),
        ("", []),
    ],
)
def test_phrases(text: str, phrases: list[str]) -> None:
    tokens = list(text)
    assert ["".join(tokens[start:stop]) for start, stop in phrase_spans(tokens)] == phrases


@pytest.mark.parametrize(
    ("tokens", "pattern", "spans"),
    [
        ([" a", " re", "d", " b"], "red", [(1, 3)]),
        ([" a", " re", "d", " b"], "e", [(1, 2)]),
        ([" a", " red", "", "", "🐱", " b"], "🐱", [(2, 5)]),
        (["", "红", "", "色", "的", "猫"], "色|猫", [(2, 4), (5, 6)]),
        ([" a", " b", " a"], "a|x*", [(0, 1), (2, 3)]),
        (["ab", "cd"], "[bc]+", [(0, 2)]),
    ],
    ids=["in tokens", "within a token", "first bytes", "Chinese", "empty matches", "across"],
)
def test_matches_are_widened_to_whole_tokens(tokens: list[str], pattern: str, spans: list[tuple[int, int]]) -> None:
    found = find_targets(re.compile(pattern), tokens)
    assert [(target.start, target.stop) for target in found or ()] == spans


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ("word", r"targets: expected one of tokens, words, phrases, .*; got 'word'\. Pass re\.compile\('word'\)"),
        (re.compile(b"a"), "over text; got one over bytes"),
        (re.compile("zebra"), "'zebra' matches nothing in the answer"),
        ([], "no span in the answer"),
        ([(0, 2), (2, 2)], r"expected spans \(start, stop\) with 0 <= start < stop <= 4.*; got \(2, 2\)"),
        ([(-1, 2)], r"got \(-1, 2\)"),
        ([(0, 5)], r"got \(0, 5\)"),
        ([0, 1], r"targets: expected one of .* got \[0, 1\]"),
        ([(0, 1.5)], r"targets: expected one of .*"),
        (3, "targets: expected one of .* got 3"),
    ],
    ids=str,
)
def test_unusable_targets_are_named(targets: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        explain(Explainer(tiny_llava()), 4, targets=targets)


@pytest.mark.parametrize("method", ["dexar-scores", "dexar-contribution", "dexar-attention", "attention", "uniform"])
def test_methods_that_read_one_rows_probability_refuse(method: str) -> None:
    with pytest.raises(InputError, match=f'targets: only the method "dexar" explains several.*{method}'):
        explain(Explainer(tiny_llava()), 4, targets="words", method=method)


def test_rows_before_the_first_target_run_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without gradients: nothing of them is explained."""
    from dexar_fast.engine import pipeline

    ran: list[tuple[slice, int]] = []
    original = pipeline.run_rows

    def watched(decoder: Any, prompt: Any, ids: Any, rows: slice, layers: Any, *rest: Any) -> Any:
        ran.append((rows, len(layers)))
        return original(decoder, prompt, ids, rows, layers, *rest)

    monkeypatch.setattr(pipeline, "run_rows", watched)
    explain(Explainer(tiny_llava()), targets=[(8, 9)], row_chunk=3)
    assert ran == [(slice(0, 3), 0), (slice(3, 6), 0), (slice(6, 9), 3)]


def test_broken_numbers_name_the_target() -> None:
    from dexar_fast import NotFiniteError

    model = tiny_llava(dtype=torch.float32)
    with torch.no_grad():
        model.lm_head.weight[int(tiny_answer(12)[5])] = torch.nan
    with pytest.raises(NotFiniteError, match=r"layer 0, target 1 \(tokens 4 to 6\)"):
        explain(Explainer(model), targets=[(0, 2), (4, 7), (8, 9)])


@pytest.mark.parametrize("ids", [[5, -100], [], [300]], ids=str)
def test_ids_that_are_no_answer_are_named_first(ids: list[int]) -> None:
    explainer = Explainer(tiny_llava(), tiny_processor())
    with pytest.raises(InputError, match="answer: expected"):
        explainer.explain_ids(tiny_inputs(explainer.model), ids, targets="words")


def test_several_images_and_the_cache_of_generation(tmp_path: Path) -> None:
    """The model's own answer: what generation left is used, and each image has its map of each target."""
    explainer = Explainer(tiny_llava(), tiny_processor())
    explainer.model.generation_config.suppress_tokens = [0, 1, 2, 3]
    pictures = [picture(), picture(20, 50)]
    own = explainer.explain(pictures, "<image> and <image>", targets="words", max_new_tokens=9, row_chunk=2)
    inputs, _ = explainer.encode(pictures, "<image> and <image>", "a")
    again = explainer.explain_ids(inputs, own.token_ids, image=pictures, targets="words")
    assert (own.settings["cache"], again.settings["cache"]) == ("reused", "new")
    assert own.targets == again.targets
    assert own.targets is not None
    for index in range(2):
        one = own.of_image(index)
        assert len(one.token_maps) == len(own.targets)
        np.testing.assert_allclose(one.token_maps, again.token_maps[index], atol=1e-9)
        assert own.overlay(word=-1, image=index).size == pictures[index].size
    beside = montage(own)
    assert len(beside.token_maps) == len(beside.words()) == len(own.targets)
    assert own.to_html(tmp_path / "report.html").exists()
    loaded = Explanation.load(own.save(tmp_path / "saved", exact=True))
    np.testing.assert_array_equal(loaded.token_maps[1], own.token_maps[1])


@pytest.mark.parametrize("text_set", ["content_only", "generated_only"])
def test_text_sets_hold_for_targets(text_set: str) -> None:
    """A target's own tokens are not among the text that it is compared with."""
    explainer = Explainer(tiny_llava(), tiny_processor())
    answer = " a small red square"
    e = explainer.explain(picture(), "what is it?", answer, targets=[(0, 9), (4, 9)], text_set=text_set)
    plain = explainer.explain(picture(), "what is it?", answer, targets=[(0, 9), (4, 9)])
    assert (e.text_scores <= plain.text_scores).all()
    np.testing.assert_array_equal(e.image_scores, plain.image_scores)
    assert (e.text_scores[0] == 0).all() == (text_set == "generated_only")
    assert e.text_scores[1].max() > 0
