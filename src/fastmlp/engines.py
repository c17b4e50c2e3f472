"""Which engine computes: chosen by name, loaded when first needed."""

import contextlib
import functools
import math
import os
import platform
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastmlp._core import fused_engine
from fastmlp.turn import new_turn

__all__ = [
    "ENGINES",
    "LEVELS",
    "blas_threads",
    "configuration",
    "fused_threads",
    "load",
    "oversubscribed",
    "resolve",
    "show_config",
    "simd_level",
    "threads_to_infer",
    "usable_threads",
]

ENGINES = ("auto", "fused", "blas")
# Instruction sets of the fused engine, the widest first.
LEVELS = ("avx512", "avx2", "neon", "portable")
# Where Linux says which CPUs are one core.
SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


@functools.cache
def simd_level() -> str:
    """Return the instruction set of the fused engine: the widest, or what FASTMLP_SIMD says."""
    available = [level for level in LEVELS if fused_engine(level) is not None]
    asked = os.environ.get("FASTMLP_SIMD")
    if not asked:
        return available[0]
    if asked not in LEVELS:
        raise ValueError(f"FASTMLP_SIMD is {asked!r}, expected one of {', '.join(LEVELS)}")
    if asked not in available:
        raise ValueError(
            f"FASTMLP_SIMD is {asked!r}, which this CPU lacks; it has {', '.join(available)}"
        )
    return asked


def resolve(name: str) -> str:
    """Return the engine that `name`, one of ENGINES, stands for on this machine.

    ``auto`` is ``fused`` wherever the CPU has a vector level or FASTMLP_SIMD asks for one, for
    networks of every size, and ``blas`` elsewhere.
    """
    if not isinstance(name, str) or name not in ENGINES:
        raise ValueError(f"engine is {name!r}, expected one of {', '.join(map(repr, ENGINES))}")
    if name != "auto":
        return name
    vectors = simd_level() != "portable" or "FASTMLP_SIMD" in os.environ
    return "fused" if vectors else "blas"


def load(name: str, largest: int) -> object:
    """Return the engine `name` for networks and batches none of whose sizes exceeds `largest`.

    The BLAS engine brings SciPy's BLAS with it, which takes a tenth of a second to import:
    that happens here, not when fastmlp is imported.
    """
    if name == "fused":
        return fused_engine(simd_level())
    from fastmlp import _blas, _blas_engine

    if largest > _blas.MAX_DIMENSION:
        raise ValueError(
            f"a size of {largest} is more than the BLAS of this SciPy can take "
            f"({_blas.MAX_DIMENSION})"
        )
    return _blas_engine.engine


def usable_threads() -> int:
    """Return how many threads this process may keep busy.

    The least of the CPUs it may run on, its control group's quota, and OMP_NUM_THREADS.
    """
    limits = [_usable_cpus(), _cgroup_quota()]
    with contextlib.suppress(ValueError):
        limits.append(int(os.environ.get("OMP_NUM_THREADS", "").split(",")[0]))
    return max(1, min(limits))


def fused_threads(n_threads: int | None = None) -> int:
    """Return how many threads of the fused engine stand for `n_threads`: never more than usable.

    None is one for every core: two threads of one core share its arithmetic, and its caches.
    For tests of many threads on a small machine, FASTMLP_OVERSUBSCRIBE=1 makes usable as many as
    are asked for, and shares out even steps that are too small for it.
    """
    if n_threads is not None and oversubscribed():
        return n_threads
    usable = usable_threads()
    return min(usable, _usable_cores() if n_threads is None else n_threads)


def threads_to_infer(is_short: bool, n_threads: int | None = None) -> int:
    """Return how many threads may share a prediction: as `fused_threads` has it.

    For a short one the answer may be a tenth of a second old: asking takes as long as a row.
    """
    global _recent
    if not is_short:
        return fused_threads(n_threads)
    now = time.monotonic()
    asked, usable = _recent
    if now - asked > 0.1:
        usable = fused_threads()
        _recent = now, usable
    return usable if n_threads is None else min(n_threads, usable)


# When `threads_to_infer` last asked, and the answer.
_recent = -math.inf, 1


def oversubscribed() -> bool:
    """Return whether FASTMLP_OVERSUBSCRIBE lifts the limits on threads."""
    return os.environ.get("FASTMLP_OVERSUBSCRIBE") == "1"


def _usable_cpus() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _usable_cores() -> int:
    if sys.platform == "linux":
        return _cores_of(frozenset(os.sched_getaffinity(0)))
    return _usable_cpus()


@functools.cache
def _cores_of(cpus: frozenset[int]) -> int:
    """Return how many cores these CPUs belong to, or how many they are where nobody says."""
    try:
        return len({Path(SIBLINGS.format(cpu)).read_text() for cpu in cpus})
    except OSError:
        return len(cpus)


@functools.cache
def _cgroup_quota() -> int:
    """Return the CPUs that the control group of this process pays for, rounded up."""
    unlimited = sys.maxsize
    for quota_file, period_file in (
        ("/sys/fs/cgroup/cpu.max", None),
        ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
    ):
        with contextlib.suppress(OSError, ValueError):
            quota, *period = Path(quota_file).read_text().split()
            if period_file is not None:
                period = Path(period_file).read_text().split()
            if int(quota) > 0:
                return -(-int(quota) // int(period[0]))
    return unlimited


@functools.cache
def _thread_pools() -> Any:
    """Return the BLAS libraries of this process, found once."""
    from threadpoolctl import ThreadpoolController

    from fastmlp import _blas  # noqa: F401  (its BLAS must be there to be found)

    return ThreadpoolController().select(user_api="blas")


@contextlib.contextmanager
def blas_threads(n_threads: int | None) -> Iterator[int]:
    """Hold BLAS to `n_threads` threads, or leave it as its caller set it; yields how many it has.

    Never more than `usable_threads`. The limit is one of the whole process, as BLAS has it: where
    several hold BLAS at once, the least of their limits holds until they end.
    """
    pools, me = _thread_pools(), object()
    try:
        if n_threads is not None:
            _limits[me] = threading.get_ident(), min(n_threads, usable_threads())
        _limit()
        yield max((pool["num_threads"] for pool in pools.info()), default=1)
    finally:
        try:
            _limits.pop(me, None)
            _limit()
        except BaseException:  # Ctrl-C, before or after it was done
            _limits.pop(me, None)
            _limit()
            raise


# Who holds BLAS to how many threads, and how many its libraries had before.
_limits: dict[object, tuple[int, int]] = {}
_before: list[int] = []
_limit_turn = new_turn()


def _limit() -> None:
    """Give BLAS the threads that `_limits` leaves it."""
    if not _limits and not _before:
        return
    with _limit_turn:
        libraries = _thread_pools().lib_controllers
        limits = [n for _, n in list(_limits.values())]
        if limits and not _before:
            _before[:] = [library.num_threads for library in libraries]
        for library, n in zip(libraries, _before, strict=False):
            wanted = min(limits, default=n)
            if library.num_threads != wanted:
                library.set_num_threads(wanted)
        if not limits:
            _before.clear()


def _forget_limits() -> None:
    """Forget, in a forked process, what threads asked for that it does not have."""
    _limit_turn.release()
    for key in [key for key, (thread, _) in _limits.items() if thread != threading.get_ident()]:
        del _limits[key]


if hasattr(os, "register_at_fork"):
    # Not while BLAS makes threads: it holds a lock then, which the child would wait for for ever.
    os.register_at_fork(
        before=_limit_turn.acquire,
        after_in_parent=_limit_turn.release,
        after_in_child=_forget_limits,
    )


def configuration() -> dict[str, Any]:
    """Return what this machine gets: versions, CPU, engine, BLAS, threads.

    Returns
    -------
    dict with the keys ``fastmlp``, ``python``, ``numpy``, ``scipy``, ``platform``, ``engine``
    (what ``engine="auto"`` means), ``simd`` (the fused engine's instruction set), ``why`` (for
    both), ``threads`` (that a fit takes by itself), ``blas`` (a list of dicts: ``library``,
    ``version``, ``core``, ``threads``).
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
        "engine": resolve("auto"),
        "simd": simd_level(),
        "why": _why(),
        "threads": fused_threads(None),
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


def _why() -> str:
    if os.environ.get("FASTMLP_SIMD"):
        return "FASTMLP_SIMD asks for it"
    if simd_level() == "portable":
        return "this CPU has none of the vector levels that fastmlp knows"
    return f"{simd_level()} is the widest that this CPU has"


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
