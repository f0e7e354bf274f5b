"""Readers of a stream: no token is lost, nobody waits for ever, and nobody has to wait for an answer nobody reads."""

import _thread
import asyncio
import gc
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from dexar_fast import Explainer, InputError
from dexar_fast.models.turns import turn_of
from dexar_fast.runs.stream import StreamedToken

from .families.case import picture as family_picture
from .families.test_families import explainer_of
from .families.test_rows import CACHED
from .tiny import IMAGE_TOKEN_ID, picture, tiny_llava, tiny_processor

PATIENCE = 60  # seconds, for what comes at once if it comes at all
TOKENS = 12


class Gate:
    """Stops a stream's thread inside the model, before it writes the next token."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.reached = threading.Event()

    def __call__(self, *_: object) -> None:
        if threading.current_thread().name == "dexar-fast stream":
            self.reached.set()
            last = time.monotonic() + PATIENCE
            while not self.open.wait(0.01):
                self.reached.set()  # again: it may have been cleared just after
                assert time.monotonic() < last

    def close(self) -> None:
        self.open.clear()
        self.reached.clear()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


@pytest.fixture
def explainer(gate: Gate) -> Explainer:
    model = tiny_llava(dtype=torch.float32)
    model.generation_config.suppress_tokens = [IMAGE_TOKEN_ID, 0, 1, 2]
    model.model.language_model.register_forward_pre_hook(gate)
    return Explainer(model, tiny_processor())


def opened(explainer: Explainer, tokens: int = TOKENS):
    return explainer.stream(picture(), "what is it?", method="dexar", max_new_tokens=tokens, block=2)


def indices(steps: list[StreamedToken]) -> list[int]:
    return [step.index for step in steps]


def ended(stream) -> bool:
    stream._writing.thread.join(PATIENCE)
    return not stream.running


def test_a_wait_that_is_cancelled_loses_no_token(explainer: Explainer, gate: Gate) -> None:
    async def read() -> list[StreamedToken]:
        gate.close()
        stream = opened(explainer)
        for _ in range(3):
            waiting = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext(stream), timeout=0.001)
        gate.open.set()
        return [step async for step in stream]

    steps = asyncio.run(asyncio.wait_for(read(), PATIENCE))
    assert indices(steps) == list(range(TOKENS))


def test_a_task_that_is_cancelled_leaves_no_thread(explainer: Explainer, gate: Gate) -> None:
    """As when a web server's client goes away: the loop ends, and so does the stream."""
    streams = []

    async def serve() -> None:
        stream = opened(explainer, 200)
        streams.append(stream._writing)
        async for _ in stream:
            gate.close()

    async def main() -> None:
        task = asyncio.create_task(serve())
        while not gate.reached.is_set():
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    gc.collect()
    gate.open.set()
    streams[0].thread.join(PATIENCE)
    assert not streams[0].thread.is_alive()
    assert streams[0].streamer.explanation is None


@pytest.mark.parametrize("asynchronous", [False, True], ids=["threads", "tasks"])
def test_several_readers_of_one_stream(explainer: Explainer, asynchronous: bool) -> None:
    """Each token goes to one of them, and all come to the end."""
    stream = opened(explainer)
    if asynchronous:

        async def read() -> list[StreamedToken]:
            return [step async for step in stream]

        async def both() -> list[list[StreamedToken]]:
            return list(await asyncio.gather(read(), read()))

        parts = asyncio.run(asyncio.wait_for(both(), PATIENCE))
    else:
        with ThreadPoolExecutor(2) as pool:
            futures = [pool.submit(list, stream) for _ in range(2)]
            parts = [future.result(timeout=PATIENCE) for future in futures]
    assert sorted(indices([*parts[0], *parts[1]])) == list(range(TOKENS))
    assert list(stream) == []


def test_the_end_of_a_stream_that_is_closed_reaches_who_waits(explainer: Explainer, gate: Gate) -> None:
    gate.close()
    stream = opened(explainer)
    with ThreadPoolExecutor(2) as pool:
        reader = pool.submit(list, stream)
        assert gate.reached.wait(PATIENCE)
        closer = pool.submit(stream.close)
        gate.open.set()
        closer.result(timeout=PATIENCE)
        assert reader.result(timeout=PATIENCE) == []


def test_a_finaliser_does_not_wait(explainer: Explainer, gate: Gate) -> None:
    """It may run anywhere, also where the stream's thread waits for what is being done there."""
    gate.close()
    stream = opened(explainer)
    assert gate.reached.wait(PATIENCE)
    writing = stream._writing
    del stream
    gc.collect()
    assert writing.thread.is_alive()
    assert writing.stopped
    gate.open.set()
    writing.thread.join(PATIENCE)
    assert not writing.thread.is_alive()


def test_explaining_while_a_stream_is_written(explainer: Explainer) -> None:
    """In the reader's own loop, through another explainer, with the model in train mode: all exact."""
    expected = explainer.explain(picture(), "what is it?", method="dexar", max_new_tokens=TOKENS)
    explainer.model.train()
    other = Explainer(explainer.model, explainer.processor)
    alone = other.explain(picture(50, 20), "is it red?", " a star")
    stream, steps = opened(explainer), []
    for step in stream:
        steps.append(step)
        found = other.explain(picture(50, 20), "is it red?", " a star")
        np.testing.assert_array_equal(found.token_maps, alone.token_maps)
    assert [step.token_id for step in steps] == expected.token_ids.tolist()
    np.testing.assert_allclose([step.token_map for step in steps], expected.token_maps, atol=1e-4)
    assert all(module.training for module in explainer.model.modules())


def test_two_streams_on_one_model(explainer: Explainer) -> None:
    first, second = opened(explainer), opened(explainer)
    steps = list(zip(first, second, strict=True))
    assert len(steps) == TOKENS
    for one, other in steps:
        np.testing.assert_array_equal(one.token_map, other.token_map)


def test_a_stream_that_only_a_traceback_holds(explainer: Explainer, gate: Gate) -> None:
    """As in a notebook, after an error in the loop: the next call is right, and close_stream() ends it."""

    def read() -> None:
        stream = opened(explainer, 200)  # in a variable: an iterator alone goes with the loop
        for _ in stream:
            gate.close()
            raise RuntimeError("in the loop")

    with pytest.raises(RuntimeError) as held:
        read()
    assert gate.reached.wait(PATIENCE)
    gate.open.set()
    explainer.explain(picture(), "what is it?", " a")
    explainer.close_stream()
    assert all(thread.name != "dexar-fast stream" for thread in threading.enumerate())
    assert held.value.__traceback__ is not None


def test_an_interrupt_while_reading_ends_the_stream(explainer: Explainer) -> None:
    stream = opened(explainer, 200)
    calls: list[int] = []

    def interrupt(*_: object) -> None:
        if threading.current_thread().name == "dexar-fast stream":
            calls.append(len(calls))
            if len(calls) == 4:
                _thread.interrupt_main()

    explainer.model.model.language_model.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        for _ in stream:
            pass
    assert ended(stream)
    assert stream.explanation is None


@pytest.mark.parametrize("how", ["turn", "progress"])
def test_reading_where_the_stream_cannot_go_on_is_refused(explainer: Explainer, gate: Gate, how: str) -> None:
    gate.close()
    stream = opened(explainer)
    refused: list[bool] = []

    def read(*_: object) -> None:
        if not refused:
            with pytest.raises(InputError, match="stream: its next token waits for the model, which this thread has"):
                list(stream)
            stream.close()  # and this does not wait
            refused.append(True)

    def read_while_explaining(stage: str, done: int, total: int | None) -> None:
        if stage == "explaining":
            read()

    assert gate.reached.wait(PATIENCE)
    threading.Thread(target=open_when_wanted, args=(explainer, gate)).start()
    if how == "turn":
        with explainer.turn():
            read()
    else:
        explainer.explain(picture(), "what is it?", " a", progress=read_while_explaining)
    assert refused
    assert ended(stream)


def open_when_wanted(explainer: Explainer, gate: Gate) -> None:
    """Let the stream go on as soon as somebody waits for the model."""
    while not turn_of(explainer.model).wanted:
        time.sleep(0.001)
    gate.open.set()


def test_the_process_does_not_wait_for_an_answer_that_nobody_reads(run_python) -> None:
    code = (
        "import atexit, sys, torch\n"
        "from dexar_fast import Explainer\n"
        "from tests.tiny import *\n"
        "model = tiny_llava(dtype=torch.float32)\n"
        "model.generation_config.suppress_tokens = [IMAGE_TOKEN_ID, 0, 1, 2]\n"
        "calls = []\n"
        "atexit.register(lambda: print(len(calls)))\n"
        "model.model.language_model.register_forward_pre_hook(lambda *_: calls.append(1))\n"
        "stream = Explainer(model, tiny_processor()).stream(picture(), 'what is it?', max_new_tokens=150, block=1)\n"
        "next(stream)\n"
    )
    assert int(run_python(code)) < 300  # of 300: each token once when it is written, and once when it is explained


def test_a_streamer_serves_a_generate_in_another_thread(explainer: Explainer) -> None:
    inputs, _ = explainer.encode([picture()], "what is it?", "")
    steps: list[StreamedToken] = []
    with explainer.streamer(inputs, steps.append, block=2) as streamer:
        thread = threading.Thread(
            target=explainer.model.generate,
            kwargs={
                **inputs,
                "streamer": streamer,
                "past_key_values": streamer.cache,
                "do_sample": False,
                "max_new_tokens": TOKENS,
            },
        )
        thread.start()
        thread.join(PATIENCE)
    assert indices(steps) == list(range(TOKENS))


def test_a_streamers_callback_may_explain(explainer: Explainer) -> None:
    inputs, _ = explainer.encode([picture()], "what is it?", "")
    expected = explainer.explain(picture(), "what is it?", method="dexar", max_new_tokens=4)
    alone = explainer.explain(picture(50, 20), "is it red?", " a star")
    steps: list[StreamedToken] = []

    def look(step: StreamedToken) -> None:
        steps.append(step)
        found = explainer.explain(picture(50, 20), "is it red?", " a star")
        np.testing.assert_array_equal(found.token_maps, alone.token_maps)

    with explainer.streamer(inputs, look, method="dexar", block=2) as streamer:
        explainer.model.generate(
            **inputs, streamer=streamer, past_key_values=streamer.cache, do_sample=False, max_new_tokens=4
        )
    assert [step.token_id for step in steps] == expected.token_ids.tolist()
    np.testing.assert_allclose([step.token_map for step in steps], expected.token_maps, atol=1e-4)


def test_a_model_that_notes_something_on_itself_while_it_writes() -> None:
    """M-RoPE's offset: the stream's while it writes, and the user's own within a turn and afterwards."""
    case = CACHED["qwen2_vl"]
    explainer = explainer_of(case)
    base: Any = explainer.decoder.base
    explainer.model.generation_config.suppress_tokens = [*explainer.decoder.placeholder_ids, 0, 1, 2]
    text, n_images = case.prompts[next(iter(case.prompts))]
    large, small = [[family_picture(size)] * n_images for size in ((120, 60), (30, 40))]
    expected = explainer.explain(large, text, method="dexar", max_new_tokens=8)
    inputs, _ = explainer.encode(small, text, "")
    written = explainer.model.generate(**inputs, max_new_tokens=3, do_sample=False).tolist()
    offset = base.rope_deltas.clone()
    steps = []
    with explainer.stream(large, text, method="dexar", max_new_tokens=8, block=1) as stream:
        for step in stream:
            steps.append(step)
            with explainer.turn():
                assert torch.equal(base.rope_deltas, offset)
                assert explainer.model.generate(**inputs, max_new_tokens=3, do_sample=False).tolist() == written
    assert [step.token_id for step in steps] == expected.token_ids.tolist()
    np.testing.assert_allclose([step.token_map for step in steps], expected.token_maps, atol=1e-4)
    assert torch.equal(base.rope_deltas, offset)
