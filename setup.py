"""What pyproject.toml cannot say: where the packages lie, and the C++ kernels.

The environment variable DEXAR_FAST_KERNELS says what becomes of the kernels: "optional" (a machine without a C++
compiler installs without them and says so), "required" (a failed compilation fails the build), or "none" (for a pure
wheel).
"""

import os
from pathlib import Path
from typing import Any

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

KERNELS = os.environ.get("DEXAR_FAST_KERNELS", "optional")
OPENMP = "-fopenmp"
# Where Apple's compiler, which has none of its own, finds OpenMP's header. The library is torch's, as everywhere.
APPLE_OPENMP = [Path(prefix, "opt/libomp/include") for prefix in ("/opt/homebrew", "/usr/local")]


def cpp_extensions() -> list[Extension]:
    """The CPU kernels in csrc/."""
    if KERNELS not in ("optional", "required", "none"):
        raise SystemExit(f"DEXAR_FAST_KERNELS: expected optional, required or none; got {KERNELS!r}")
    sources = sorted(str(path) for path in Path("csrc").glob("*.cpp"))
    if KERNELS == "none" or (KERNELS == "optional" and not sources):
        return []
    flags = ["-std=c++17", "-O3", OPENMP, "-fno-math-errno", "-Wno-psabi"]
    return [
        Extension(
            "dexar_fast._cpu",
            sources,
            depends=sorted(str(path) for path in Path("csrc").glob("*.h")),
            language="c++",
            extra_compile_args=flags,
            optional=KERNELS == "optional",
        )
    ]


class BuildLibrary(build_ext):
    """A library that ctypes opens, not a module: its name says nothing of the Python that built it."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split(".")).with_suffix(".so"))

    def build_extension(self, ext: Extension) -> None:
        """With OpenMP; where the compiler has none and the kernels are optional, for one thread."""
        if self.compiler.compiler_type == "msvc":
            raise CompileError("MSVC lacks the vector extensions of GCC and Clang: built without the C++ kernels")
        plain = [flag for flag in ext.extra_compile_args if flag != OPENMP]
        apple = [["-Xpreprocessor", OPENMP, f"-I{folder}"] for folder in APPLE_OPENMP if folder.exists()]
        choices = [[OPENMP], *apple, *([[]] if KERNELS == "optional" else [])]
        for flags in choices:
            ext.extra_compile_args = [*plain, *flags]
            if not flags:
                self.warn("the C++ kernels are built without OpenMP and run on one thread")
            try:
                super().build_extension(ext)
                return
            except CompileError:
                if flags == choices[-1]:
                    raise
                self.warn(f"the compiler does not take {' '.join(flags)}")


class Wheel(bdist_wheel):
    """Of any Python: the library uses nothing of its C API. Only the platform counts, and only where there is one."""

    def get_tag(self) -> tuple[str, str, str]:
        platform = super().get_tag()[2] if self.distribution.has_ext_modules() else "any"
        return "py3", "none", platform


# dexar_fast/kernels is a link to kernels/triton that makes the tree importable without an install.
# kernels/ itself must stay without __init__.py: from the repository root it would shadow the package `kernels`
# that transformers imports.
packages = find_packages(include=["dexar_fast", "dexar_fast.*"], exclude=["dexar_fast.kernels", "dexar_fast.kernels.*"])
commands: dict[str, Any] = {"build_ext": BuildLibrary, "bdist_wheel": Wheel}

setup(
    packages=[*packages, "dexar_fast.kernels"],
    package_dir={"dexar_fast.kernels": "kernels/triton"},
    ext_modules=cpp_extensions(),
    cmdclass=commands,
)
