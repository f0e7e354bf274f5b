"""Many threads on two models for a long time: ``python -m benchmarks.soak --minutes 60``.

Eight threads do what a web server's do, in random order: explain, stream, forget a stream, cancel a wait, explain a
batch, save and load, fail, and let the model write beside. Every result is compared with what one thread alone got.
Memory is watched meanwhile; at the end nothing may be left. The table goes into docs/reliability.md; a wrong result, or
anything left, is an exit code of 1.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from dexar_fast import Explainer, Explanation, InputError
from dexar_fast.demo.scenes import draw_scene

from .files import RESULTS, ROOT, put_between_markers, write_results
from .timing import described, environment, slug

PAGE = ROOT / "docs" / "reliability.md"
THREADS, SCENES, TOKENS, SAMPLES = 8, 4, 10, 60
PROMPT = "describe the image"


@dataclass
class Subject:
    """One model, two explainers of it, and what they give while nobody else is there."""

    explainers: list[Explainer]
    alone: list[Explanation] = field(default_factory=list)
    written: list[Explanation] = field(default_factory=list)
    generated: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        explainer = self.explainers[0]
        for scene in range(SCENES):
            self.alone.append(explainer.explain(picture(scene), PROMPT, answer(scene)))
            self.written.append(explainer.explain(picture(scene), PROMPT, max_new_tokens=TOKENS))
            self.generated.append(self.generate(scene))

    def generate(self, scene: int) -> list[int]:
        """What the model writes, as a user would let it."""
        inputs, _ = self.explainers[0].encode([picture(scene)], PROMPT, "")
        ids: torch.Tensor = self.explainers[0].model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
        return ids.tolist()[0]

    @property
    def hooks(self) -> int:
        """How many there are on the model's modules."""
        modules = self.explainers[0].model.modules()
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in modules)


def picture(scene: int) -> Any:
    return draw_scene(scene).image


def answer(scene: int) -> str:
    return str(draw_scene(scene).description)


def same(found: Explanation, expected: Explanation, tolerance: float = 1e-4) -> None:
    """Refuse another result.

    Raises:
        AssertionError: says how far it is off.
    """
    if found.tokens != expected.tokens:
        raise AssertionError(f"expected {expected.tokens}; got {found.tokens}")
    off = float(np.abs(found.token_maps - expected.token_maps).max())
    if off > tolerance:
        raise AssertionError(f"maps are off by {off:.1e}")


class Work:
    """What one thread does, by name; each compares what it got."""

    def __init__(self, subjects: Sequence[Subject], folder: Path, seed: int) -> None:
        self.subjects, self.folder, self.chance = subjects, folder, random.Random(seed)
        self.names = [name for name in vars(type(self)) if not name.startswith("_") and name != "step"]

    def step(self) -> str:
        """One thing, chosen at random; returns its name."""
        self.subject = self.chance.choice(self.subjects)
        self.explainer = self.chance.choice(self.subject.explainers)
        self.scene = self.chance.randrange(SCENES)
        name = self.chance.choice(self.names)
        getattr(self, name)()
        return name

    def explain(self) -> None:
        same(self.explainer.explain(picture(self.scene), PROMPT, answer(self.scene)), self.subject.alone[self.scene])

    def write_and_explain(self) -> None:
        found = self.explainer.explain(picture(self.scene), PROMPT, max_new_tokens=TOKENS)
        same(found, self.subject.written[self.scene])

    def stream(self) -> None:
        with self._opened() as stream:
            steps = list(stream)
        expected = self.subject.written[self.scene]
        if [step.token_id for step in steps] != expected.token_ids.tolist() or stream.explanation is None:
            raise AssertionError(f"a stream gave {len(steps)} tokens of {len(expected.tokens)}")
        same(stream.explanation, expected)

    def forget_a_stream(self) -> None:
        next(self._opened())

    def close_a_stream(self) -> None:
        stream = self._opened()
        next(stream)
        stream.close()

    def cancel_waits(self) -> None:
        async def read() -> list[int]:
            stream, found = self._opened(), []
            while True:
                try:
                    found.append((await asyncio.wait_for(anext(stream), self.chance.uniform(0.0001, 0.05))).token_id)
                except TimeoutError:
                    continue
                except StopAsyncIteration:
                    return found

        if asyncio.run(read()) != self.subject.written[self.scene].token_ids.tolist():
            raise AssertionError("a wait that was cancelled lost a token")

    def batch(self) -> None:
        scenes = [self.chance.randrange(SCENES) for _ in range(3)]
        requests = [(picture(scene), PROMPT, answer(scene)) for scene in scenes]
        for scene, found in zip(scenes, self.explainer.explain_many(requests, batch_size=2), strict=True):
            same(found, self.subject.alone[scene])

    def save_and_load(self) -> None:
        path = self.folder / f"{threading.get_ident()}.safetensors"
        expected = self.subject.alone[self.scene]
        expected.save(path)
        same(Explanation.load(path), expected, 1e-3)

    def fail(self) -> None:
        try:
            self.explainer.explain(picture(self.scene), PROMPT, "")
        except InputError:
            return
        raise AssertionError("an empty answer was explained")

    def fail_in_a_callback(self) -> None:
        class Enough(Exception):
            pass

        def progress(stage: str, done: int, total: int | None) -> None:
            if stage == "explaining" and done == 1:
                raise Enough

        try:
            self.explainer.explain(picture(self.scene), PROMPT, answer(self.scene), progress=progress)
        except Enough:
            return
        raise AssertionError("what a callback raised was lost")

    def generate_beside(self) -> None:
        if self.subject.generate(self.scene) != self.subject.generated[self.scene]:
            raise AssertionError("the user's own generate wrote something else")

    def _opened(self) -> Any:
        block = self.chance.randint(1, 4)
        return self.explainer.stream(picture(self.scene), PROMPT, max_new_tokens=TOKENS, block=block)


def run(minutes: float) -> dict[str, Any]:
    """Everything that was counted."""
    few_arenas()
    subjects = []
    for attention in ("sdpa", "eager"):
        explainer = Explainer.from_pretrained("demo", device="cpu", attn_implementation=attention)
        subjects.append(Subject([explainer, Explainer(explainer.model, explainer.processor)]))
    registry = dict(ALL_ATTENTION_FUNCTIONS)
    done, wrong, samples, objects = Counter[str](), [], [], []
    until = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as folder:

        def work(seed: int) -> None:
            mine = Work(subjects, Path(folder), seed)
            while time.monotonic() < until:
                try:
                    done[mine.step()] += 1
                except BaseException as error:
                    wrong.append(f"{type(error).__name__}: {error}")

        before = counts(subjects)
        threads = [threading.Thread(target=work, args=(seed,), name=f"soak {seed}") for seed in range(THREADS)]
        start = time.monotonic()
        for thread in threads:
            thread.start()
        for _ in range(SAMPLES):
            time.sleep(max(0.0, until - start) / SAMPLES)
            samples.append((time.monotonic() - start, resident_mib()))
            objects.append(len(gc.get_objects()))
        hanging = [thread.name for thread in threads if joined(thread, 600)]
    settle()
    return {
        "environment": environment("cpu"),
        "minutes": minutes,
        "done": dict(done),
        "wrong": wrong,
        "hanging": hanging,
        "memory_mib": [round(mib, 1) for _, mib in samples],
        "slope_mib_per_minute": slope(samples),
        "python_objects": objects,
        "before": before,
        "after": counts(subjects),
        "registry_as_before": dict(ALL_ATTENTION_FUNCTIONS) == registry,
    }


def few_arenas() -> None:
    """Let glibc's threads share two heaps, as MALLOC_ARENA_MAX=2 does: else it is these that grow, one for a thread."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(-8, 2)  # M_ARENA_MAX


def joined(thread: threading.Thread, seconds: float) -> bool:
    """Whether it still runs after so long."""
    thread.join(seconds)
    return thread.is_alive()


def settle() -> None:
    """Wait until forgotten streams have come to their end."""
    gc.collect()
    for thread in threading.enumerate():
        if thread.name == "dexar-fast stream":
            thread.join(60)


def counts(subjects: Sequence[Subject]) -> dict[str, int]:
    return {
        "threads": threading.active_count(),
        "open files": len(os.listdir("/proc/self/fd")),
        "hooks": sum(subject.hooks for subject in subjects),
    }


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def slope(samples: Sequence[tuple[float, float]]) -> float:
    """MiB per minute of the last two thirds, by least squares; before, caches fill."""
    seconds, mib = np.array(samples[len(samples) // 3 :]).T
    return float(np.polyfit(seconds / 60, mib, 1)[0])


def table(found: dict[str, Any]) -> str:
    """The counts as Markdown."""
    before, after = found["before"], found["after"]
    memory, objects = found["memory_mib"], found["python_objects"]
    rows = [
        ("minutes, threads, models", f"{found['minutes']:g}, {THREADS}, 2"),
        ("things done", f"{sum(found['done'].values())}"),
        ("wrong results, false errors", f"{len(found['wrong'])}"),
        ("threads that hung", f"{len(found['hanging'])}"),
        ("memory: after a third, at the end", f"{memory[len(memory) // 3]:.0f} MiB, {memory[-1]:.0f} MiB"),
        ("slope of the last two thirds", f"{found['slope_mib_per_minute']:+.2f} MiB a minute"),
        ("Python's objects: after a third, at the end", f"{objects[len(objects) // 3]:,}, {objects[-1]:,}"),
        *((f"{name}: before, behind", f"{before[name]}, {after[name]}") for name in before),
        ("transformers' registry", "as before" if found["registry_as_before"] else "changed"),
    ]
    kinds = ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in sorted(found["done"].items()))
    machine = found["environment"]
    lines = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    return "\n".join([*lines, "", f"Done: {kinds}. On {described(machine)}."])


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="how long (default 60)")
    parser.add_argument("--out", type=Path, help="file for the counts; else those of the documentation")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = run(asked.minutes)
    write_results(asked.out or RESULTS / f"soak-{slug(found['environment'])}.json", found)
    if asked.out is None:
        put_between_markers(PAGE, "soak", table(found))
    print(table(found))
    left = found["before"] != found["after"] or not found["registry_as_before"]
    for error in found["wrong"][:10]:
        print(error, file=sys.stderr)
    sys.exit(1 if left or found["wrong"] or found["hanging"] else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
