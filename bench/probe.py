"""The ceiling of this machine: ``python bench/probe.py [--seconds 0.5]``.

Nothing but fused multiply-adds on registers, at every instruction set that this CPU has, in
float32 and float64, on 1..N threads at once.
"""

import argparse

from fastmlp._core import fused_engine
from fastmlp.benchmark import ceiling
from fastmlp.engines import LEVELS, usable_threads


def table(levels: list[str], threads: int, seconds: float) -> str:
    """GFLOP/s as Markdown, a row for every instruction set and dtype."""
    counts = range(1, threads + 1)
    lines = [
        "| GFLOP/s | " + " | ".join(f"{n} thread{'s' * (n > 1)}" for n in counts) + " |",
        "|---" * (threads + 1) + "|",
    ]
    for level in levels:
        for dtype in ("float32", "float64"):
            cells = [f"{ceiling(n, dtype, seconds, level):.1f}" for n in counts]
            lines.append(f"| {level} {dtype} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.5, help="for every figure")
    parser.add_argument("--threads", type=int, default=usable_threads(), help="at most")
    arguments = parser.parse_args()
    levels = [level for level in LEVELS if fused_engine(level) is not None]
    print(table(levels, arguments.threads, arguments.seconds))


if __name__ == "__main__":
    main()
