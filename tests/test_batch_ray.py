"""A data-set run on a Ray cluster of two workers, one of which is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dexar_fast import Explainer, InputError

pytest.importorskip("pyarrow")
ray = pytest.importorskip("ray", reason="the tests of Ray need it (pip install ray[data])")

from dexar_fast import batch  # noqa: E402

from .test_batch import files_of, table, write_input  # noqa: E402

HOW: dict[str, Any] = {"device": "cpu", "self_test": False}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def workers() -> set[int]:
    """Processes that hold a model."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"ray::" in path.read_bytes() and b"Worker" in path.read_bytes():
                found.add(int(path.parent.name))
        except OSError:  # it has ended
            continue
    return found


def parts(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in files_of(folder).items() if name.startswith("parts/")}


def test_a_killed_worker_loses_nothing(cluster, tmp_path):
    explainer = Explainer.from_pretrained("demo", **HOW)
    source = write_input(tmp_path, 40, row_3={"image": "gone.png"}, row_5={"id": "id 1"})
    options: dict[str, Any] = {"part_size": 2, "batch_size": 2, "grounding": True}
    batch.run(explainer, source, tmp_path / "local", **options)
    out, killed = tmp_path / "on_ray", []

    def kill_one() -> None:
        while not any((out / "parts").glob("part-*")):
            time.sleep(0.05)
        victim = min(workers())
        os.kill(victim, signal.SIGKILL)
        killed.append(victim)

    thread = threading.Thread(target=kill_one)
    thread.start()
    summary = batch.run_on_ray("demo", source, out, how=HOW, workers=(2, 2), **options)
    thread.join()
    assert killed
    assert len(parts(out)) == 20
    assert parts(out) == parts(tmp_path / "local")
    assert [row["key"] for row in table(out)] == [row["key"] for row in table(tmp_path / "local")]
    assert summary.explained + summary.failed + summary.done_before == 40
    again = batch.run_on_ray("demo", source, out, how=HOW, **options)
    assert (again.explained, again.failed, again.done_before) == (0, 0, 40)


def test_it_goes_on_where_a_local_run_was_stopped(cluster, tmp_path):
    explainer = Explainer.from_pretrained("demo", **HOW)
    source = write_input(tmp_path, 6)
    batch.run(explainer, source, tmp_path / "out", part_size=2, limit=2)
    summary = batch.run_on_ray("demo", source, tmp_path / "out", how=HOW, part_size=2)
    assert (summary.explained, summary.done_before) == (4, 2)
    assert len(batch.open(tmp_path / "out")) == 6


def test_more_workers_than_the_most_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"workers: expected \(fewest, most\); got \(2, 1\)"):
        batch.run_on_ray("demo", write_input(tmp_path, 1), tmp_path / "out", workers=(2, 1))
