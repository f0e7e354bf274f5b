"""Faults anywhere: an exception leaves the model as it was, a kill or a full disk leaves whole files."""

import inspect
import os
import resource
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from dexar_fast import Explainer, Explanation
from dexar_fast.models.turns import turn_of

from .explanations import make_explanation
from .test_untouched import assert_same, state
from .tiny import IMAGE_TOKEN_ID, picture, tiny_llava, tiny_processor


class Fault(Exception):
    pass


# What puts the model back is not hit itself: it is tested by interrupts, which wait for it (tests/test_threads.py).
RESTORES = ("/models/state.py", "/models/turns.py", "/interrupts.py", "/progress.py")


def run_with_fault(work: Callable[[], Any], at: int | None) -> int:
    """Raise `Fault` where the function of that number is entered; returns how many were."""
    seen = 0

    def count(frame: Any, event: str, _: Any) -> None:
        nonlocal seen
        code = frame.f_code
        ours = "/dexar_fast/" in code.co_filename and not code.co_filename.endswith(RESTORES)
        if event == "call" and ours and not code.co_flags & inspect.CO_GENERATOR:
            seen += 1
            if seen == at:
                sys.setprofile(None)
                raise Fault(f"{code.co_filename}: {code.co_qualname}")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return seen


@pytest.mark.parametrize("call", ["explain", "batch", "alternatives"])
def test_an_exception_in_any_function(call: str) -> None:
    model = tiny_llava(dtype=torch.float32, layers=2)
    model.generation_config.suppress_tokens = [IMAGE_TOKEN_ID, 0, 1, 2]
    explainer = Explainer(model, tiny_processor())

    def work() -> None:
        if call == "explain":
            explainer.explain(picture(), "what is it?", max_new_tokens=2, grounding=True)
        elif call == "batch":
            list(explainer.explain_many([(picture(), "what is it?", " a"), (picture(), "what is it?", " b")]))
        else:
            explainer.alternatives(picture(), "what is it?", " a", k=2)

    work()
    model.train()
    before = state(model)
    total = run_with_fault(work, None)
    for at in range(1, total + 1, max(1, total // 40)):
        explainer.checked_layers.clear()
        with suppress(Fault), warnings.catch_warnings(action="ignore"):  # a batch goes on one by one, and says so
            run_with_fault(work, at)
        after = state(model)
        for kind in ("hooks", "own attributes", "train flags", "registry", "grad mode", "inference mode"):
            assert after[kind] == before[kind], (at, kind)
        assert turn_of(model).take(within=0.0)
        turn_of(model).release()
    assert_same(state(model), before)
    work()


def in_child(work: Callable[[], Any]) -> int:
    """The wait status of a forked process that does this and ends."""
    child = os.fork()
    if not child:
        signal.alarm(60)
        try:
            work()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.fixture
def explanation() -> Explanation:
    return make_explanation([" a", " tree"], rows=2, cols=2, with_image=False)


def test_a_kill_while_a_file_is_written(explanation: Explanation, tmp_path: Path) -> None:
    """After any number of calls into C: the old file or the new one, whole."""
    path = tmp_path / "e.safetensors"
    new = make_explanation([" another", " one"], rows=2, cols=2, with_image=False)

    def save(at: int | None) -> int:
        """With a kill at the call of that number; returns how many there were."""
        seen = 0

        def count(_: Any, event: str, __: Any) -> None:
            nonlocal seen
            seen += event.startswith("c_")
            if seen == at:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(count)
        new.save(path)
        sys.setprofile(None)
        return seen

    new.save(path)  # what is imported and cached the first time does not count
    total, endings = save(None), []
    for at in [*range(1, total - 40, max(1, total // 20)), *range(total - 40, total + 1)]:
        explanation.save(path)
        killed = os.WIFSIGNALED(in_child(partial(save, at)))
        assert killed or at > total - 10
        tokens = Explanation.load(path).tokens
        assert tokens in (explanation.tokens, new.tokens)
        endings.append(tokens == new.tokens)
    assert not endings[0]
    assert endings[-1]


def test_a_disk_that_is_full(explanation: Explanation, tmp_path: Path) -> None:
    path = explanation.save(tmp_path / "e.safetensors")
    before = path.read_bytes()

    def save() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        with pytest.raises(OSError, match="File too large"):
            explanation.save(path)
        (tmp_path / "told").touch()

    in_child(save)
    assert (tmp_path / "told").exists()
    assert path.read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == {"e.safetensors", "told"}
