"""Builds the Cython modules; all that can be said in pyproject.toml is said there."""

import os
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import scipy.linalg
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
MSVC = sysconfig.get_platform().startswith("win")
# FASTMLP_DEBUG=1 builds with bounds checks, for finding out why something crashes.
DEBUG = os.environ.get("FASTMLP_DEBUG") == "1"
# FASTMLP_SANITIZE=address,undefined builds under these sanitizers: see tests/sanitize.py.
SANITIZE = os.environ.get("FASTMLP_SANITIZE")
# One wheel serves every Python from 3.11 on. Free-threaded Pythons have no stable ABI yet.
ABI3 = not sysconfig.get_config_var("Py_GIL_DISABLED")

LEVELS = ("avx512", "avx2", "neon", "portable")
BOTH_ENGINES = [f"csrc/{name}.c" for name in ("dropout", "finite", "norm")]
CORE_SOURCES = [
    *(f"csrc/simd_{level}.c" for level in LEVELS),
    *(f"csrc/{name}.c" for name in ("gate", "memory", "pool", "probe", "shuffle", "step")),
]


def write_blas_int() -> None:
    """Tell the Cython code how wide the integers of SciPy's BLAS are.

    SciPy exports `blas_int` from 1.18 on (64 bits wide in ILP64 builds); before, it was int.
    """
    declared = (Path(scipy.linalg.__file__).parent / "cython_blas.pxd").read_text()
    line = "ctypedef int blas_int\n"
    if "blas_int" in declared:
        line = "from scipy.linalg.cython_blas cimport blas_int\n"
    include = ROOT / "src/fastmlp/_blas_int.pxi"
    if not include.exists() or include.read_text() != line:  # else all would be built again
        include.write_text(line)


def extension(name: str, *sources: str) -> Extension:
    """Return one extension module over its Cython source and C sources."""
    macros = [("Py_LIMITED_API", "0x030b0000")] if ABI3 else []
    # Never let the compiler contract or reorder arithmetic: results are promised to the bit.
    flags = ["/O2", "/std:c11"] if MSVC else ["-O3", "-std=gnu11", "-ffp-contract=off", "-pthread"]
    if SANITIZE:
        flags += [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all", "-DFM_COMPACT"]
        flags += ["-O1", "-g", "-fno-omit-frame-pointer"]
    elif not MSVC and not DEBUG:
        flags.append("-g0")  # a tenth of the size
    return Extension(
        f"fastmlp.{name}",
        [f"src/fastmlp/{name}.pyx", *sources],
        include_dirs=["csrc"],
        depends=[str(path) for path in (*ROOT.glob("csrc/*"), *ROOT.glob("src/fastmlp/*.px[di]"))],
        define_macros=macros,
        extra_compile_args=flags,
        extra_link_args=[f"-fsanitize={SANITIZE}"] if SANITIZE else [],
        py_limited_api=ABI3,
    )


class BuildSideBySide(build_ext):
    """Compiles the sources of a module at the same time: the kernels alone take a minute."""

    def build_extensions(self) -> None:
        compile_in_turn = self.compiler.compile

        def compile_side_by_side(sources: list[str], **options: object) -> list[str]:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                objects = pool.map(lambda source: compile_in_turn([source], **options), sources)
                return [name for names in objects for name in names]

        if not MSVC:  # whose driver sets itself up at its first call
            self.compiler.compile = compile_side_by_side
        super().build_extensions()


write_blas_int()
setup(
    cmdclass={"build_ext": BuildSideBySide},
    ext_modules=cythonize(
        [
            extension("_blas"),
            extension("_blas_engine", *BOTH_ENGINES),
            extension("_core", *BOTH_ENGINES, *CORE_SOURCES),
        ],
        include_path=["src"],
        compiler_directives={
            "language_level": 3,
            "boundscheck": DEBUG,
            "wraparound": False,
            "initializedcheck": DEBUG,
            "cdivision": not DEBUG,
            "freethreading_compatible": True,
        },
    ),
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if ABI3 else {},
)
