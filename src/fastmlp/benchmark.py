"""How fast this machine trains: the engines against its own ceiling, without any other package."""

import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np

from fastmlp import engines
from fastmlp._core import fma_probe
from fastmlp.model import MLP
from fastmlp.optimizers import SGD

__all__ = ["SHAPES", "ceiling", "run", "table", "training_flops"]

# Layer widths and rows of a step of the five networks that every figure is given for.
SHAPES: tuple[tuple[tuple[int, ...], int], ...] = (
    ((64, 100, 10), 32),
    ((784, 128, 10), 64),
    ((784, 256, 128, 10), 128),
    ((784, 512, 512, 10), 256),
    ((1024, 2048, 2048, 1000), 1024),
)


def training_flops(sizes: Sequence[int]) -> int:
    """Return the useful floating-point operations of a training step for one row.

    A layer of I inputs and O outputs multiplies three times, forward, for dW and for dX, at
    2 I O operations each; the first layer needs no dX.

    Examples
    --------
    >>> training_flops([3, 4, 2])  # 4 · 3 · 4 + 6 · 4 · 2
    96
    """
    products = [n_in * n_out for n_in, n_out in pairwise(sizes)]
    return 4 * products[0] + 6 * sum(products[1:])


def ceiling(
    n_threads: int = 1, dtype: str = "float32", seconds: float = 0.2, level: str | None = None
) -> float:
    """Return what `n_threads` cores can compute at most, in GFLOP/s, by measuring it.

    Every thread does fused multiply-adds on registers for so many seconds, at an instruction
    set of `fastmlp.engines.LEVELS`, or that of the fused engine.
    """
    level = level or engines.simd_level()
    with ThreadPoolExecutor(n_threads) as pool:
        return sum(pool.map(lambda _: fma_probe(level, dtype, seconds), range(n_threads)))


def run(
    shapes: Iterable[tuple[Sequence[int], int]] | None = None,
    threads: Iterable[int] | None = None,
    seconds: float = 1.0,
) -> list[dict[str, Any]]:
    """Train networks on random data, by each engine, and measure how fast.

    Shuffling the rows is part of what is measured; the first epochs are not. A progress bar
    goes to standard error.

    Parameters
    ----------
    shapes : iterable of (sizes, batch_size), or None for `SHAPES`
    threads : iterable of int, or None for 1, 2, 4, ... up to as many as this process may use
    seconds : float
        Time for every figure, roughly; an epoch is never cut short. With `SHAPES` there are ten
        figures for every number of threads.

    Returns
    -------
    list of dict with the keys ``sizes``, ``batch_size``, ``engine``, ``kernels`` (the instruction
    set, or the core that BLAS chose), ``threads``, ``samples_per_second``, ``gflops`` (useful
    GFLOP/s) and ``percent`` (of `ceiling`).

    Examples
    --------
    >>> rows = run(shapes=[([4, 8, 3], 16)], threads=[1], seconds=0.01)
    >>> [row["engine"] for row in rows]
    ['fused', 'blas']
    """
    from tqdm import tqdm

    chosen = [(tuple(sizes), batch_size) for sizes, batch_size in shapes or SHAPES]
    counts = list(threads or _doubling(engines.usable_threads()))
    tasks = [
        (n_threads, sizes, batch_size, engine)
        for n_threads in counts
        for sizes, batch_size in chosen
        for engine in ("fused", "blas")
    ]
    rows: list[dict[str, Any]] = []
    ceilings: dict[int, float] = {}
    for n_threads, sizes, batch_size, engine in (bar := tqdm(tasks, file=sys.stderr, leave=False)):
        bar.set_description(f"{_name(sizes)}, {engine}, {n_threads} thread(s)")
        if n_threads not in ceilings:
            ceilings[n_threads] = ceiling(n_threads, seconds=min(0.2, seconds))
        speed = _samples_per_second(sizes, batch_size, engine, n_threads, seconds)
        gflops = speed * training_flops(sizes) / 1e9
        rows.append(
            {
                "sizes": list(sizes),
                "batch_size": batch_size,
                "engine": engine,
                "kernels": engines.simd_level() if engine == "fused" else _blas_core(),
                "threads": n_threads,
                "samples_per_second": speed,
                "gflops": gflops,
                "percent": 100 * gflops / ceilings[n_threads],
            }
        )
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return what `run` measured as a table to print."""
    lines = [
        f"{'network':<24} {'batch':>5}  {'engine':<24} {'threads':>7} {'samples/s':>12} "
        f"{'GFLOP/s':>8} {'of the ceiling':>14}"
    ]
    for row in rows:
        engine = f"{row['engine']} ({row['kernels']})"
        lines.append(
            f"{_name(row['sizes']):<24} {row['batch_size']:>5}  {engine:<24} {row['threads']:>7} "
            f"{row['samples_per_second']:>12,.0f} {row['gflops']:>8.1f} {row['percent']:>12.0f} %"
        )
    lines.append("The ceiling is what the cores do with nothing but fused multiply-adds, measured.")
    return "\n".join(lines)


def _samples_per_second(
    sizes: Sequence[int], batch_size: int, engine: str, n_threads: int, seconds: float
) -> float:
    n_rows = batch_size * max(2, 4096 // batch_size)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_rows, sizes[0]), dtype=np.float32)
    y = rng.integers(sizes[-1], size=n_rows)
    trainer = SGD(
        MLP(sizes),
        learning_rate=0.01,
        batch_size=batch_size,
        engine=engine,
        n_threads=n_threads,
    )
    trainer.fit(X, y, epochs=1)  # the caches are cold
    epochs = 1
    while True:
        start = time.perf_counter()
        trainer.fit(X, y, epochs=epochs)
        passed = time.perf_counter() - start
        if passed >= seconds / 2:
            return n_rows * epochs / passed
        epochs = max(epochs + 1, int(epochs * seconds / max(passed, 1e-4)))


def _doubling(most: int) -> list[int]:
    """Return 1, 2, 4, ... and `most`."""
    return [*(1 << i for i in range((most - 1).bit_length())), most]


def _blas_core() -> str:
    found = engines.configuration()["blas"]
    return ", ".join(sorted({str(blas["core"] or blas["library"]) for blas in found}))


def _name(sizes: Sequence[int]) -> str:
    return "-".join(map(str, sizes))
