"""Which engine computes: chosen by name, loaded when first needed."""

import contextlib
import functools
import os
import platform
import sys
from collections.abc import Iterator
from typing import Any

__all__ = ["ENGINES", "blas_threads", "configuration", "load", "resolve", "show_config"]

ENGINES = ("auto", "blas")


def resolve(name: str) -> str:
    """Return the engine that `name`, one of ENGINES, stands for on this machine."""
    if name not in ENGINES:
        raise ValueError(f"engine is {name!r}, expected one of {', '.join(map(repr, ENGINES))}")
    return "blas"


def load(name: str, largest: int) -> object:
    """Return the engine `name` for networks and batches none of whose sizes exceeds `largest`.

    The BLAS engine brings SciPy's BLAS with it, which takes a tenth of a second to import:
    that happens here, not when fastmlp is imported.
    """
    from fastmlp import _blas, _blas_engine

    if largest > _blas.MAX_DIMENSION:
        raise ValueError(
            f"a size of {largest} is more than the BLAS of this SciPy can take "
            f"({_blas.MAX_DIMENSION})"
        )
    return _blas_engine.engine


@functools.cache
def _thread_pools() -> Any:
    """Return the BLAS libraries of this process, found once."""
    from threadpoolctl import ThreadpoolController

    from fastmlp import _blas  # noqa: F401  (its BLAS must be there to be found)

    return ThreadpoolController().select(user_api="blas")


@contextlib.contextmanager
def blas_threads(n_threads: int | None) -> Iterator[int]:
    """Hold BLAS to `n_threads` threads, or leave it as its caller set it; yields how many it has.

    The limit is one of the whole process, as BLAS has it.
    """
    pools = _thread_pools()
    with contextlib.nullcontext() if n_threads is None else pools.limit(limits=n_threads):
        yield max((pool["num_threads"] for pool in pools.info()), default=1)


def configuration() -> dict[str, Any]:
    """Return what this machine gets: versions, CPU, engine, BLAS, threads.

    Returns
    -------
    dict with the keys ``fastmlp``, ``python``, ``numpy``, ``scipy``, ``platform``, ``cpus``
    (usable by this process), ``engine`` (what ``engine="auto"`` means), ``blas`` (a list of
    dicts: ``library``, ``version``, ``core``, ``threads``).
    """
    import numpy
    import scipy

    import fastmlp

    return {
        "fastmlp": fastmlp.__version__,
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": _usable_cpus(),
        "engine": resolve("auto"),
        "blas": [
            {
                "library": pool["internal_api"],
                "version": pool["version"],
                "core": pool.get("architecture"),
                "threads": pool["num_threads"],
            }
            for pool in _thread_pools().info()
        ],
    }


def _usable_cpus() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def show_config() -> None:
    """Print `configuration` as a short table.

    Examples
    --------
    >>> import fastmlp
    >>> fastmlp.show_config()  # doctest: +SKIP
    fastmlp     0.1.0
    python      3.11.7
    ...
    """
    found = configuration()
    libraries = found.pop("blas")
    for key, value in found.items():
        print(f"{key:<10}  {value}")
    for blas in libraries:
        print(
            f"{'blas':<10}  {blas['library']} {blas['version']}, core {blas['core']}, "
            f"{blas['threads']} threads"
        )
