"""How fast this machine trains: the engines against its own ceiling, without any other package."""

import statistics
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
# How often everyone's turn comes.
ROUNDS = 3


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

    The engines and numbers of threads take turns, and the medians of three rounds count: a
    machine that is slower for a while is so for all of them. Shuffling the rows is part of what
    is measured; the first epochs are not. A progress bar goes to standard error. All who take
    turns at a network are in memory at once: 0.3 GB each for the widest of `SHAPES`.

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
    rows: list[dict[str, Any]] = []
    bar = tqdm(total=len(chosen) * len(counts) * 2 * ROUNDS, file=sys.stderr, leave=False)
    for sizes, batch_size in chosen:
        contenders = {
            (n_threads, engine): _Contender(sizes, batch_size, engine, n_threads)
            for n_threads in counts
            for engine in ("fused", "blas")
        }
        speeds: dict[tuple[int, str], list[float]] = {key: [] for key in contenders}
        ceilings: dict[int, list[float]] = {n_threads: [] for n_threads in counts}
        for _ in range(ROUNDS):
            for n_threads, found in ceilings.items():
                found.append(ceiling(n_threads, seconds=min(0.2, seconds) / ROUNDS))
            for (n_threads, engine), contender in contenders.items():
                bar.set_description(f"{_name(sizes)}, {engine}, {n_threads} thread(s)")
                speeds[n_threads, engine].append(contender.samples_per_second(seconds / ROUNDS))
                bar.update()
        for (n_threads, engine), found in speeds.items():
            speed = statistics.median(found)
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
                    "percent": 100 * gflops / statistics.median(ceilings[n_threads]),
                }
            )
    bar.close()
    return sorted(rows, key=lambda row: row["threads"])


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


class _Contender:
    """One engine with so many threads, training one network."""

    def __init__(self, sizes: Sequence[int], batch_size: int, engine: str, n_threads: int):
        n_rows = batch_size * max(2, 4096 // batch_size)
        rng = np.random.default_rng(0)
        self.X = rng.standard_normal((n_rows, sizes[0]), dtype=np.float32)
        self.y = rng.integers(sizes[-1], size=n_rows)
        self.trainer = SGD(
            MLP(sizes),
            learning_rate=0.01,
            batch_size=batch_size,
            engine=engine,
            n_threads=n_threads,
        )
        self.trainer.fit(self.X, self.y, epochs=1)  # the caches are cold
        self.epochs = 1

    def samples_per_second(self, seconds: float) -> float:
        """Train for at least half as many seconds and measure how fast."""
        while True:
            start = time.perf_counter()
            self.trainer.fit(self.X, self.y, epochs=self.epochs)
            passed = time.perf_counter() - start
            if passed >= seconds / 2:
                return len(self.X) * self.epochs / passed
            self.epochs = max(self.epochs + 1, int(self.epochs * seconds / max(passed, 1e-4)))


def _doubling(most: int) -> list[int]:
    """Return 1, 2, 4, ... and `most`."""
    return [*(1 << i for i in range((most - 1).bit_length())), most]


def _blas_core() -> str:
    found = engines.configuration()["blas"]
    return ", ".join(sorted({str(blas["core"] or blas["library"]) for blas in found}))


def _name(sizes: Sequence[int]) -> str:
    return "-".join(map(str, sizes))
