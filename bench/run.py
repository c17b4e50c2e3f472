"""Race the contenders: ``python bench/run.py [--shape NAME ...] [--rounds 5] [--threads 1]``.

Every contender is a process of its own, held to as many processors as threads, with the
variables that pin OpenBLAS to older kernels unset. They take turns, round after round, one at a
time; the table gives medians and spread over the rounds.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

from peers import CONTENDERS, absent
from shapes import SHAPES, Shape

HERE = Path(__file__).parent
PINS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
FLOPS_PER_ROUND = 2e10


class Contender:
    """A contender's process, waiting for its turns."""

    def __init__(self, name: str, shape: Shape, threads: int, epochs: int) -> None:
        environment = {key: value for key, value in os.environ.items() if key not in PINS}
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        cpus = sorted(os.sched_getaffinity(0))[:threads]
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, "peers.py", name, shape.name, str(threads), str(epochs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=HERE,
            env=environment,
            preexec_fn=lambda: os.sched_setaffinity(0, cpus),
        )
        self.about = self._answer()
        self.seconds: list[float] = []
        self.loss = float("nan")

    def turn(self) -> None:
        print(file=self.process.stdin, flush=True)
        answer = self._answer()
        self.seconds.append(answer["seconds"])
        self.loss = answer["loss"]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with code {self.process.wait()}")
        return json.loads(line)


def race(shape: Shape, threads: int, rounds: int) -> list[dict]:
    """Race all contenders on one shape; returns a row for each."""
    epochs = max(1, round(FLOPS_PER_ROUND / (shape.flops_per_row * shape.rows)))
    contenders = [
        Contender(name, shape, threads, epochs) for name in CONTENDERS if not absent(name)
    ]
    for _ in range(rounds):
        for contender in contenders:
            contender.turn()
    rows = []
    for contender in contenders:
        contender.close()
        rates = [shape.rows * epochs / seconds for seconds in contender.seconds]
        rows.append(
            {
                "shape": shape.name,
                "threads": threads,
                "contender": contender.name,
                "version": contender.about["version"],
                "blas": contender.about["blas"],
                "samples_per_second": statistics.median(rates),
                "gflops": statistics.median(rates) * shape.flops_per_row / 1e9,
                "spread": (max(rates) - min(rates)) / statistics.median(rates),
                "loss": contender.loss,
            }
        )
    return rows


def table(rows: list[dict]) -> str:
    """The rows of one shape as Markdown; ratios are fastmlp over the contender."""
    ours = next(row for row in rows if row["contender"].startswith("fastmlp"))
    lines = [
        "| contender | samples/s | GFLOP/s | spread | fastmlp is | final loss | BLAS core |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratio = ours["samples_per_second"] / row["samples_per_second"]
        lines.append(
            f"| {row['contender']} {row['version']} | {row['samples_per_second']:,.0f} "
            f"| {row['gflops']:.1f} | {row['spread']:.0%} | {ratio:.2f} × | {row['loss']:.5f} "
            f"| {row['blas']} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", action="append", choices=SHAPES, help="all if not given")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", metavar="FILE", help="write all rows there")
    arguments = parser.parse_args()
    missing = [name for name in CONTENDERS if absent(name)]
    print(f"{platform.machine()}, {platform.system()}, {arguments.threads} thread(s)")
    if missing:
        print(f"not installed, so not in the race: {', '.join(missing)}")
    everything = []
    for name in arguments.shape or SHAPES:
        rows = race(SHAPES[name], arguments.threads, arguments.rounds)
        everything += rows
        print(f"\n### {name}\n\n{table(rows)}", flush=True)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
