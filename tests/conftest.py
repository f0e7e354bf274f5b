"""What all tests share."""

from __future__ import annotations

import os

# Triton reads it when a kernel is defined, so it stands before every import. On a GPU: TRITON_INTERPRET=0 make test.
os.environ.setdefault("TRITON_INTERPRET", "1")
# The models are tiny: a second thread only waits, and where others compute too, for long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A test that asks for the network fails at once, everywhere.
os.environ["HF_HUB_OFFLINE"] = "1"

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(autouse=True)
def garbage_is_collected() -> Iterator[None]:
    """The command line sets aside all that is there once a model is loaded; this process has many models."""
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def run_python() -> Callable[..., str]:
    """Run code in a fresh interpreter and return what it printed; a failure shows what it wrote to stderr.

    `path` replaces PYTHONPATH, the repository's root by default; `cwd` is the folder it runs in.
    """

    def run(code: str, *, path: Path = ROOT, cwd: Path = ROOT) -> str:
        environment = {**os.environ, "PYTHONPATH": str(path)}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


@pytest.fixture(scope="session")
def triton_interpreter() -> None:
    """Triton's interpreter, prepared for tests; whatever runs kernels in it uses this."""
    from .interpreter import prepare

    prepare()
