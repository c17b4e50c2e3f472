"""What ``fastmlp train`` does: split the rows, train, stop in time, report, write."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import atomic, losschart, modelfile, persist, runs
from fastmlp.history import History
from fastmlp.inputs import as_int
from fastmlp.model import MLP
from fastmlp.optimizers import SGD, Adam
from fastmlp.preprocessing import Preprocessing, Target, encode_labels
from fastmlp.sources import Rows, Samples, read_samples
from fastmlp.trainer import Trainer

__all__ = ["Best", "run"]

Array = NDArray[Any]

DEFAULTS = {
    **{"regression": False, "text": [], "ignore": [], "test_fraction": 0.2, "hidden": (100,)},
    **{"optimizer": "sgd", "batch_size": 32, "dtype": "float32", "early_stopping": False},
    "seed": 0,
}
VALIDATION_FRACTION, PATIENCE = 0.1, 10  # with early stopping
CLASS_RATE, VALUE_RATE, ADAM_RATE = 0.05, 0.01, 0.001
MOMENTUM = 0.9
EPOCHS, MOST_EPOCHS = 30, 500  # without early stopping, and with it


class Best:
    """A callback that keeps the parameters of the epoch with the least validation loss.

    It ends the training when that loss has not got less for `patience` epochs.

    Attributes
    ----------
    epoch : int
        The best so far, counted from 1.
    loss : float
        Its validation loss.
    """

    def __init__(self, model: MLP, patience: int) -> None:
        self.epoch, self.loss = 0, np.inf
        self._model, self._patience = model, patience
        self._params = model.params.copy()

    def join(self, trainer: Trainer) -> bool:
        """Take part in the checkpoints of a trainer, perhaps one that goes on; return as a call."""
        for epoch, loss in enumerate(trainer.history.validation_loss, 1):
            if loss < self.loss:
                self.epoch, self.loss = epoch, loss
        if self.epoch:
            self._params[:] = trainer._kept["best"]
        trainer._kept["best"] = self._params
        return trainer.history.epochs - self.epoch >= self._patience

    def __call__(self, history: History) -> bool:
        """Take note of an epoch; return whether the training is to end."""
        loss = history.validation_loss[-1]
        if loss < self.loss:
            self.epoch, self.loss = history.epochs, loss
            self._params[:] = self._model.params
        return history.epochs - self.epoch >= self._patience

    def restore(self) -> None:
        """Put the parameters of the best epoch into the model."""
        if not self.epoch:
            raise FloatingPointError(
                "the validation loss was not finite after any epoch; try a smaller --learning-rate"
            )
        self._model.params[:] = self._params


def run(arguments: argparse.Namespace) -> None:
    """Train a network as the command line says, write it, and print how well it does."""
    trainer = runs.resume(arguments) if _goes_on(arguments) else None
    _check(arguments)
    arguments.before = runs.stamps(arguments)
    try:
        _run(trainer, arguments)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(runs.how_to_go_on(arguments)) from None


def _run(trainer: Trainer | None, arguments: argparse.Namespace) -> None:
    trainer, best, preprocessing, (X, y), (rest, test) = _train(trainer, arguments)
    model, history = trainer.model, trainer.history
    if best is not None:
        best.restore()

    chart = b""
    if arguments.plot is not None:
        chart = losschart.draw(
            history,
            arguments.plot,
            title=_title(arguments),
            measure=losschart.MEASURES[model.loss_name],
            watched="validation rows" if best else "test rows",
            kept=best is not None,
        )
    if arguments.out is not None:
        model.save(arguments.out)
    if arguments.plot is not None:
        with atomic.writing(arguments.plot) as file:
            file.write(chart)

    result = _scores(model, preprocessing, X[test], y[test])
    result |= {"loss": history.loss[best.epoch - 1 if best else -1], "epochs": history.epochs}
    if best is not None:
        result |= {"best_epoch": best.epoch, "validation_loss": best.loss}
    with trainer.threads() as threads:
        seconds = sum(history.seconds)
        result |= {
            "seconds": seconds,
            "samples_per_second": len(rest) * history.epochs / seconds if seconds else None,
            "engine": trainer.engine,
            "threads": threads,
            "model": arguments.out,
        }
    if arguments.plot is not None:
        result["plot"] = arguments.plot
    print(json.dumps(result) if arguments.json else _report(result, len(test)))


def _goes_on(arguments: argparse.Namespace) -> bool:
    """Return whether a run is to go on, or raise where that is not clear."""
    if arguments.checkpoint is None:
        for option in ("resume", "every"):
            if getattr(arguments, option):
                raise ValueError(f"--{option} goes with --checkpoint")
    elif not arguments.resume and atomic.check_writable(arguments.checkpoint).exists():
        raise ValueError(
            f"{arguments.checkpoint} is there already: --resume goes on with it, or name another"
        )
    arguments.every = 1 if arguments.every is None else as_int(arguments.every, "--every", 1)
    return bool(arguments.resume)


def _train(trainer: Trainer | None, arguments: argparse.Namespace) -> Any:
    """Read the rows and train on them, from the beginning or where a trainer stands.

    Returns
    -------
    trainer : Trainer
    best : Best or None
    preprocessing : Preprocessing
    data : X, y
        All rows, as the network takes them.
    parts : rest, test
        Which of them it was trained on, and which were held out.
    """
    samples = read_samples(
        arguments.data,
        target=arguments.target,
        labels=arguments.labels,
        regression=arguments.regression,
        text=arguments.text,
        ignore=arguments.ignore,
    )
    rest, validation, test = _split(len(samples.rows.X), arguments)
    preprocessing, y = _learn(samples, rest, arguments)
    X = samples.rows.inputs(preprocessing, arguments.dtype)
    if trainer is not None:
        runs.check_rows(trainer, arguments, X, y)
    else:
        n_out = len(preprocessing.labels or [samples.target])
        trainer = _trainer([X.shape[1], *arguments.hidden, n_out], preprocessing, arguments)
        if arguments.checkpoint is not None:
            runs.begin(trainer, arguments, X, y)
    if arguments.out is not None:
        persist.check_description(arguments.out, *modelfile.parts(trainer.model))
    watched = validation if arguments.early_stopping else test
    best = Best(trainer.model, arguments.patience) if arguments.early_stopping else None
    over = best is not None and best.join(trainer)
    trainer.fit(
        X[rest],
        y[rest],
        epochs=0 if over else max(0, arguments.epochs - trainer.history.epochs),
        validation_data=(X[watched], y[watched]) if len(watched) else None,
        progress=not arguments.json,
        callback=best,
    )
    runs.end(trainer)
    return trainer, best, preprocessing, (X, y), (rest, test)


def _check(arguments: argparse.Namespace) -> None:
    """Fill in what was not given, and refuse what cannot be before anything is read."""
    if arguments.data is None:
        raise ValueError("--data is needed: what to learn from")
    for name, value in DEFAULTS.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    early, fraction = arguments.early_stopping, arguments.validation_fraction
    if not 0 <= arguments.test_fraction < 1:
        raise ValueError(f"--test-fraction is {arguments.test_fraction}, expected 0 <= F < 1")
    if arguments.seed < 0:
        raise ValueError(f"--seed is {arguments.seed}, expected at least 0")
    for option, value in (("--validation-fraction", fraction), ("--patience", arguments.patience)):
        if value is not None and not early and not arguments.resume:
            raise ValueError(f"{option} goes with --early-stopping")
    if fraction is None:
        arguments.validation_fraction = VALIDATION_FRACTION
    elif not 0 < fraction < 1:
        raise ValueError(f"--validation-fraction is {fraction}, expected 0 < F < 1")
    if arguments.patience is None:
        arguments.patience = PATIENCE
    elif arguments.patience < 1:
        raise ValueError(f"--patience is {arguments.patience}, expected at least 1")
    if arguments.epochs is None:
        arguments.epochs = MOST_EPOCHS if early else EPOCHS
    elif arguments.epochs < 1:
        raise ValueError(f"--epochs is {arguments.epochs}, expected at least 1")
    if arguments.learning_rate is None:
        sgd_rate = VALUE_RATE if arguments.regression else CLASS_RATE
        arguments.learning_rate = ADAM_RATE if arguments.optimizer == "adam" else sgd_rate
    if arguments.momentum is not None and arguments.optimizer != "sgd":
        raise ValueError(f"--momentum goes with --optimizer sgd, not {arguments.optimizer}")
    if arguments.momentum is None and arguments.optimizer == "sgd":
        arguments.momentum = MOMENTUM
    if arguments.plot is not None:
        losschart.check(arguments.plot)
    if arguments.threads is not None:
        as_int(arguments.threads, "--threads", 1)
    read, written = (
        {f"--{option}": getattr(arguments, option) for option in options}
        for options in (("data", "labels"), ("out", "plot", "checkpoint"))
    )
    atomic.check_apart(read, written)


def _split(n: int, arguments: argparse.Namespace) -> tuple[Array, Array, Array]:
    """Return the rows to train on, to validate on, and to test on."""
    order = np.random.default_rng(arguments.seed).permutation(n)
    n_test = round(arguments.test_fraction * n)
    n_validation = 0
    if arguments.early_stopping:
        n_validation = max(1, round(arguments.validation_fraction * (n - n_test)))
    if n_test + n_validation >= n:
        raise ValueError(f"{arguments.data} has {n} rows: none are left to train on")
    return order[n_test + n_validation :], order[n_test : n_test + n_validation], order[:n_test]


def _learn(
    samples: Samples, rest: Array, arguments: argparse.Namespace
) -> tuple[Preprocessing, Array]:
    """Return what lies between file and network, learnt from the training rows, and the targets.

    Only the names, of classes and of categories, come from all rows.
    """
    rows, target, labels = samples.rows, None, None
    if arguments.regression:
        target = Target.learn(samples.target, samples.targets[rest])
        y = target.standardise(samples.targets).astype(arguments.dtype)
        _check_targets(rows, samples, y)
    else:
        y, labels = encode_labels(samples.targets)
    preprocessing = Preprocessing.learn(
        rows.X[rest],
        labels,
        rows.features,
        arguments.scale or samples.scaling,
        categories=rows.categories,
        target=target,
    )
    return preprocessing, y


def _check_targets(rows: Rows, samples: Samples, y: Array) -> None:
    wrong = np.flatnonzero(~np.isfinite(y))
    if wrong.size:
        row = int(wrong[0])
        value = f"{samples.targets[row]:g} is too large for {y.dtype}"
        raise ValueError(f"{rows.place(row, samples.target)}: {value}")


def _trainer(
    sizes: list[int], preprocessing: Preprocessing, arguments: argparse.Namespace
) -> Trainer:
    """Return the trainer of a new network."""
    loss = "squared_error" if arguments.regression else "softmax_cross_entropy"
    model = MLP(sizes, loss=loss, dtype=arguments.dtype, seed=arguments.seed)
    model.metadata = preprocessing.to_metadata()
    common = {
        "learning_rate": arguments.learning_rate,
        "batch_size": arguments.batch_size,
        "seed": arguments.seed,
        "n_threads": arguments.threads,
    }
    if arguments.optimizer == "adam":
        return Adam(model, **common)
    return SGD(model, momentum=arguments.momentum, **common)


def _scores(model: MLP, preprocessing: Preprocessing, X: Array, y: Array) -> dict[str, Any]:
    """Return how well a model does on held-out rows, None where that is not defined."""
    target = preprocessing.target
    if target is None:
        return {"test_accuracy": model.evaluate(X, y)[1] if len(X) else None}
    r2 = error = None
    if len(X):
        y = y.astype(np.float64)
        wrong = model.predict(X).astype(np.float64) - y
        error = float(np.abs(wrong).mean() * target.scale)
        if y.min() < y.max():
            r2 = float(1 - np.square(wrong).mean() / y.var())
    return {"test_r2": r2, "test_mean_absolute_error": error}


def _title(arguments: argparse.Namespace) -> str:
    name = Path(arguments.data).name
    return name if arguments.target is None else f"{arguments.target} of {name}"


def _report(result: dict[str, Any], n_test: int) -> str:
    none = "no rows held out"
    if "test_accuracy" in result:
        accuracy = result["test_accuracy"]
        rows = {"test accuracy": none if accuracy is None else f"{accuracy:.4f} of {n_test}"}
    else:
        r2, error = result["test_r2"], result["test_mean_absolute_error"]
        constant = "undefined, the target is the same in all rows held out" if n_test else none
        rows = {
            "test R²": constant if r2 is None else f"{r2:.4f} on {n_test} rows",
            "absolute error": none if error is None else f"{error:.4g} on average",
        }
    rows |= {"training loss": f"{result['loss']:.4g}", "epochs": result["epochs"]}
    if "best_epoch" in result:
        loss = result["validation_loss"]
        rows["best epoch"] = f"{result['best_epoch']}, kept, with validation loss {loss:.4g}"
    rate = result["samples_per_second"]
    rows |= {
        "seconds": f"{result['seconds']:.3f}",
        "samples/s": "too many to tell" if rate is None else f"{rate:,.0f}",
        "engine": result["engine"],
        "threads": result["threads"],
        "model": result["model"] or "not saved (--out FILE saves it)",
    }
    if "plot" in result:
        rows["plot"] = result["plot"]
    return "\n".join(f"{key:<14} {value}" for key, value in rows.items())
