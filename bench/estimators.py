"""The estimators timed as they are used: ``python bench/estimators.py [--rounds 5] [WORD ...]``

A pair of processes for every line, ours and the one it is measured by: scikit-learn with the same
settings and the same random_state, the plain trainer, or a step inside of `fit`. They take turns,
each round the other begins; figures are medians over the rounds. A turn is as many whole fits,
or calls, as take a fifth of a second. Where both do the same arithmetic, both have to end at the
same loss. Words choose among the lines: ``digits adam`` are those with both in their names.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import report
from contender import Worker, usable_cpus
from shapes import MNIST, Shape, mnist
from tqdm import tqdm

import fastmlp

TURN = 0.2  # seconds
LOSS_BOUND = 0.002  # as in the race of the trainers
TRAINERS = {"sgd": fastmlp.SGD, "adam": fastmlp.Adam}


@dataclass(frozen=True)
class Job:
    """What one process does again and again: a function of this module, and what it is given."""

    work: str
    data: str
    dtype: str
    options: dict[str, Any]
    library: str = "fastmlp"


@dataclass(frozen=True)
class Line:
    """Two jobs, and what is wanted of the time of theirs divided by ours."""

    name: str
    ours: Job
    theirs: Job
    wanted: float
    threads: int = 1

    @property
    def same_loss(self) -> bool:
        return self.ours.work == self.theirs.work


def lines() -> Iterator[Line]:
    """All that is measured, with what is promised of it."""
    digits = {"hidden_layer_sizes": [100], "batch_size": 32, "max_iter": 100}
    mnist = {"hidden_layer_sizes": [256, 128], "batch_size": 128, "max_iter": 3}
    texts = {"hidden_layer_sizes": [100], "max_iter": 3}
    whole = [("digits", dtype, solver, digits, 10.0) for dtype, solver in product(DTYPES, SOLVERS)]
    whole += [("mnist", "float32", "sgd", mnist, 2.0), ("mnist", "float32", "adam", mnist, 2.5)]
    for data, dtype, solver, options, wanted in whole:
        options = options | {"solver": solver}
        ours = Job("fit", data, dtype, options)
        name = f"fit {data} {solver} {dtype}"
        yield Line(name, ours, Job("fit", data, dtype, options, "sklearn"), wanted)
        yield Line(f"{name} over the trainer", ours, Job("trainer", data, dtype, options), 1 / 1.1)
    for work, dtype, wanted in [
        ("fit", "float32", 4.0),
        ("fit", "float64", 3.0),
        ("predict", "float64", 2.0),
        ("predict_one", "float64", 2.0),
    ]:
        ours, theirs = (Job(work, "texts", dtype, texts, of) for of in ("fastmlp", "sklearn"))
        yield Line(f"{work} sparse texts adam {dtype}", ours, theirs, wanted)
    ours, theirs = (Job("grid", "digits", "float64", {}, of) for of in ("fastmlp", "sklearn"))
    yield Line("GridSearchCV digits, 24 settings, n_jobs=2", ours, theirs, 8.0, threads=2)
    for dtype, solver in product(DTYPES, SOLVERS):
        options = mnist | {"batch_size": 32, "solver": solver}
        ours, theirs = (Job(work, "mnist", dtype, options) for work in ("partial_fit", "steps"))
        yield Line(f"partial_fit mnist {solver} {dtype} over a step of fit", ours, theirs, 1 / 1.5)


DTYPES, SOLVERS = ["float32", "float64"], ["sgd", "adam"]


def load(name: str, dtype: str) -> tuple[Any, np.ndarray]:
    """The digits; texts; or MNIST's test images where they are, else random data of their shape."""
    if name == "texts":
        return texts(dtype)
    if name == "digits":
        X, y = fastmlp.data.load_digits()
        return (X / 16).astype(dtype), y
    if not MNIST.exists():
        return Shape((784, 256, 128, 10), 128, 10_000, dtype).data()
    return mnist(dtype)


def texts(dtype: str) -> tuple[Any, np.ndarray]:
    """Counts of 20,000 words in 5,000 texts of 30 to 300, on 10 subjects, in rows of length 1.

    A word's share falls with its rank, as Zipf has it; each subject has 500 of its own, ten times
    as frequent there.
    """
    from scipy import sparse

    rng, n_words = np.random.default_rng(0), 20_000
    y = rng.integers(0, 10, 5000)
    shares = np.tile(1 / np.arange(1, n_words + 1), (10, 1))
    for subject in shares:
        subject[rng.choice(n_words, 500, replace=False)] *= 10
    rows = []
    for label in y:
        p = shares[label] / shares[label].sum()
        words = rng.choice(n_words, rng.integers(30, 300), p=p)
        rows.append(sparse.csr_array(np.bincount(words, minlength=n_words).reshape(1, -1)))
    X = sparse.vstack(rows, format="csr").astype(dtype)
    lengths = np.sqrt(X.multiply(X).sum(axis=1))
    return sparse.csr_array(X.multiply(1 / lengths.reshape(-1, 1)), dtype=dtype), y


def classifier(job: Job, **changes: Any) -> Any:
    """A new estimator of the job's library, that stops for no reason but max_iter."""
    if job.library == "sklearn":
        from sklearn.neural_network import MLPClassifier
    else:
        MLPClassifier = fastmlp.MLPClassifier
    options = {"random_state": 0, "tol": 0.0, "n_iter_no_change": 10_000}
    return MLPClassifier(**options | job.options | changes)


def fit(job: Job, X, y) -> Callable[[], float]:
    return lambda: classifier(job).fit(X, y).loss_


def predict(job: Job, X, y) -> Callable[[], float]:
    return predict_one(job, X, y, len(y))


def predict_one(job: Job, X, y, n: int = 1) -> Callable[[], float]:
    model, rows = classifier(job).fit(X, y), X[:n]

    def work() -> float:
        model.predict(rows)
        return model.loss_

    return work


def trainer(job: Job, X, y) -> Callable[[], float]:
    """The same network under the plain trainer, with the rates the estimator has by default."""
    sizes = [X.shape[1], *job.options["hidden_layer_sizes"], 10]
    decay = 0.0001 / job.options["batch_size"]  # alpha, as a full batch has it

    def work() -> float:
        model = fastmlp.MLP(sizes, dtype=job.dtype)
        rule = {"momentum": 0.9, "nesterov": True} if job.options["solver"] == "sgd" else {}
        optimizer = TRAINERS[job.options["solver"]](
            model,
            learning_rate=0.001,
            weight_decay=decay,
            batch_size=job.options["batch_size"],
            **rule,
        )
        return optimizer.fit(X, y, epochs=job.options["max_iter"]).loss[-1]

    return work


def grid(job: Job, X, y) -> Callable[[], float]:
    from sklearn.model_selection import GridSearchCV

    settings = {
        "hidden_layer_sizes": [(50,), (100,)],
        "alpha": [1e-4, 1e-3, 1e-2],
        "learning_rate_init": [0.001, 0.01],
        "batch_size": [32, 64],
    }
    estimator = classifier(job, max_iter=20)
    search = GridSearchCV(estimator, settings, cv=3, n_jobs=2)
    return lambda: search.fit(X, y).best_estimator_.loss_


def partial_fit(job: Job, X, y) -> Callable[[], float]:
    """One batch of rows after the other, as they come in from somewhere.

    Always the same one would be learnt by heart, and Adam slowed down by the subnormal squares of
    gradients that are next to nothing.
    """
    size = job.options["batch_size"]
    batches = itertools.cycle(
        [(X[i : i + size], y[i : i + size]) for i in range(0, len(X) - size + 1, size)]
    )
    model = classifier(job).partial_fit(*next(batches), classes=np.arange(10))
    return lambda: model.partial_fit(*next(batches)).loss_


def steps(job: Job, X, y) -> Callable[[], float]:
    return fit(job, X, y)


def per_call(job: Job, X) -> int:
    """How many of what is compared are in a call: the steps of a fit, or the call as a whole."""
    if job.work != "steps":
        return 1
    return job.options["max_iter"] * -(-len(X) // job.options["batch_size"])


def work_on(job: Job) -> None:
    """The worker's side: a turn for every line that comes in."""
    warnings.simplefilter("ignore")  # that it has not converged
    say, sys.stdout = sys.stdout, sys.stderr
    X, y = load(job.data, job.dtype)
    work = globals()[job.work](job, X, y)
    work()  # imports, processes and memory are there after it
    start = time.perf_counter()
    work()
    repeats = max(1, round(TURN / (time.perf_counter() - start)))
    print(json.dumps({"repeats": repeats}), file=say, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(repeats):
            loss = work()
        seconds = (time.perf_counter() - start) / repeats / per_call(job, X)
        print(json.dumps({"seconds": seconds, "loss": loss}), file=say, flush=True)


def race(line: Line, rounds: int) -> dict[str, Any]:
    """Both jobs in turns, and what came of it."""
    command = [Path(__file__), "--job"]
    workers = [
        Worker(f"{line.name}, {job.work}", [*command, json.dumps(asdict(job))], line.threads)
        for job in (line.ours, line.theirs)
    ]
    for i in range(rounds):
        for worker in workers if i % 2 else reversed(workers):
            worker.turn()
    for worker in workers:
        worker.close()
    seconds = [[turn["seconds"] for turn in worker.turns] for worker in workers]
    losses = [worker.turns[-1]["loss"] for worker in workers]
    times = statistics.median(seconds[1]) / statistics.median(seconds[0])
    near = abs(losses[0] - losses[1]) <= LOSS_BOUND * abs(losses[1])
    return {
        "line": line.name,
        "threads": line.threads,
        "seconds": seconds,
        "losses": losses,
        "times": times,
        "wanted": line.wanted,
        "reached": times >= line.wanted,
        "agrees": near if line.same_loss else None,
    }


def row(result: dict[str, Any]) -> str:
    ours, theirs = (duration(statistics.median(seconds)) for seconds in result["seconds"])
    spread = max((max(s) - min(s)) / statistics.median(s) for s in result["seconds"])
    cells = [result["line"], ours, theirs]
    if result["wanted"] < 1:  # what it costs, where somebody else is faster by nature
        cells += [f"costs {1 / result['times']:.2f} ×", f"at most {1 / result['wanted']:.1f}"]
    else:
        cells += [f"{result['times']:.1f} × as fast", f"at least {result['wanted']:.1f}"]
    cells[-1] += "" if result["reached"] else ", **missed**"
    cells.append(f"{100 * spread:.0f} %")
    cells.append({True: "agree", False: "**differ**", None: "–"}[result["agrees"]])
    return f"| {' | '.join(cells)} |"


def duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="WORD", help="lines with all of them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE", help="write all that was measured there")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        return work_on(Job(**json.loads(arguments.job)))
    machine = report.machine()
    data = "MNIST's test images" if MNIST.exists() else "random data of MNIST's shape"
    print(f"{report.about(machine)}; {data}\n")
    print("| what | ours | the other | ratio | wanted | spread | losses |")
    print("|---|--:|--:|--:|--:|--:|---|")
    results = []
    for line in tqdm(list(lines()), leave=False, disable=None):
        words = line.name.replace(",", "").split()
        if set(arguments.words) <= set(words) and line.threads <= len(usable_cpus()):
            results.append(race(line, arguments.rounds))
            tqdm.write(row(results[-1]))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({"machine": machine, "rows": results}, indent=1))
    return None


if __name__ == "__main__":
    main()
