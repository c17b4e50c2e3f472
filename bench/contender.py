"""One contender in a process of its own, and the line it is talked to by.

``python bench/contender.py NAME SHAPE THREADS`` with SHAPE as JSON prints a JSON line about
itself when it is ready, or why it is absent; then, for every line it reads, takes a turn and
prints another. Importing, compiling, converting the data and the first epochs are over by then.
"""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import peers
import predict
from shapes import Shape

from fastmlp.benchmark import ceiling
from fastmlp.engines import simd_level

PROBE = "FMA probe"
# These pin OpenBLAS to older kernels than the machine has.
PINS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
NEEDS = {
    "scikit-learn": ["sklearn"],
    "PyTorch eager": ["torch"],
    "PyTorch compiled": ["torch"],
    "PyTorch traced": ["torch"],
    "JAX": ["jax"],
    "ONNX Runtime": ["onnxruntime", "onnx"],
}


def names(task: str) -> list[str]:
    """Of all contenders for a task, ours first."""
    return list((predict if task == "predict" else peers).CONTENDERS)


def missing(name: str) -> str | None:
    """Why a contender cannot start, if so."""
    modules = [m for m in NEEDS.get(name, []) if importlib.util.find_spec(m) is None]
    return f"{' and '.join(modules)} not installed" if modules else None


def usable_cpus() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


@contextlib.contextmanager
def held_to(cpus: list[int]) -> Iterator[None]:
    """Hold this thread to some processors, where the system can."""
    before = usable_cpus()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, before)


class Worker:
    """A process that says a line when it is ready, and another for every line it is sent.

    It is held to as many processors as it has threads, with the variables that pin OpenBLAS unset.

    Attributes
    ----------
    about : its first answer
    turns : the others
    """

    def __init__(self, name: str, command: list[Any], threads: int) -> None:
        self.name = name
        self.turns: list[dict[str, Any]] = []
        environment = {key: value for key, value in os.environ.items() if key not in PINS}
        environment |= dict.fromkeys(THREADS, str(threads))
        with held_to(usable_cpus()[:threads]):  # the child inherits it
            self.process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
        self.about: dict[str, Any] = self._answer()

    def turn(self) -> None:
        print(file=self.process.stdin, flush=True)
        self.turns.append(self._answer())

    def close(self) -> None:
        self.process.communicate()

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with code {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Contender(Worker):
    """A contender's process seen from the runner.

    Attributes
    ----------
    absent : why it does not take part, or None
    about : version and kernels, as it tells them
    turns : its answers, one a turn
    """

    def __init__(self, name: str, shape: Shape, threads: int) -> None:
        self.absent = missing(name)
        if self.absent:
            self.name, self.about, self.turns = name, {}, []
            return
        command = [Path(__file__), name, json.dumps(asdict(shape)), str(threads)]
        super().__init__(name, command, threads)
        self.absent = self.about.get("absent")
        if self.absent:
            self.close()


def prepare(name: str, shape: Shape, threads: int):
    """What a contender tells about itself, and its turn."""
    if name == PROBE:
        about = {"version": "", "kernels": simd_level()}
        return about, lambda: {"gflops": ceiling(threads, shape.dtype)}
    contenders = (predict if shape.task == "predict" else peers).CONTENDERS
    X, y = shape.data()
    version, kernels, work = contenders[name](shape, X, y, threads)
    for _ in range(2):  # the first ones, compilation included, are not counted
        work(1 if shape.task == "train" else min(100, shape.repeats))

    def turn() -> dict[str, float]:
        start = time.perf_counter()
        value = work(shape.repeats)
        return {"seconds": time.perf_counter() - start, "value": value}

    return {"version": version, "kernels": kernels}, turn


def main() -> None:
    name, shape_text, threads = sys.argv[1:]
    fields = json.loads(shape_text)
    shape = Shape(**fields | {"sizes": tuple(fields["sizes"])})
    say, sys.stdout = sys.stdout, sys.stderr  # libraries may print; the line is ours
    try:
        about, turn = prepare(name, shape, int(threads))
    except Exception as error:
        if name.startswith("fastmlp"):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        print(json.dumps({"absent": f"failed: {reason}"[:200]}), file=say, flush=True)
        return
    print(json.dumps(about), file=say, flush=True)
    for _ in sys.stdin:
        print(json.dumps(turn()), file=say, flush=True)


if __name__ == "__main__":
    main()
