"""The package as users get it: what the wheel holds, what an import costs, and that it leaves others alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import dexar_fast

RunPython = Callable[..., str]

HEAVY = ("torch", "transformers", "triton", "numpy", "PIL")
ONE_SOURCE_OF_EACH_KIND = ("dexar_fast", "kernels", "csrc", "pyproject.toml", "setup.py", "LICENSE")


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the tree, without the network."""
    copy = tmp_path_factory.mktemp("tree")
    for name in ONE_SOURCE_OF_EACH_KIND:
        if (root / name).is_dir():
            shutil.copytree(
                root / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.so")
            )
        else:
            shutil.copy(root / name, copy / name)
    (copy / "README.md").write_text("A stand-in, so that the test does not depend on the text.")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(copy / "dist"), str(copy)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = (copy / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content, as if installed."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_wheel_has_one_top_level(files: set[str]) -> None:
    top_levels = {name.split("/")[0] for name in files}
    assert top_levels == {"dexar_fast", f"dexar_fast-{dexar_fast.__version__}.dist-info"}


def test_wheel_holds_every_module_once(files: set[str], root: Path) -> None:
    # Path.rglob does not follow the link dexar_fast/kernels, so kernels/triton is counted once.
    modules = {path.relative_to(root).as_posix() for path in (root / "dexar_fast").rglob("*.py")}
    kernels = {
        f"dexar_fast/kernels/{path.relative_to(root / 'kernels/triton').as_posix()}"
        for path in (root / "kernels/triton").rglob("*.py")
    }
    modules = {name for name in modules if not name.startswith("dexar_fast/kernels/")} | kernels
    assert {name for name in files if name.endswith(".py")} == modules


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_one_wheel_serves_every_python(wheel: Path, unpacked: Path) -> None:
    python, abi, platform = wheel.stem.split("-")[2:]
    assert (python, abi) == ("py3", "none")
    assert platform != "any"
    (library,) = (unpacked / "dexar_fast").glob("_cpu*")
    assert library.name == "_cpu.so"
    symbols = re.findall(rb"\0(_?Py[A-Z][A-Za-z]*_\w+|PyInit_\w+)\0", library.read_bytes())
    assert symbols == []


@pytest.mark.parametrize(("kernels", "builds"), [("none", True), ("optional", True), ("required", False)])
def test_a_failed_compilation_is_no_release(root: Path, tmp_path: Path, kernels: str, builds: bool) -> None:
    environment = {
        **os.environ,
        "DEXAR_FAST_KERNELS": kernels,
        "CC": "no-such-compiler",
        "CXX": "no-such-compiler",
    }
    command = [sys.executable, "setup.py", "-q", "build_ext", "--force", "--build-lib", str(tmp_path)]
    command += ["--build-temp", str(tmp_path)]
    built = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert (built.returncode == 0) == builds, built.stderr


def test_extras_are_all_in_all(root: Path) -> None:
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    of_developers = {"bench", "docs", "lint", "release", "test"}
    asked_for_by_name = {"app", "flash"}  # an older pillow than the others; compiled against a CUDA toolkit
    (everything,) = extras["all"]
    named = set(re.findall(r"\[(.*)\]", everything)[0].split(","))
    assert named == set(extras) - of_developers - asked_for_by_name - {"all"}


def test_wheel_holds_the_report_and_the_type_marker(files: set[str], root: Path) -> None:
    render = root / "dexar_fast" / "render"
    assets = {
        path.relative_to(root).as_posix()
        for path in render.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert any(name.endswith(".js") for name in assets)
    assert assets | {"dexar_fast/py.typed"} <= files


def test_wheel_holds_the_embedded_model(files: set[str], root: Path) -> None:
    folder = root / "dexar_fast" / "demo" / "checkpoint"
    checkpoint = {path.relative_to(root).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert "dexar_fast/demo/checkpoint/model.safetensors" in checkpoint
    assert checkpoint <= files


def test_wheel_works_outside_the_tree(unpacked: Path, run_python: RunPython, tmp_path: Path) -> None:
    code = (
        "import dexar_fast, dexar_fast.kernels\n"
        "from dexar_fast.demo.scenes import draw_scene\n"
        "explainer = dexar_fast.Explainer.from_pretrained('demo', device='cpu')\n"
        "e = explainer.explain(draw_scene(1).image, 'describe the image', max_new_tokens=3)\n"
        "e.to_html('report.html')\n"
        "print(dexar_fast.__file__, dexar_fast.kernels.__file__, len(e.tokens), sep='\\n')"
    )
    *homes, n_tokens = run_python(code, path=unpacked, cwd=tmp_path).splitlines()
    assert all(Path(home).is_relative_to(unpacked) for home in homes)
    assert n_tokens == "3"
    assert (tmp_path / "report.html").stat().st_size > 0


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_wheel_holds_the_compiled_kernels(files: set[str], unpacked: Path, run_python: RunPython) -> None:
    assert [name for name in files if name.startswith("dexar_fast/_cpu")]
    code = "import dexar_fast; print(dexar_fast.info()['auto_backend']['cpu'])"
    assert run_python(code, path=unpacked, cwd=unpacked) == "cpp"


def test_kernels_is_importable_from_the_tree(root: Path, run_python: RunPython) -> None:
    home = run_python("import dexar_fast.kernels; print(dexar_fast.kernels.__file__)")
    assert Path(home).resolve() == root / "kernels" / "triton" / "__init__.py"


def test_transformers_loads_models_from_the_root(root: Path, run_python: RunPython) -> None:
    # With kernels/__init__.py in the root, transformers would take that folder for the package `kernels` and fail here.
    code = (
        "import transformers, transformers.integrations.hub_kernels, importlib.util\n"
        "from transformers import LlavaForConditionalGeneration\n"
        "spec = importlib.util.find_spec('kernels')\n"
        "print(spec is not None and spec.origin is not None and spec.origin)"
    )
    found = run_python(code, cwd=root)
    assert found == "False" or not Path(found).is_relative_to(root / "kernels")


def test_import_is_light(run_python: RunPython) -> None:
    code = f"import sys, dexar_fast, dexar_fast.cli; print([name for name in {HEAVY} if name in sys.modules])"
    assert run_python(code) == "[]"


def test_what_a_run_on_the_cpu_does_not_need_is_not_imported(run_python: RunPython, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from dexar_fast.cli import app\n"
        "app(['demo', '--out', 'out', '--quiet'], standalone_mode=False)\n"
        "unneeded = 'dexar_fast.kernels', 'dexar_fast.evaluate', 'matplotlib', 'pyarrow', 'fastapi'\n"
        "print([name for name in unneeded if name in sys.modules])"
    )
    assert run_python(code, cwd=tmp_path).splitlines()[-1] == "[]"


def test_works_where_triton_is_absent(run_python: RunPython) -> None:
    code = (
        "import sys\n"
        "sys.modules['triton'] = None  # makes `import triton` fail\n"
        "import dexar_fast\n"
        "from dexar_fast import Explainer, Explanation\n"
        "import dexar_fast.kernels, torch\n"
        "from dexar_fast.ops import resolve_backend\n"
        "for backend in dexar_fast.info()['backends']:\n"
        "    print(resolve_backend(backend, torch.device('cpu'), torch.float32))"
    )
    assert "reference" in run_python(code)


def test_public_names_are_there() -> None:
    assert set(dexar_fast.__all__) <= set(dir(dexar_fast))
    for name in dexar_fast.__all__:
        assert getattr(dexar_fast, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Explanations'"):
        _ = dexar_fast.Explanations


def test_info_is_a_function_whatever_was_imported_before(run_python: RunPython) -> None:
    # A module of the same name would take the name's place as soon as anything imports it.
    code = "import dexar_fast.environment, dexar_fast.cli, dexar_fast; print(callable(dexar_fast.info))"
    assert run_python(code) == "True"


def test_pictures_are_read_without_torch(run_python: RunPython, tmp_path: Path) -> None:
    # A wrong file is told at once; torch and transformers take seconds to load.
    code = (
        "import sys\n"
        "from dexar_fast.cli.run import asked\n"
        "try:\n"
        f"    asked({str(tmp_path / 'none.png')!r}, 'what?', None, background='white', frame=None, allow_urls=False)\n"
        "except ValueError as error:\n"
        "    print(type(error).__name__, [name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    assert run_python(code) == "InputError []"
