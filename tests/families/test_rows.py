"""Answer rows in chunks, over the cache of generation, over a caller's cache: the same maps from every family."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from dexar_fast import Explainer, Explanation, InputError
from dexar_fast.engine.prefill import new_cache

from .case import Case, answer, picture
from .oracle import DoubleThroughout
from .test_families import CASES, encode, explainer_of

CACHED = {name: case for name, case in CASES.items() if explainer_of(case).family.rows == "cached"}
each_family = pytest.mark.parametrize("case", CASES.values(), ids=str)
each_cached_family = pytest.mark.parametrize("case", CACHED.values(), ids=str)


def assert_equal(actual: Explanation, wanted: Explanation) -> None:
    for name in ("image_scores", "text_scores", "token_maps", "answer_map", "token_weights"):
        for a, w in zip(_arrays(getattr(actual, name)), _arrays(getattr(wanted, name)), strict=True):
            np.testing.assert_allclose(a, w, rtol=0, atol=1e-9 * max(1, np.abs(w).max()), err_msg=name)


def _arrays(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


@each_family
def test_chunks_of_rows_change_nothing(case: Case) -> None:
    explainer = explainer_of(case)
    inputs, _ = encode(explainer, case, next(iter(case.prompts)))
    ids = answer(7, explainer.decoder.vocabulary_size)
    with DoubleThroughout():
        whole = explainer.explain_ids(inputs, ids, row_chunk=7)
        for chunk in (1, 3):
            assert_equal(explainer.explain_ids(inputs, ids, row_chunk=chunk), whole)


@each_family
def test_the_cache_of_generation_serves_again(case: Case) -> None:
    """The model's own answer, explained over the cache that generation left, and explained from the start."""
    explainer = explainer_of(case)
    explainer.model.generation_config.suppress_tokens = [*explainer.decoder.placeholder_ids, 0, 1, 2]
    text, n_images = case.prompts[next(iter(case.prompts))]
    images = [picture((40, 30)), picture((21, 50), seed=1)][:n_images]
    with DoubleThroughout():
        own = explainer.explain(images, text, max_new_tokens=5)
        again = explainer.explain_ids(explainer.encode(images, text, "a")[0], own.token_ids, image=images)
    assert own.settings["cache"] == ("reused" if case.name in CACHED else "none")
    assert again.settings["cache"] == ("new" if case.name in CACHED else "none")
    assert_equal(own, again)


@each_cached_family
@pytest.mark.parametrize("with_answer", [False, True], ids=["prompt", "prompt and answer"])
def test_a_callers_cache_is_taken_up(case: Case, with_answer: bool) -> None:
    explainer = explainer_of(case)
    inputs, _ = encode(explainer, case, next(iter(case.prompts)))
    ids = answer(4, explainer.decoder.vocabulary_size)
    with DoubleThroughout():
        alone = explainer.explain_ids(inputs, ids)
        cache = new_cache()
        with torch.no_grad():
            explainer.model.generate(
                **inputs,
                past_key_values=cache,
                max_new_tokens=6 if with_answer else 1,
                suppress_tokens=[*explainer.decoder.placeholder_ids, 0, 1, 2],
            )
        length = cache.get_seq_length()
        taken_up = explainer.explain_ids(inputs, ids, past_key_values=cache)
    assert taken_up.settings["cache"] == "reused"
    assert cache.get_seq_length() == length
    assert_equal(taken_up, alone)


def test_a_cache_of_another_prompt_is_refused() -> None:
    explainer = explainer_of(CASES["llava"])
    inputs, _ = encode(explainer, CASES["llava"], next(iter(CASES["llava"].prompts)))
    with pytest.raises(InputError, match=r"past_key_values: expected the \d+ positions of the prompt; got 0"):
        explainer.explain_ids(inputs, [9], past_key_values=new_cache())


def test_a_cache_that_forgets_is_not_taken_up() -> None:
    """Layers that keep a sliding window only: the prompt runs again, and the maps are right in chunks too."""
    case = CASES["bakllava"]
    explainer = explainer_of(case)
    config: Any = explainer.decoder.text_model.config
    inputs, _ = encode(explainer, case, next(iter(case.prompts)))
    config.sliding_window = explainer.decoder.prompt_ids(inputs).shape[1] + 2
    ids = answer(6, explainer.decoder.vocabulary_size)
    with DoubleThroughout():
        wanted = explainer.explain_ids(inputs, ids)
        cache = DynamicCache(config=config)
        with torch.no_grad():
            explainer.decoder.base(**inputs, past_key_values=cache)
        with pytest.warns(UserWarning, match="expected layers that keep every position"):
            actual = explainer.explain_ids(inputs, ids, past_key_values=cache, row_chunk=2)
    assert actual.settings["cache"] == "new"
    assert_equal(actual, wanted)


def test_a_checkpoint_that_asks_for_a_static_cache() -> None:
    explainer = explainer_of(CASES["llava"])
    explainer.model.generation_config.suppress_tokens = [*explainer.decoder.placeholder_ids, 0, 1, 2]
    explainer.model.generation_config.cache_implementation = "static"
    text, _ = CASES["llava"].prompts[next(iter(CASES["llava"].prompts))]
    assert len(explainer.explain(picture((40, 30)), text, max_new_tokens=2).tokens) == 2


def test_families_without_a_cache_refuse_one() -> None:
    explainer = explainer_of(CASES["florence2"])
    inputs, _ = encode(explainer, CASES["florence2"], next(iter(CASES["florence2"].prompts)))
    with pytest.raises(InputError, match="past_key_values: expected None"):
        explainer.explain_ids(inputs, [9], past_key_values=new_cache())


def test_fewer_rows_where_memory_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes on with half as many rows, and what was added before does not count twice."""
    from dexar_fast.engine import aggregate

    explainer = explainer_of(CASES["llava"])
    inputs, _ = encode(explainer, CASES["llava"], next(iter(CASES["llava"].prompts)))
    ids = answer(11, explainer.decoder.vocabulary_size)
    whole = explainer.explain_ids(inputs, ids)
    original, failed = aggregate.score_and_accumulate, []

    def limited(d_out: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(d_out, *args, **kwargs)
        if len(d_out) > 3:
            failed.append(len(d_out))
            raise torch.OutOfMemoryError
        return result

    monkeypatch.setattr(aggregate, "score_and_accumulate", limited)
    with pytest.warns(UserWarning, match="out of memory with") as told:
        explanation = explainer.explain_ids(inputs, ids, row_chunk=8)
    assert failed == [8, 4]
    assert len(told) == 1
    assert_equal(explanation, whole)
    monkeypatch.setattr(
        aggregate, "score_and_accumulate", lambda *_, **__: (_ for _ in ()).throw(torch.OutOfMemoryError())
    )
    with pytest.raises(torch.OutOfMemoryError), pytest.warns(UserWarning, match="out of memory"):
        explainer.explain_ids(inputs, ids)


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "many", True])
def test_row_chunk_is_checked(wrong: Any) -> None:
    explainer = Explainer(CASES["llava"].model("sdpa"))
    with pytest.raises(InputError, match='row_chunk: expected a number of answer tokens from 1 on, or "auto"; got'):
        explainer.explain_ids({}, [1], row_chunk=wrong)
