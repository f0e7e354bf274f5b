"""Maps while the answer is being written: those of `explain`, for any block, and a model left as it was."""

import asyncio
import threading
import time
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from dexar_fast import Explainer, InputError, NotFiniteError
from dexar_fast.runs.stream import StreamedToken

from .families.case import picture as family_picture
from .families.oracle import DoubleThroughout
from .families.test_families import CASES, explainer_of
from .families.test_rows import CACHED, assert_equal
from .test_untouched import assert_same, state
from .tiny import picture, tiny_llava, tiny_processor


@pytest.fixture
def explainer() -> Explainer:
    return Explainer(tiny_llava(), tiny_processor())


@pytest.mark.parametrize("case", CACHED.values(), ids=str)
def test_equals_explain(case) -> None:
    explainer = explainer_of(case)
    explainer.model.generation_config.suppress_tokens = [*explainer.decoder.placeholder_ids, 0, 1, 2]
    text, n_images = case.prompts[next(iter(case.prompts))]
    images = [family_picture((40, 30)), family_picture((21, 50), seed=1)][:n_images]
    steps: list[StreamedToken] = []
    with DoubleThroughout():
        whole = explainer.explain(images, text, max_new_tokens=7, grounding=True)
        inputs, _ = explainer.encode(images, text, "")
        with explainer.streamer(inputs, steps.append, image=images, block=3, grounding=True) as streamer:
            cache = streamer.cache
            explainer.model.generate(
                **inputs, streamer=streamer, past_key_values=cache, max_new_tokens=7, do_sample=False
            )
    assert [step.token_id for step in steps] == whole.token_ids.tolist()
    assert streamer.explanation is not None
    assert_equal(streamer.explanation, whole)
    assert whole.grounding is not None
    assert streamer.explanation.grounding is not None
    np.testing.assert_allclose(streamer.explanation.grounding, whole.grounding, atol=1e-9)
    assert [step.grounding for step in steps] == streamer.explanation.grounding.tolist()


@pytest.mark.parametrize("name", ["llava", "mllama", "gemma4"])
def test_generation_in_inference_mode(name: str) -> None:
    """Its tensors cannot take part in gradients."""
    explainer = explainer_of(CACHED[name])
    text, n_images = CACHED[name].prompts[next(iter(CACHED[name].prompts))]
    inputs, _ = explainer.encode([family_picture((40, 30))] * n_images, text, "")
    explainer.model.generation_config.suppress_tokens = [*explainer.decoder.placeholder_ids, 0, 1, 2]
    found = []
    for mode in (torch.no_grad, torch.inference_mode):
        with mode(), explainer.streamer(inputs, lambda _: None, block=2) as streamer:
            cache = streamer.cache
            explainer.model.generate(
                **inputs, streamer=streamer, past_key_values=cache, max_new_tokens=3, do_sample=False
            )
        assert streamer.explanation is not None
        found.append(streamer.explanation.image_scores)
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize("block", [1, 2, 5, 64])
def test_any_block(explainer: Explainer, block: int) -> None:
    whole = explainer.explain(picture(), "what is it?", max_new_tokens=5, row_chunk=block, method="dexar")
    stream = explainer.stream(picture(), "what is it?", max_new_tokens=5, block=block, method="dexar")
    steps = list(stream)
    assert "".join(step.token for step in steps) == "".join(whole.tokens)
    assert [step.index for step in steps] == list(range(len(whole.tokens)))
    for step in steps:
        np.testing.assert_array_equal(
            step.token_map, whole.token_maps[step.index]
        )  # the same rows at once: bit for bit
        np.testing.assert_array_equal(step.image_scores, whole.image_scores[step.index])
        assert step.token_weight == whole.token_weights[step.index]
        assert step.grounding is None
    assert stream.explanation is not None
    np.testing.assert_array_equal(stream.explanation.answer_map, whole.answer_map)


def test_generation_is_not_disturbed() -> None:
    """In half precision too, where a cache written anew would soon change the words."""
    explainer = Explainer(tiny_llava(dtype=torch.bfloat16), tiny_processor())
    whole = explainer.explain(picture(), "what is it?", max_new_tokens=24)
    steps = list(explainer.stream(picture(), "what is it?", max_new_tokens=24, block=3))
    assert [step.token_id for step in steps] == whole.token_ids.tolist()


def test_a_character_of_several_tokens_comes_with_the_last(explainer: Explainer) -> None:
    """And no replacement character before, however the blocks fall."""
    inputs, ids = explainer.encode([picture()], "what is it?", "a 🦊!")
    for block in (1, 2, 3):
        steps: list[StreamedToken] = []
        with explainer.streamer(inputs, steps.append, block=block) as streamer:
            write_as_told(explainer, inputs, ids, streamer)
        assert "".join(step.token for step in steps) == "a 🦊!"
        assert streamer.explanation is not None
        assert streamer.explanation.tokens == [step.token for step in steps]


def write_as_told(explainer: Explainer, inputs, ids, streamer) -> None:
    def next_token(_, of_prompt_and_answer):
        return [int(ids[of_prompt_and_answer.shape[-1] - inputs["input_ids"].shape[1]])]

    explainer.model.generate(
        **inputs,
        streamer=streamer,
        past_key_values=streamer.cache,
        do_sample=False,
        max_new_tokens=len(ids),
        prefix_allowed_tokens_fn=next_token,
    )


def test_tokens_come_before_the_answer_ends(explainer: Explainer) -> None:
    stream = explainer.stream(picture(), "what is it?", max_new_tokens=400, block=2)
    next(stream)
    assert stream.explanation is None
    stream.close()
    assert list(stream) == []


def test_a_stream_that_is_closed_leaves_the_model_as_it_was(explainer: Explainer) -> None:
    list(explainer.stream(picture(), "what is it?", max_new_tokens=1))  # `generate` itself notes things on a model
    explainer.model.train()
    before, threads = state(explainer.model), threading.active_count()
    with explainer.stream(picture(), "what is it?", max_new_tokens=200, block=1) as stream:
        next(stream)
    assert_same(state(explainer.model), before)
    assert threading.active_count() == threads


def test_errors_come_out_where_the_stream_is_read(explainer: Explainer) -> None:
    with torch.no_grad():
        explainer.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(NotFiniteError, match="NaN or infinite, first at layer 0, token 0"):
        list(explainer.stream(picture(), "what is it?", max_new_tokens=4, block=2))


def test_asynchronous(explainer: Explainer) -> None:
    async def read() -> list[int]:
        return [step.token_id async for step in explainer.stream(picture(), "what is it?", max_new_tokens=4, block=2)]

    assert asyncio.run(read()) == explainer.explain(picture(), "what is it?", max_new_tokens=4).token_ids.tolist()


def test_streamer_for_the_callers_own_generate(explainer: Explainer) -> None:
    inputs, _ = explainer.encode([picture()], "what is it?", "")
    steps: list[StreamedToken] = []
    torch.manual_seed(3)
    with explainer.streamer(inputs, steps.append, block=2) as streamer:
        ids = explainer.model.generate(
            **inputs, streamer=streamer, past_key_values=streamer.cache, do_sample=True, max_new_tokens=5
        )
    sampled = ids[0, inputs["input_ids"].shape[1] :]
    assert [step.token_id for step in steps] == sampled.tolist()
    assert streamer.explanation is not None
    alone = explainer.explain_ids(inputs, sampled)
    np.testing.assert_allclose(streamer.explanation.token_maps, alone.token_maps, atol=1e-5)


def test_refused(explainer: Explainer) -> None:
    with pytest.raises(InputError, match="block: expected"):
        explainer.stream(picture(), "what is it?", block=0)
    florence = explainer_of(CASES["florence2"])
    with pytest.raises(InputError, match="do not run over a cache"):
        florence.stream(family_picture((40, 30)), "what is it")


def own_generate(explainer: Explainer, *, enter: bool = True, own_cache: bool = True, **options) -> list[StreamedToken]:
    inputs, _ = explainer.encode([picture()], "what is it?", "")
    steps: list[StreamedToken] = []
    streamer = explainer.streamer(inputs, steps.append, block=2)
    cache = {"past_key_values": streamer.cache} if own_cache else {}
    with streamer if enter else nullcontext():
        explainer.model.generate(**inputs, streamer=streamer, max_new_tokens=6, do_sample=False, **cache, **options)
    return steps


@pytest.mark.parametrize(
    "wrong",
    [{"own_cache": False}, {"use_cache": False}, {"enter": False}],
    ids=["another cache", "no cache", "not entered"],
)
def test_misuse_of_the_streamer_is_told(explainer: Explainer, wrong) -> None:
    with pytest.raises(InputError, match=r"generate: expected a cache of|streamer: expected to be entered"):
        own_generate(explainer, **wrong)


def test_a_streamer_serves_once(explainer: Explainer) -> None:
    inputs, _ = explainer.encode([picture()], "what is it?", "")
    streamer = explainer.streamer(inputs, lambda token: None)
    with streamer:
        pass
    with pytest.raises(InputError, match="it has served already"), streamer:
        pass


def test_an_end_token_within_the_answer_belongs_to_it(explainer: Explainer) -> None:
    usual = own_generate(explainer)
    explainer.model.generation_config.eos_token_id = usual[2].token_id
    steps = own_generate(explainer, eos_token_id=499)
    assert [step.token_id for step in steps] == [step.token_id for step in usual]
    for step, wanted in zip(steps, usual, strict=True):
        np.testing.assert_array_equal(step.token_map, wanted.token_map)


def test_a_model_that_ends_at_once(explainer: Explainer) -> None:
    first = explainer.explain(picture(), "what is it?", max_new_tokens=1).token_ids[0]
    explainer.model.generation_config.eos_token_id = int(first)
    with pytest.raises(InputError, match="ended its answer at once"):
        list(explainer.stream(picture(), "what is it?"))


def test_a_program_may_end_while_a_stream_runs(run_python) -> None:
    code = (
        "from dexar_fast import Explainer\n"
        "from dexar_fast.demo.scenes import draw_scene\n"
        "stream = Explainer.from_pretrained('demo').stream(draw_scene(1).image, 'describe the image', block=1)\n"
        "print(next(stream).index)"
    )
    assert run_python(code) == "0"


def test_an_error_is_not_lost_when_a_stream_is_closed(explainer: Explainer) -> None:
    with torch.no_grad():
        explainer.model.lm_head.weight.fill_(float("nan"))
    stream = explainer.stream(picture(), "what is it?", max_new_tokens=4, block=2)
    while stream.running:
        time.sleep(0.01)
    with pytest.raises(NotFiniteError):
        stream.close()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens: expected a number of tokens from 1 on; got 0"),
        ({"max_new_tokens": 2.5}, r"max_new_tokens: .*; got 2\.5"),
        ({"block": "x"}, "block: expected a number of tokens from 1 on; got 'x'"),
        ({"block": True}, "block: .*; got True"),
        ({"text_set": "content_only"}, "text_set: expected one of all_non_image, generated_only while streaming"),
    ],
    ids=["no tokens", "half a token", "block of text", "block of truth", "text set"],
)
def test_arguments_are_checked_before_the_model_runs(explainer: Explainer, wrong, message: str) -> None:
    with pytest.raises(InputError, match=message):
        explainer.stream(picture(), "what is it?", **wrong)
