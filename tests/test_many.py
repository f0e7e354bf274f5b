"""Many requests in batches: the same results as one by one, in order, whatever else is in the batch."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from dexar_fast import (
    DexarFastError,
    Explainer,
    ExplainIdsRequest,
    ExplainRequest,
    Explanation,
    InputError,
    NotFiniteError,
    SelfCheckError,
)
from dexar_fast.engine import aggregate
from dexar_fast.models.state import evaluating
from dexar_fast.runs.many import AnyRequest

from .test_untouched import assert_same, state
from .tiny import IMAGE_TOKEN_ID, picture, tiny_answer, tiny_inputs, tiny_llava, tiny_processor, with_float64_norms

EXACT = 1e-10
ARRAYS = (
    "token_maps",
    "answer_map",
    "token_map_ranges",
    "token_weights",
    "image_scores",
    "text_scores",
    "unfiltered_token_maps",
    "unfiltered_answer_map",
    "log_probabilities",
)


def explainer_of(text: str = "llama", **shape: Any) -> Explainer:
    return Explainer(with_float64_norms(tiny_llava(text, **shape)), tiny_processor())


def requests() -> list[AnyRequest]:
    """Prompts and answers of all lengths, one image and two, the same prompt apart and behind one another."""
    wide, high = picture(), picture(21, 50)
    return [
        ExplainRequest(wide, "what is it?", "a small red square on the left"),
        (high, "two blue stars", "two"),
        ([wide, high], "what is on the left and what is on the right?", "a green circle and a red square"),
        (wide.copy(), "what is it?", "blue stars"),  # the same pixels
        (high, "what is it?", "a"),
    ]


def one_by_one(explainer: Explainer, given: list[Any], **options: Any) -> list[Explanation]:
    found = []
    for request in given:
        if isinstance(request, ExplainIdsRequest):
            found.append(explainer.explain_ids(request.model_inputs, request.answer_ids, **options))
        elif isinstance(request, ExplainRequest):
            found.append(explainer.explain(request.image, request.prompt, request.answer, **options))
        else:
            found.append(explainer.explain(*request, **options))
    return found


def assert_equal(found: Any, wanted: Explanation) -> None:
    assert isinstance(found, Explanation), found
    for name in ARRAYS:
        ours, theirs = getattr(found, name), getattr(wanted, name)
        assert (ours is None) == (theirs is None), name
        for a, w in zip(as_tuple(ours), as_tuple(theirs), strict=True):
            assert a.shape == w.shape
            np.testing.assert_allclose(a, w, rtol=0, atol=EXACT * max(1, np.abs(w).max()), err_msg=name)
    for field in ("tokens", "grid", "layers", "targets", "foils"):
        assert getattr(found, field) == getattr(wanted, field)
    assert [image.tobytes() for image in as_tuple(found.image)] == [image.tobytes() for image in as_tuple(wanted.image)]
    assert without_notes(found) == without_notes(wanted)


def as_tuple(value: Any) -> tuple[Any, ...]:
    return () if value is None else value if isinstance(value, tuple) else (value,)


def without_notes(e: Explanation) -> dict[str, Any]:
    return {name: value for name, value in e.settings.items() if name not in ("batch", "cache")}


def batches(found: list[Any]) -> list[int]:
    return [e.settings["batch"] for e in found]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalization": "reference", "unfiltered": True},
        {"layers": [2, 0]},
        {"method": "dexar-scores"},
        {"method": "dexar-attention", "unfiltered": True},
        {"text_set": "content_only"},
        {"text_set": "generated_only", "thumbnail": "only"},
        {"grounding": True},
        {"contrast": "green", "method": "dexar-contribution"},
    ],
    ids=str,
)
def test_equals_one_by_one(options: dict[str, Any]) -> None:
    explainer = explainer_of()
    found = list(explainer.explain_many(requests(), **options))
    assert batches(found) == [5] * 5
    for ours, wanted in zip(found, one_by_one(explainer, requests(), **options), strict=True):
        assert_equal(ours, wanted)


@pytest.mark.parametrize("window", [4, 12], ids=lambda w: f"window {w}")
def test_sliding_window(window: int) -> None:
    explainer = explainer_of("mistral", sliding_window=window)
    for ours, wanted in zip(explainer.explain_many(requests()), one_by_one(explainer, requests()), strict=True):
        assert_equal(ours, wanted)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_attention_and_dtype(attention: str, dtype: torch.dtype) -> None:
    """At most twice as far from float64 as one by one."""
    exact = one_by_one(Explainer(tiny_llava(), tiny_processor()), requests(), method="dexar")
    explainer = Explainer(tiny_llava(dtype=dtype, attention=attention), tiny_processor())
    found = list(explainer.explain_many(requests(), method="dexar"))
    assert batches(found) == [5] * 5
    for name in ("image_scores", "text_scores", "token_weights"):
        ours, alone = (
            max(np.abs(getattr(e, name) - getattr(w, name)).max() for e, w in zip(each, exact, strict=True))
            for each in (found, one_by_one(explainer, requests(), method="dexar"))
        )
        assert 0 < ours <= 2 * alone, name


@pytest.mark.parametrize(
    "options", [{"method": "attention"}, {"method": "attention-gradient"}, {"targets": "words"}], ids=str
)
def test_what_has_no_batches_goes_one_by_one(options: dict[str, Any]) -> None:
    explainer = explainer_of()
    given = requests()[:2]
    found = list(explainer.explain_many(given, **options))
    assert batches(found) == [1, 1]
    for ours, wanted in zip(found, one_by_one(explainer, given, **options), strict=True):
        assert_equal(ours, wanted)


def test_answers_made_elsewhere() -> None:
    model = tiny_llava()
    explainer = Explainer(model)  # without a processor
    first, second = tiny_inputs(model), tiny_inputs(model, before=1, after=9, seed=4)
    given = [
        ExplainIdsRequest(first, tiny_answer(5)),
        ExplainIdsRequest(second, tiny_answer(2, seed=3)[None]),
        ExplainIdsRequest({name: value.clone() for name, value in first.items()}, tiny_answer(1).tolist()),
    ]
    found = list(explainer.explain_many(given))
    assert [e.settings["cache"] for e in found] == ["new", "new", "reused"]
    assert batches(found) == [3, 3, 3]
    for ours, wanted in zip(found, one_by_one(explainer, given), strict=True):
        assert_equal(ours, wanted)


def test_the_models_own_answers() -> None:
    explainer = explainer_of()
    explainer.model.generation_config.suppress_tokens = [IMAGE_TOKEN_ID, 0, 1, 2]
    shorter = picture(), "what is it?", "a"
    given: list[Any] = [(picture(), "what is it?"), requests()[0], (picture(21, 50), "two blue stars", None), shorter]
    for batch_size in (1, 4):
        found = list(explainer.explain_many(given, max_new_tokens=4, batch_size=batch_size))
        if batch_size > 1:
            assert [e.settings["cache"] for e in found] == ["reused"] * 4, "what generation left serves all"
        assert [e.settings["generated"] for e in found] == [True, False, True, False]
        for ours, wanted in zip(found, one_by_one(explainer, given, max_new_tokens=4), strict=True):
            assert_equal(ours, wanted)


def test_order_and_batches() -> None:
    """Read lazily, one batch when it is due."""
    explainer = explainer_of()
    read = []

    def reading() -> Iterator[Any]:
        for number, request in enumerate([*requests(), *requests()[:2]]):
            read.append(number)
            yield request

    iterator = explainer.explain_many(reading(), batch_size=3)
    assert read == []
    first = next(iterator)
    assert read == [0, 1, 2]
    found = [first, *iterator]
    assert batches(found) == [3, 3, 3, 3, 3, 3, 1]
    for ours, wanted in zip(found, one_by_one(explainer, [*requests(), *requests()[:2]]), strict=True):
        assert_equal(ours, wanted)
    assert list(explainer.explain_many([])) == []


def test_a_prompt_runs_once() -> None:
    """For all its answers in a batch, and in the next one if they follow."""
    explainer = explainer_of()
    looked: list[int] = []
    explainer.model.model.vision_tower.register_forward_hook(lambda *_: looked.append(1))
    image = picture()
    answers = ["a", "a red square", "two", "blue stars", "a circle"]
    found = list(explainer.explain_many(((image, "what is it?", answer) for answer in answers), batch_size=3))
    assert len(looked) == 1
    assert [e.settings["cache"] for e in found] == ["new", *["reused"] * 4]
    looked.clear()
    list(
        explainer.explain_many(
            [(image, "what is it?", "a"), (image, "what is on it?", "a"), (image, "what is it?", "b")]
        )
    )
    assert len(looked) == 2


def test_long_answers_run_in_smaller_groups() -> None:
    explainer = explainer_of()
    given: list[Any] = [(picture(), "what is it?", "a " * n) for n in (2, 3, 1, 30, 2, 2)]
    longest = len(explainer.explain(*given[1]).tokens)
    found = list(explainer.explain_many(given, row_chunk=3 * longest))
    assert batches(found) == [3, 3, 3, 1, 2, 2]
    for ours, wanted in zip(found, one_by_one(explainer, given, row_chunk=3 * longest), strict=True):
        assert_equal(ours, wanted)


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "no image": (("nowhere.jpg", "what is it?", "a"), InputError, "no file nowhere.jpg"),
    "empty answer": ((picture(), "what is it?", ""), InputError, "answer: expected at least one token"),
    "empty prompt": ((picture(), " ", "a"), InputError, "prompt: expected text"),
    "four fields": ((picture(), "a", "b", "c"), InputError, r"requests: expected ExplainRequest.*; got a tuple of 4"),
    "no request": ("what is it?", InputError, "requests: expected ExplainRequest.*; got str"),
    "no input_ids": (ExplainIdsRequest({}, [5]), InputError, "model_inputs: expected input_ids"),
    "unknown id": (ExplainIdsRequest(tiny_inputs(tiny_llava()), [5000]), InputError, "answer: expected ids from 0"),
    "pixels that the model refuses": (
        ExplainIdsRequest({**tiny_inputs(tiny_llava()), "pixel_values": torch.zeros(1, 3, 26, 24)}, [5]),
        ValueError,
        "Input image size",
    ),
    "not finite": (
        ExplainIdsRequest({**tiny_inputs(tiny_llava()), "pixel_values": torch.full((1, 3, 24, 24), torch.nan)}, [5, 6]),
        NotFiniteError,
        "gradients are NaN or infinite, first at layer 0",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_spoils_no_other(name: str) -> None:
    explainer = explainer_of()
    bad, kind, message = BAD[name]
    given = [requests()[0], requests()[1], bad, *requests()[2:]]
    found = list(explainer.explain_many(given, batch_size=4, return_exceptions=True))
    assert isinstance(found[2], kind)
    if isinstance(found[2], DexarFastError):
        assert str(found[2]).startswith("request 2: ")
    else:
        assert "This is about request 2." in found[2].__notes__
    wanted = one_by_one(explainer, requests())
    for ours, alone in zip([*found[:2], *found[3:]], wanted, strict=True):
        assert_equal(ours, alone)
    iterator = explainer.explain_many(given, batch_size=4)
    assert_equal(next(iterator), wanted[0])
    assert_equal(next(iterator), wanted[1])
    with pytest.raises(kind, match=message):
        next(iterator)
    assert list(iterator) == []


@pytest.mark.parametrize("name", ["no image", "pixels that the model refuses", "not finite"])
def test_an_error_holds_no_tensors(name: str) -> None:
    """Who collects errors of a long run does not collect caches."""
    *_, error = explainer_of().explain_many([*requests(), BAD[name][0]], return_exceptions=True)
    assert isinstance(error, BAD[name][1])
    frames = []
    link: BaseException | None = error
    while link is not None:
        trace = link.__traceback__
        while trace is not None:
            frames.append(trace.tb_frame)
            trace = trace.tb_next
        link = link.__cause__
    assert frames, "where it came from can still be read"
    assert all(not frame.f_locals for frame in frames)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_set": np.ones(9, bool)}, r"text_set: expected a name; got a mask.* Use explain\(\)"),
        ({"text_set": "some"}, "text_set: expected one of"),
        ({"batch_size": 0}, "batch_size: expected a number of requests from 1 on; got 0"),
        ({"batch_size": 2.0}, "batch_size: expected"),
        ({"batch_size": True}, "batch_size: expected"),
        ({"layers": 7}, "layers: 7 is out of range"),
        ({"row_chunk": 0}, "row_chunk: expected"),
    ],
    ids=str,
)
def test_options_are_checked_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        explainer_of().explain_many([], **options)


def test_unknown_option() -> None:
    with pytest.raises(TypeError, match="colour"):
        explainer_of().explain_many([], colour="red")  # type: ignore[call-overload]


def test_model_is_as_it_was_between_results() -> None:
    """After a result, after an error, after the iterator was abandoned."""
    explainer = explainer_of()
    model = explainer.model
    model.train()
    model(**tiny_inputs(model))  # transformers notes on the modules that it has run them
    before = state(model)
    iterator = explainer.explain_many([*requests(), None], batch_size=2)  # type: ignore[list-item]
    for _ in range(2):
        next(iterator)
        assert_same(dict(before), state(model))
    next(iterator)
    iterator.close()  # type: ignore[attr-defined]
    assert_same(dict(before), state(model))
    with pytest.raises(InputError, match="request 1"):
        list(explainer.explain_many([requests()[0], None]))  # type: ignore[list-item]
    assert_same(dict(before), state(model))


def test_model_is_as_it_was_after_an_error_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, gradient: Any, keys: Any) -> None:
        if gradient.attention.layer == 1:
            raise RuntimeError("in the middle")

    explainer = explainer_of()
    explainer.model(**tiny_inputs(explainer.model))
    before = state(explainer.model)
    monkeypatch.setattr(aggregate.Accumulator, "add", fail)
    with pytest.warns(
        UserWarning, match=r"failed together, and are explained one by one \(RuntimeError: in the middle\)"
    ):
        found = list(explainer.explain_many(requests(), return_exceptions=True))
    assert [str(error) for error in found] == ["in the middle"] * 5
    assert_same(before, state(explainer.model))


def test_a_model_that_does_not_take_padding_goes_one_by_one() -> None:
    """The self-check of the first padded batch sees it, and says so; an unpadded batch is none of its business."""
    explainer = explainer_of()

    def forget(_m: Any, args: Any, kwargs: Any) -> Any:
        return (args, {**kwargs, "attention_mask": None}) if len(kwargs["inputs_embeds"]) > 1 else None

    wanted = one_by_one(explainer, requests())
    explainer.model.model.language_model.register_forward_pre_hook(forget, with_kwargs=True)
    same_length = [requests()[0], requests()[3]]
    assert batches(list(explainer.explain_many(same_length))) == [2, 2]
    with pytest.warns(UserWarning, match=r"5 requests failed together.*SelfCheckError: self-check of family 'llava'"):
        found = list(explainer.explain_many(requests()))
    assert batches(found) == [1] * 5
    for ours, alone in zip(found, wanted, strict=True):
        assert_equal(ours, alone)


def test_a_model_that_counts_positions_in_its_own_way_goes_one_by_one() -> None:
    """Attention is what it seems, row by row; only the rows alone tell that they were moved."""
    explainer = explainer_of()
    wanted = one_by_one(explainer, requests())

    def moved(_m: Any, args: Any, kwargs: Any) -> Any:
        return (args, {**kwargs, "position_ids": None}) if len(kwargs["inputs_embeds"]) > 1 else None

    explainer.model.model.language_model.register_forward_pre_hook(moved, with_kwargs=True)
    with pytest.warns(UserWarning, match="the answer pass of several requests together differs from the model's"):
        found = list(explainer.explain_many(requests()))
    for ours, alone in zip(found, wanted, strict=True):
        assert_equal(ours, alone)


def test_a_layer_that_mixes_positions_is_found() -> None:
    explainer = explainer_of()
    explainer.model.model.language_model.layers[1].mlp.register_forward_hook(
        lambda _m, _a, out: out - out.mean(dim=1, keepdim=True)
    )
    with pytest.warns(UserWarning, match="SelfCheckError"):
        found = list(explainer.explain_many(requests()[:2], return_exceptions=True))
    assert all(isinstance(error, SelfCheckError) for error in found)


def test_each_layer_is_checked_once_with_padding_and_once_without(monkeypatch: pytest.MonkeyPatch) -> None:
    from dexar_fast.engine import pipeline

    checked = []
    monkeypatch.setattr(pipeline, "check_layer", lambda _d, gradient, _k, _l: checked.append(gradient.attention.layer))
    explainer = explainer_of()
    same = [(picture(), "what is it?", "a"), (picture(), "what is it?", "a red square")]
    for _ in range(2):
        list(explainer.explain_many(same, layers=-1))
        list(explainer.explain_many(same))
        list(explainer.explain_many(requests()))
    assert checked == [2, 0, 1, 0, 1, 2]


def test_half_as_many_where_memory_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    explainer = explainer_of()
    wanted = one_by_one(explainer, requests())
    longest = max(len(e.tokens) for e in wanted)
    original, failed = aggregate.score_and_accumulate, []

    def limited(d_out: Any, *args: Any, **kwargs: Any) -> Any:
        if len(d_out) > longest + 1:
            failed.append(len(d_out))
            raise torch.OutOfMemoryError
        return original(d_out, *args, **kwargs)

    monkeypatch.setattr(aggregate, "score_and_accumulate", limited)
    with pytest.warns(UserWarning, match=r"out of memory with \d requests at once: going on with half as many") as told:
        found = list(explainer.explain_many([*requests(), *requests()]))
    assert failed
    assert len(told) == 1
    assert set(batches(found)) <= {1, 2}
    for ours, alone in zip(found, [*wanted, *wanted], strict=True):
        assert_equal(ours, alone)


@pytest.mark.parametrize("where", ["generate_answer", "score_and_accumulate"])
def test_caches_that_wait_make_room(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caches of other prompts need not be there while the model writes, or while one request is explained."""
    from dexar_fast.engine import engine as module

    explainer = explainer_of()
    given: list[Any] = [(picture(), "what is it?"), (picture(21, 50), "two"), (picture(), "blue stars")]
    explainer.model.generation_config.suppress_tokens = [IMAGE_TOKEN_ID, 0, 1, 2]
    wanted = one_by_one(explainer, given, max_new_tokens=3, targets="words", row_chunk=1)
    generate, score = module.generate_answer, aggregate.score_and_accumulate
    caches: list[weakref.ref[torch.Tensor]] = []
    refused = []

    def room(name: str, most: int) -> None:
        if name == where and sum(keys() is not None for keys in caches) > most:
            refused.append(name)
            raise torch.OutOfMemoryError

    def limited_generate(*args: Any) -> Any:
        room("generate_answer", 0)
        ids, ran = generate(*args)
        assert ran is not None
        assert ran.cache is not None
        caches.append(weakref.ref(ran.cache.layers[0].keys))
        return ids, ran

    def limited_score(*args: Any, **kwargs: Any) -> Any:
        room("score_and_accumulate", 1)
        return score(*args, **kwargs)

    monkeypatch.setattr(module, "generate_answer", limited_generate)
    monkeypatch.setattr(aggregate, "score_and_accumulate", limited_score)
    with pytest.warns(UserWarning, match="out of memory beside the caches of a batch's prompts") as told:
        found = list(explainer.explain_many(given, max_new_tokens=3, targets="words", row_chunk=1))
    assert refused
    assert len(told) == 1
    for ours, alone in zip(found, wanted, strict=True):
        assert_equal(ours, alone)


def test_a_request_too_large_for_the_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(aggregate, "score_and_accumulate", full)
    with pytest.warns(UserWarning, match="out of memory"):
        found: list[Any] = list(explainer_of().explain_many(requests()[:2], return_exceptions=True))
    assert [(type(error), error.__notes__) for error in found] == [
        (torch.OutOfMemoryError, [f"This is about request {number}."]) for number in range(2)
    ]


def test_progress_of_every_batch() -> None:
    told: list[tuple[str, int, int | None]] = []
    list(explainer_of().explain_many(requests(), batch_size=3, progress=lambda *step: told.append(step)))
    assert told == 2 * [("explaining", done, 3) for done in range(4)]


def test_within_inference_mode() -> None:
    explainer = explainer_of()
    wanted = one_by_one(explainer, requests())
    with torch.inference_mode():
        for ours, alone in zip(explainer.explain_many(requests()), wanted, strict=True):
            assert torch.is_inference_mode_enabled()
            assert_equal(ours, alone)
    with evaluating(explainer.model):
        assert len(list(explainer.explain_many(requests()))) == 5
