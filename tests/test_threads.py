"""Many callers, one model: calls take turns, streams step aside, and whatever runs beside them is exact, too."""

import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest
import torch

from dexar_fast import Explainer, Explanation, InputError
from dexar_fast.models import turns
from dexar_fast.models.turns import turn_of

from .test_untouched import assert_same, state
from .tiny import IMAGE_TOKEN_ID, picture, tiny_answer, tiny_inputs, tiny_llava, tiny_processor

PATIENCE = 60  # seconds, for what comes at once if it comes at all


@pytest.fixture
def model():
    model = tiny_llava(dtype=torch.float32)
    model.generation_config.suppress_tokens = [IMAGE_TOKEN_ID, 0, 1, 2]
    model(**tiny_inputs(model))
    return model


def explain(explainer: Explainer, seed: int = 1, **options: Any) -> Explanation:
    return explainer.explain_ids(tiny_inputs(explainer.model, seed=seed), tiny_answer(4, seed=seed), **options)


def assert_exact(found: Explanation, expected: Explanation) -> None:
    np.testing.assert_array_equal(found.token_maps, expected.token_maps)
    np.testing.assert_array_equal(found.image_scores, expected.image_scores)


@contextmanager
def once_within(module: torch.nn.Module, act: Callable[[], Any], when: Callable[[], bool] = lambda: True) -> Iterator:
    """Do something the first time that the calling thread comes to a module."""
    thread = threading.get_ident()
    done: list[bool] = []

    def hook(*_: Any) -> None:
        if threading.get_ident() == thread and not done and when():
            done.append(True)
            act()

    handle = module.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()
    assert done


def beside(work: Callable[[], Any]) -> Any:
    """What another thread makes of it, and wait for it."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(timeout=PATIENCE)


def test_a_second_call_waits_for_the_first_and_says_so(model) -> None:
    """Through another explainer of the model, which is in train mode, with dropout."""
    one, other = Explainer(model), Explainer(model)
    expected = [explain(each, seed) for each, seed in ((one, 1), (other, 2))]
    for layer in model.model.language_model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.train()
    before = state(model)
    waiting = threading.Event()

    def progress(stage: str, done: int, total: int | None) -> None:
        if stage == "waiting":
            waiting.set()

    with ThreadPoolExecutor(1) as pool:
        futures = []

        def begin_other() -> None:
            futures.append(pool.submit(explain, other, 2, progress=progress))
            assert waiting.wait(PATIENCE)

        with once_within(model.model.language_model.layers[1], begin_other):
            first = explain(one, 1)
        second = futures[0].result(timeout=PATIENCE)
    assert_exact(first, expected[0])
    assert_exact(second, expected[1])
    assert_same(state(model), before)


def test_eight_threads_on_one_model(model) -> None:
    explainers = [Explainer(model, tiny_processor()) for _ in range(2)]
    expected = [explain(explainers[0], seed) for seed in range(8)]
    answer = explainers[0].explain(picture(), "what is it?", method="dexar", max_new_tokens=6)
    written = model.generate(**tiny_inputs(model), max_new_tokens=6, do_sample=False)
    model.train()

    def work(seed: int) -> None:
        explainer = explainers[seed % 2]
        for turn in range(3):
            if seed < 6:
                assert_exact(explain(explainer, seed), expected[seed])
            elif seed == 6:
                steps = list(
                    explainer.stream(picture(), "what is it?", method="dexar", max_new_tokens=6, block=1 + turn)
                )
                assert [step.token_id for step in steps] == answer.token_ids.tolist()
                for step, token_map in zip(steps, answer.token_maps, strict=True):
                    np.testing.assert_allclose(step.token_map, token_map, atol=1e-4)
            else:
                ids = model.generate(**tiny_inputs(model), max_new_tokens=6, do_sample=False)
                assert ids.tolist() == written.tolist()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
    finally:
        sys.setswitchinterval(interval)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("where", ["layers.1", "layers.1.mlp", "norm"])
def test_a_users_own_generate_beside(model, where: str) -> None:
    """In the middle of the answer pass; in a tail that runs again, with its attention replaced; behind all layers."""
    inputs = tiny_inputs(model)
    expected = explain(Explainer(model))
    written = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    found = []

    def generate() -> None:
        found.append(beside(lambda: model.generate(**inputs, max_new_tokens=5, do_sample=False)))

    replaying = lambda: "forward" in vars(model.model.language_model.layers[1].self_attn)  # noqa: E731
    when = replaying if where == "layers.1.mlp" else lambda: True
    with once_within(model.model.language_model.get_submodule(where), generate, when):
        assert_exact(explain(Explainer(model)), expected)
    assert found[0].tolist() == written.tolist()


def test_a_call_from_a_progress_callback_is_refused_as_that(model) -> None:
    one, other, elsewhere = Explainer(model), Explainer(model), Explainer(tiny_llava(seed=3, dtype=torch.float32))
    expected = explain(one)
    refused, right = [], []

    def progress(stage: str, done: int, total: int | None) -> None:
        for explainer in (one, other):
            with pytest.raises(InputError, match="progress: this call comes from within another one on the same model"):
                explain(explainer)
            refused.append(stage)
        right.append(explain(elsewhere))

    assert_exact(explain(one, progress=progress), expected)
    assert refused
    assert_exact(right[0], right[-1])
    assert_exact(explain(other), expected)


def test_two_models_that_wait_for_each_other(model) -> None:
    """Each in the progress callback of the other: one of them at least is told, and none hangs."""
    explainers = Explainer(model), Explainer(tiny_llava(seed=3, dtype=torch.float32))
    both = threading.Barrier(2)

    def work(index: int) -> str:
        mine, other = explainers[index], explainers[1 - index]
        met: list[bool] = []

        def progress(stage: str, done: int, total: int | None) -> None:
            if stage == "explaining" and not met:
                met.append(True)
                both.wait(PATIENCE)
                explain(other)

        try:
            explain(mine, progress=progress)
        except InputError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(2) as pool:
        told = [future.result(timeout=PATIENCE) for future in [pool.submit(work, index) for index in range(2)]]
    assert any("so neither would ever go on" in message for message in told)
    assert all("so neither would ever go on" in message for message in told if message)
    explain(explainers[0])


@pytest.mark.parametrize("return_exceptions", [False, True], ids=["raise", "return"])
def test_what_a_progress_callback_raises_ends_a_batch_at_once(model, return_exceptions: bool) -> None:
    class Stop(Exception):
        pass

    calls = []

    def progress(stage: str, done: int, total: int | None) -> None:
        calls.append(stage)
        if stage == "explaining" and done:
            raise Stop("enough")

    before = state(model)
    explainer = Explainer(model, tiny_processor())
    requests = [(picture(), "what is it?", answer) for answer in (" a", " b c", " red")]
    with pytest.raises(Stop, match="enough") as caught:
        list(explainer.explain_many(requests, progress=progress, return_exceptions=return_exceptions))
    assert calls.count("explaining") == 2
    assert caught.value.__cause__ is None
    assert_same(state(model), before)


@pytest.mark.parametrize("call", ["explain", "batch", "callback raises", "stream", "stream closed"])
def test_no_tensor_waits_for_the_garbage_collector(model, call: str) -> None:
    """It comes by rarely, and caches are large."""
    explainer = Explainer(model, tiny_processor())

    def fail(stage: str, done: int, total: int | None) -> None:
        if done:
            raise ZeroDivisionError

    def work() -> None:
        if call == "explain":
            explainer.explain(picture(), "what is it?", max_new_tokens=3, grounding=True)
        elif call == "batch":
            list(explainer.explain_many([(picture(), "what is it?", " a"), (picture(), "what is it?", " b")]))
        elif call == "callback raises":
            with suppress(ZeroDivisionError):
                explainer.explain(picture(), "what is it?", " a", progress=fail)
        else:
            with explainer.stream(picture(), "what is it?", max_new_tokens=3, block=1) as stream:
                next(stream)
                if call == "stream":
                    list(stream)

    work()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        work()
        gc.collect()
        left = [thing for thing in gc.garbage if isinstance(thing, torch.Tensor)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not left


def test_a_turn_of_ones_own(model) -> None:
    """What runs inside has the model alone, and as it is; calls inside are calls."""
    explainer = Explainer(model)
    expected, started = explain(explainer), threading.Event()

    def progress(stage: str, done: int, total: int | None) -> None:
        if stage == "waiting":
            started.set()

    with ThreadPoolExecutor(1) as pool:
        with explainer.turn():
            later = pool.submit(explain, explainer, progress=progress)
            assert started.wait(PATIENCE)
            weight = model.lm_head.weight.detach().clone()
            with torch.no_grad():
                model.lm_head.weight.mul_(-1)
            changed = explain(explainer)
            assert not later.done()
            with torch.no_grad():
                model.lm_head.weight.copy_(weight)
        assert_exact(later.result(timeout=PATIENCE), expected)
    assert (changed.image_scores != expected.image_scores).any()


def test_who_waits_in_vain_leaves_the_queue(model) -> None:
    """And who comes next gets the turn."""
    turn = turn_of(model)
    with turn:
        assert not beside(lambda: turn.take(within=0.0))
        assert not turn.wanted
    assert beside(lambda: turn.take(within=0.0))


def test_a_long_wait_is_announced(model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PATIENCE_SECONDS", 0.0)
    turn = turn_of(model)
    with (
        turn,
        pytest.warns(RuntimeWarning, match="for 0 s; it is the turn of thread 'MainThread'"),
    ):
        beside(lambda: turn.take(within=2 * turns.POLL_SECONDS))


@pytest.mark.parametrize("path", ["answer given", "answer written"])
def test_an_interrupt_leaves_the_model_as_it_was(model, path: str) -> None:
    """Wherever Ctrl-C comes: a signal at the n-th function that is entered or left, for many n."""
    explainer = Explainer(model, tiny_processor())

    def run() -> None:
        explainer.explain(picture(), "what is it?", " a" if path == "answer given" else None, max_new_tokens=1)

    def events(at: int | None) -> int:
        """Run, with a signal at the event of that number; returns how many there were."""
        seen = 0

        def count(frame: Any, event: str, _: Any) -> None:
            nonlocal seen
            if "/dexar_fast/" in frame.f_code.co_filename or frame.f_code.co_filename.endswith("contextlib.py"):
                seen += 1
                if seen == at:
                    signal.raise_signal(signal.SIGINT)

        sys.setprofile(count)
        try:
            run()
        finally:
            sys.setprofile(None)
        return seen

    run()
    model.train()
    before, handler = state(model), signal.getsignal(signal.SIGINT)
    total = events(None)
    for at in range(1, total, max(1, total // 30)):
        with pytest.raises(KeyboardInterrupt):
            events(at)
        assert signal.getsignal(signal.SIGINT) is handler
        after = state(model)
        for kind in ("hooks", "own attributes", "train flags", "registry"):
            assert after[kind] == before[kind], (at, kind)
    assert turn_of(model).take(within=0.0)


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def in_child(work: Callable[[], bool]) -> bool:
    """Whether it came true in a forked process, which ends by itself if it hangs."""
    child = os.fork()
    if not child:
        signal.alarm(PATIENCE)
        try:
            os._exit(0 if work() else 1)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


@forks
def test_a_fork_beside_a_stream(model) -> None:
    explainer = Explainer(model, tiny_processor())
    expected = explain(explainer)
    before = state(model)

    def child() -> bool:
        assert_same(state(model), before)
        assert_exact(explain(explainer), expected)
        with pytest.raises(InputError, match="stream: it is written in the process that opened it"):
            next(stream)
        stream.close()
        return True

    with explainer.stream(picture(), "what is it?", max_new_tokens=100, block=1) as stream:
        next(stream)
        assert all(in_child(child) for _ in range(3))
        assert next(stream).index == 1


@forks
def test_a_fork_while_the_model_is_not_given_back(model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child cannot mend what another thread left: it is told."""
    monkeypatch.setattr(turns, "FORK_SECONDS", 0.0)
    explainer = Explainer(model)
    expected = explain(explainer)

    def child() -> bool:
        with pytest.raises(InputError, match="model: this process was forked while another thread"):
            explain(explainer)
        return True

    with once_within(model.model.language_model.layers[1], lambda: results.append(beside(lambda: in_child(child)))):
        results: list[bool] = []
        assert_exact(explain(explainer), expected)
    assert results == [True]
