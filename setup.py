"""Builds the C++ extension; FASTADV_NO_EXT=1 installs without it, on the eager references."""

import os
import re
import sys
import tomllib
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import setup
from setuptools.errors import BaseError, CCompilerError, CompileError

NO_COMPILER = (
    "fastadv: the C++ kernels did not build. Install a C++20 compiler (g++ >= 11 or clang++ >= 14), "
    "or set FASTADV_NO_EXT=1 to install without them and run on the slower PyTorch references."
)


def openmp() -> tuple[list[str], list[str]]:
    """Compile and link flags for threads. Apple's clang has no OpenMP: kernels run on one thread there."""
    return (["-fopenmp-simd"], []) if sys.platform == "darwin" else (["-fopenmp"], ["-fopenmp"])


class BuildKernels(build_ext):
    """build_ext that names the version, and whose failure is one sentence."""

    def build_extensions(self) -> None:
        for extension in self.extensions:
            extension.define_macros.append(("KERNEL_VERSION", f'"{self.distribution.get_version()}"'))
        try:
            super().build_extensions()
        except (CCompilerError, CompileError, BaseError, OSError) as error:
            raise SystemExit(f"{NO_COMPILER}\n({error})") from error


def extensions() -> list[Pybind11Extension]:
    if os.environ.get("FASTADV_NO_EXT") == "1":
        return []
    compile_omp, link_omp = openmp()
    # a sanitised build (tools/sanitize.sh) brings its own level
    level = [] if "-fsanitize" in os.environ.get("CFLAGS", "") else ["-O3"]
    # no contraction and no fast-math: instruction sets round alike, and the kernels' two-sum stays exact
    flags = [
        *level,
        "-ffp-contract=off",
        "-fno-math-errno",
        "-fno-trapping-math",
        "-Wall",
        "-Wextra",
        *compile_omp,
    ]
    return [
        Pybind11Extension(
            "fastadv._C",
            sorted(str(path) for path in Path("csrc").glob("*.cpp")),
            include_dirs=["csrc"],
            depends=[
                "fastadv/_version.py",
                *sorted(
                    str(path) for pattern in ("*.h", "kernels/*.inl") for path in Path("csrc").glob(pattern)
                ),
            ],
            cxx_std=20,
            extra_compile_args=flags,
            extra_link_args=link_omp,
        )
    ]


def readme() -> str:
    """README with absolute addresses: an index shows it without the repository."""
    source = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Source"]
    text = Path("README.md").read_text(encoding="utf-8")
    text = re.sub(r"(!\[[^]]*\]\()(?!https?:)", rf"\1{source}/raw/main/", text)
    return re.sub(r"(\]\()(?!https?:|#)", rf"\1{source}/blob/main/", text)


if __name__ == "__main__":
    ParallelCompile().install()  # a source a core
    setup(
        ext_modules=extensions(),
        cmdclass={"build_ext": BuildKernels},
        long_description=readme(),
        long_description_content_type="text/markdown",
    )
