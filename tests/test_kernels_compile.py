"""The kernels compile for GPUs that are not here, and fit them: registers, shared memory, matrix instructions."""

import json
import os
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton.backends.nvidia", reason="triton is not installed")

KIB = 1024
SHARED = {80: 163 * KIB, 90: 227 * KIB, 100: 227 * KIB}  # CUDA C++ Programming Guide, "Technical Specifications"


def run_module(root: Path, cache: Path, name: str, *arguments: str) -> Any:
    """What a module of the tests prints, as JSON; in a process where Triton compiles."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH")))),
        "TRITON_INTERPRET": "0",
        "TRITON_CACHE_DIR": str(cache),
    }
    command = [sys.executable, "-m", name, *arguments]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module", params=SHARED, ids=lambda capability: f"sm_{capability}")
def compiled(request, root: Path, tmp_path_factory: pytest.TempPathFactory):
    """The capability, and what the compiler says of every kernel."""
    cache = tmp_path_factory.mktemp("triton")
    return request.param, run_module(root, cache, "tests.compile_kernels", str(request.param))


def test_nothing_spills(compiled) -> None:
    _, kernels = compiled
    assert len(kernels) > 20
    assert [kernel for kernel in kernels if kernel["local"]] == []
    assert max(kernel["registers"] for kernel in kernels) <= 255


def test_shared_memory_is_within_the_limit(compiled) -> None:
    capability, kernels = compiled
    assert [kernel for kernel in kernels if kernel["shared"] > SHARED[capability]] == []


def test_products_of_half_precision_run_on_warp_groups(compiled) -> None:
    capability, kernels = compiled
    products = [kernel for kernel in kernels if kernel["half"] and kernel["has_product"]]
    without = [kernel["name"] for kernel in products if kernel["wgmma"] != (capability == 90)]
    assert without == []


@pytest.mark.skipif(find_spec("triton.backends.amd") is None, reason="this Triton is built without AMD's backend")
@pytest.mark.parametrize(("architecture", "shared"), [("gfx942", 64), ("gfx950", 160)])
def test_amd_gpus_are_compiled_for(root: Path, tmp_path: Path, architecture: str, shared: int) -> None:
    """MI300 and MI350, where float32 has no TF32 products; nothing spills there either."""
    kernels = run_module(root, tmp_path, "tests.compile_kernels", architecture)
    assert {"float16", "bfloat16", "float32"} == {kernel["name"].split(", ")[-1] for kernel in kernels}
    assert [kernel for kernel in kernels if kernel["local"] or kernel["shared"] > shared * KIB] == []


def test_lengths_do_not_compile_anew(root: Path, tmp_path: Path) -> None:
    """Not while 512 tokens stream, and seldom for 40 requests of any length."""
    compiled = run_module(root, tmp_path, "tests.count_compilations")
    # Maps of one row are aligned or not.
    assert Counter(compiled["stream"]) == {"head_scores_kernel": 1, "weigh_kernel": 2}
    assert len(compiled["requests"]) <= 8
    assert Counter(compiled["requests"])["accumulate_maps_kernel"] <= 2
