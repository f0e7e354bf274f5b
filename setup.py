"""What pyproject.toml cannot say: where the packages lie, and the C++ extension."""

from pathlib import Path

from setuptools import Extension, find_packages, setup


def cpp_extensions() -> list[Extension]:
    """The CPU kernels in csrc/. A machine without a C++ compiler installs without them and says so."""
    sources = sorted(str(path) for path in Path("csrc").glob("*.cpp"))
    if not sources:
        return []
    flags = ["-std=c++17", "-O3", "-fopenmp", "-fno-math-errno", "-Wno-psabi"]
    return [
        Extension(
            "dexar_fast._cpu",
            sources,
            depends=sorted(str(path) for path in Path("csrc").glob("*.h")),
            language="c++",
            extra_compile_args=flags,
            optional=True,
        )
    ]


# dexar_fast/kernels is a link to kernels/triton that makes the tree importable without an install.
# kernels/ itself must stay without __init__.py: from the repository root it would shadow the package `kernels`
# that transformers imports.
packages = find_packages(include=["dexar_fast", "dexar_fast.*"], exclude=["dexar_fast.kernels", "dexar_fast.kernels.*"])

setup(
    packages=[*packages, "dexar_fast.kernels"],
    package_dir={"dexar_fast.kernels": "kernels/triton"},
    ext_modules=cpp_extensions(),
)
