"""The C++ kernels: every instruction set that this processor has, blocks of any size, an install without them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dexar_fast.ops import (
    SIGNALS,
    KeySets,
    accumulate_maps,
    attention_lse,
    available_backends,
    head_scores,
    missing_backends,
)
from dexar_fast.ops.backends import FAST_DTYPES

from .op_cases import PAIRS, make_case, plain_torch_of_all, run, run_all
from .test_ops_backends import check_error, check_results

if "cpp" not in available_backends():
    pytest.skip(f"backend 'cpp': {missing_backends()['cpp']}", allow_module_level=True)

from dexar_fast.ops import cpp, cpp_library, cpp_many
from dexar_fast.ops.cpp_library import instruction_sets

AWKWARD: dict[str, Any] = {"T": 21, "H": 6, "K": 63, "image": [0, 2, 3, *range(9, 40), 62], "window": 31}


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("index", range(len(instruction_sets())), ids=instruction_sets())
def test_instruction_sets(monkeypatch: pytest.MonkeyPatch, index: int, signal: str) -> None:
    monkeypatch.setattr(cpp_library, "INSTRUCTION_SET", index)
    check_error(make_case(**AWKWARD), "cpp", signal, torch.float32)


@pytest.mark.parametrize("most", [0, 1 << 30], ids=["rows", "heads"])
@pytest.mark.parametrize("dtype", FAST_DTYPES, ids=str)
@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("shape", [{"D": 16}, {"D": 20, "H_kv": 1}, {"T": 1, "D": 33, "H_kv": 6}], ids=str)
@pytest.mark.parametrize("index", range(len(instruction_sets())), ids=instruction_sets())
def test_what_lanes_are(
    monkeypatch: pytest.MonkeyPatch, index: int, shape: dict[str, Any], signal: str, dtype: torch.dtype, most: int
) -> None:
    monkeypatch.setattr(cpp, "FEW_ROWS", most)
    monkeypatch.setattr(cpp_library, "INSTRUCTION_SET", index)
    check_error(make_case(**{**AWKWARD, **shape}, softcap=2.0), "cpp", signal, dtype)


def test_every_number_of_float16_is_widened_rightly() -> None:
    numbers = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(torch.float16)
    value = numbers[None, :, None]  # [1, K, 1]
    K = len(numbers)
    keys = KeySets(torch.arange(K), torch.zeros(K, dtype=torch.bool), torch.tensor([[0, K]]))
    maps = torch.zeros(1, K)
    accumulate_maps(torch.ones(1, 1, 1, dtype=torch.float16), value, torch.ones(1, 1), keys, maps, backend="cpp")
    torch.testing.assert_close(maps[0], numbers.float().clamp(min=0), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("T", [1, 20])
def test_no_heads(T: int) -> None:
    keys = KeySets(torch.arange(3), torch.ones(9, dtype=torch.bool), torch.tensor([[0, 9]] * T))
    scores = head_scores(torch.zeros(T, 0, 4), torch.zeros(2, 9, 4), keys, backend="cpp")
    assert scores.image.shape == (T, 0)


@pytest.mark.parametrize("T", [1, 16])
def test_a_sink_hides_no_small_terms_of_the_log_sum_exp(T: int) -> None:
    """24607 terms below the last place of the first: one after the other they would leave it at 0, not at 7e-4."""
    K = 24608
    key = torch.full((1, K, 1), -17.4)
    key[0, 0] = 0
    keys = KeySets(torch.arange(3), torch.zeros(K, dtype=torch.bool), torch.tensor([[0, K]] * T))
    found = attention_lse(torch.ones(T, 1, 1), key, keys, scale=1.0, backend="cpp")
    torch.testing.assert_close(found, key.double().logsumexp(1).expand(T, 1).float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 8, 13])
@pytest.mark.parametrize("signal", SIGNALS)
def test_blocks_of_rows(monkeypatch: pytest.MonkeyPatch, signal: str, rows: int) -> None:
    monkeypatch.setattr(cpp, "MOST_ROWS", rows)
    check_error(make_case(**AWKWARD), "cpp", signal, torch.float32)


MANY: dict[str, Any] = {**AWKWARD, "T": 75, "K": 90}


@pytest.mark.parametrize("strips", range(1, 6))
@pytest.mark.parametrize("tasks", [1, 9, 1000])
@pytest.mark.parametrize("signal", SIGNALS)
def test_tasks_of_any_size(monkeypatch: pytest.MonkeyPatch, signal: str, tasks: int, strips: int) -> None:
    """Of all heads, some or one; and of so many strips of rows, the last of them part of one."""
    monkeypatch.setattr(cpp_many, "TASKS", tasks)
    for bound in ("MOST_STRIPS", "FEWEST_STRIPS"):
        monkeypatch.setattr(cpp_many, bound, strips)
    check_error(make_case(**MANY), "cpp", signal, torch.float32)


@pytest.mark.parametrize("tasks", [1, 9, 1000])
def test_tasks_add_up_several_pairs_of_signals(monkeypatch: pytest.MonkeyPatch, tasks: int) -> None:
    monkeypatch.setattr(cpp_many, "TASKS", tasks)
    case = make_case(**MANY)
    exact, plain = (plain_torch_of_all(case.to(torch.float32), PAIRS, of) for of in (torch.float64, torch.float32))
    sizes = plain_torch_of_all(case.to(torch.float32), PAIRS, torch.float64, sizes=True)
    check_results(run_all(case.to(torch.float32), PAIRS, "cpp"), exact, plain, sizes, torch.float32)


@pytest.mark.parametrize("shape", [{"T": 2, "K": 700, "image": range(600)}, MANY], ids=["few rows", "many rows"])
@pytest.mark.parametrize("signal", SIGNALS)
def test_number_of_threads_changes_nothing(signal: str, shape: dict[str, Any]) -> None:
    """Not a bit."""
    case, threads = make_case(**shape).to(torch.float32), torch.get_num_threads()
    results = []
    for n in (1, 2, 3):
        torch.set_num_threads(n)
        try:
            results.append(run(case, signal, "cpp"))
        finally:
            torch.set_num_threads(threads)
    for name, of_one in results[0].items():
        assert all(torch.equal(each[name], of_one) for each in results[1:]), name


@pytest.mark.parametrize(
    ("rows", "visible"), [((1,), [[4, 4]]), ((1, 1), [[0, 6], [3, 3]])], ids=["alone", "a sample of a batch"]
)
def test_a_row_that_sees_no_key(rows: tuple[int, ...], visible: list[list[int]]) -> None:
    B, generator = len(rows), torch.Generator().manual_seed(0)
    query, key = (torch.randn(size, generator=generator) for size in ((B, 4, 8), (B, 2, 6, 8)))
    text = torch.ones(B, 6, dtype=torch.bool)
    keys = KeySets(torch.arange(2).expand(B, 2), text, torch.tensor(visible), rows)
    found, expected = (attention_lse(query, key, keys, scale=1.0, backend=name) for name in ("cpp", "reference"))
    assert (found[-1] == -torch.inf).all()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("T", [1, 40])
def test_autograd_sees_that_maps_were_added_to(T: int) -> None:
    case = make_case(T=T).to(torch.float32)
    maps = torch.ones(T, case.keys.image.shape[-1])
    weight = torch.ones_like(maps, requires_grad=True)
    loss = (weight * maps).sum()
    accumulate_maps(case.d_out, case.value, torch.ones(case.d_out.shape[:2]), case.keys, maps, backend="cpp")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_large_and_small_logits() -> None:
    """exp over its whole range: the smallest probabilities round to zero, none to a negative or NaN."""
    case = make_case(T=16, K=300, image=range(300), visible=torch.tensor([[0, 300]] * 16)).to(torch.float32)
    case.attention.query.mul_(30)
    columns = run(case, "attention", "cpp")["columns"]
    assert (columns == 0).any()
    assert (columns >= 0).all()
    torch.testing.assert_close(columns.sum(-1), torch.ones(16, 4), rtol=1e-5, atol=0)
    torch.testing.assert_close(columns, run(case, "attention", "reference")["columns"], rtol=1e-4, atol=1e-37)


def install(root: Path, tmp_path: Path, compiler: str) -> tuple[Path, str]:
    """Install a copy of the tree with this compiler; where it went, and what was printed."""
    tree = tmp_path / "tree"
    for name in ("dexar_fast", "kernels", "csrc"):
        shutil.copytree(root / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, tree / name)
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--verbose", "--no-index", "--no-deps", "--no-build-isolation"]
    environment = {**os.environ, "CC": compiler, "CXX": compiler}
    installed = subprocess.run([*pip, "--target", site, tree], env=environment, capture_output=True, text=True)
    assert installed.returncode == 0, installed.stderr
    return site, installed.stdout + installed.stderr


NO_OPENMP = """#!/bin/sh
case "$*" in *-fopenmp*) echo "error: unsupported option '-fopenmp'" >&2; exit 1 ;; esac
exec c++ "$@" -O0
"""


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_install_with_a_compiler_that_has_no_openmp(root: Path, tmp_path: Path) -> None:
    """As Apple's: the kernels are built for one thread."""
    compiler = tmp_path / "compiler"
    compiler.write_text(NO_OPENMP)
    compiler.chmod(0o755)
    site, printed = install(root, tmp_path, str(compiler))
    assert "built without OpenMP and run on one thread" in printed
    (library,) = (site / "dexar_fast").glob("_cpu*")
    assert b"omp_get" not in library.read_bytes()
    assert b"GOMP_" not in library.read_bytes()
    code = "import torch, dexar_fast.ops as ops; print(ops.resolve_backend('auto', torch.device('cpu'), torch.float32))"
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert told.stdout.strip() == "cpp", told.stderr


def test_install_without_a_compiler(root: Path, tmp_path: Path) -> None:
    """The package installs, and says which backend it will use instead and why."""
    site, _ = install(root, tmp_path, "no-such-compiler")
    assert not list((site / "dexar_fast").glob("_cpu*"))
    told = subprocess.run(
        [sys.executable, "-m", "dexar_fast", "info"],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr
    assert "cpp: the C++ kernels were not built; install a C++ compiler" in " ".join(told.stdout.split())
    assert "reference on cpu" in told.stdout
