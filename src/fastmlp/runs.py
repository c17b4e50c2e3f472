"""Runs of ``fastmlp train`` in a file: what they were asked for, to go on with the same.

A checkpoint of the command line holds its options, and a checksum of the rows, in the metadata of
its model, and the parameters of the best epoch beside the trainer. Where the model and the chart go
is not in it: a file of a stranger's would else choose what is overwritten.
"""

import argparse
import os
import shlex
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import atomic, persist
from fastmlp._core import DTYPES, OPTIMIZERS, first_nonfinite
from fastmlp.preprocessing import SCALINGS
from fastmlp.trainer import Trainer

__all__ = [
    "OPTIONS",
    "begin",
    "check_rows",
    "end",
    "how_to_go_on",
    "resume",
    "stamps",
    "written",
]

Array = NDArray[Any]

KEY = "run"
# The options of a run, and what they may be: of a type, or one of some values.
OPTIONS: dict[str, Any] = {
    "data": str,
    "labels": str | None,
    "target": str | None,
    "regression": bool,
    "text": list,
    "ignore": list,
    "test_fraction": float,
    "scale": (*SCALINGS, None),
    "hidden": list,
    "optimizer": tuple(OPTIMIZERS),
    "epochs": int,
    "batch_size": int,
    "learning_rate": float,
    "momentum": float | None,
    "early_stopping": bool,
    "validation_fraction": float,
    "patience": int,
    "dtype": tuple(DTYPES),
    "seed": int,
}
# Those that may be others when it goes on. That the rows are the same is found out by `check_rows`.
MAY_CHANGE = ("data", "labels", "epochs")


def begin(trainer: Trainer, arguments: argparse.Namespace, X: Array, y: Array) -> None:
    """Have the run that begins written to the file the command line names."""
    options = {name: getattr(arguments, name) for name in OPTIONS}
    options["hidden"] = list(options["hidden"])
    trainer.model.metadata[KEY] = {"options": options, "rows": _checksum(X, y)}
    _write(trainer, arguments, None)


def resume(arguments: argparse.Namespace) -> Trainer:
    """Return the trainer to go on with, and complete the arguments by what its run was asked for.

    Raises
    ------
    FileNotFoundError, FileFormatError
    ValueError
        An option is given that the run has another value for.
    """
    path = arguments.checkpoint
    stamp = atomic.stamp(path)
    trainer = Trainer.resume(path, n_threads=arguments.threads)
    run = trainer.model.metadata.get(KEY)
    if not (isinstance(run, dict) and isinstance(run.get("rows"), str) and _valid(run)):
        raise persist.not_a_model(path, "it is not of a run of fastmlp train", "checkpoint")
    options = run["options"]
    best, params = trainer._kept.get("best"), trainer.model.params
    if options["early_stopping"] and (
        best is None
        or (best.shape, best.dtype) != (params.shape, params.dtype)
        or first_nonfinite(best) >= 0
        or len(trainer.history.validation_loss) != trainer.history.epochs
    ):
        raise persist.not_a_model(path, "its best epoch is not valid", "checkpoint")
    for name, held in {**options, "hidden": tuple(options["hidden"])}.items():
        given = getattr(arguments, name)
        if given is None:
            setattr(arguments, name, held)
        elif given != held and name not in MAY_CHANGE:
            began = "without it" if not held and given is True else f"with {_shown(held)}"
            raise ValueError(
                f"--{name.replace('_', '-')} is {'given' if given is True else _shown(given)}, "
                f"but the run in {path} began {began}"
            )
    done = trainer.history.epochs
    if trainer._interrupted is not None and arguments.epochs <= done:
        raise ValueError(
            f"--epochs is {arguments.epochs}, but the run in {path} is in the middle of epoch "
            f"{done + 1}"
        )
    options |= {name: getattr(arguments, name) for name in MAY_CHANGE}
    _write(trainer, arguments, stamp)
    return trainer


def _write(trainer: Trainer, arguments: argparse.Namespace, stamp: tuple[int, int] | None) -> None:
    """Have the run written to its file, as long as that is the one it knows."""
    trainer.checkpoint(arguments.checkpoint, every=arguments.every)
    place = trainer._checkpoint
    assert place is not None
    place.alone, place.stamp = True, stamp


def check_rows(trainer: Trainer, arguments: argparse.Namespace, X: Array, y: Array) -> None:
    """Raise ValueError where these are not the rows that the run began with."""
    if trainer.model.metadata[KEY]["rows"] != _checksum(X, y):
        raise ValueError(
            f"the rows of {arguments.data} are not those that the run in {arguments.checkpoint} "
            "began with"
        )


def end(trainer: Trainer) -> None:
    """Take out of the model what is for the run alone."""
    trainer.model.metadata.pop(KEY, None)


def stamps(arguments: argparse.Namespace) -> dict[str, tuple[int, int] | None]:
    """Return what tells, of each file that is to come out, whether it has been written since."""
    return {
        path: atomic.stamp(path) for path in (arguments.out, arguments.plot) if path is not None
    }


def written(arguments: argparse.Namespace) -> str:
    """Return which of the files that are to come out are written, or ""."""
    new = [path for path, stamp in arguments.before.items() if atomic.stamp(path) != stamp]
    return " and ".join(new) + (" are" if len(new) > 1 else " is") + " written" if new else ""


def how_to_go_on(arguments: argparse.Namespace) -> str:
    """Return what to say where a run is interrupted."""
    done = written(arguments)
    if arguments.checkpoint is None and not done:
        return "interrupted, nothing was written; --checkpoint FILE would have kept the run"
    if arguments.checkpoint is None or not os.path.exists(arguments.checkpoint):
        return f"interrupted; {done}" if done else "interrupted, nothing was written"
    command = [*arguments.argv, *([] if arguments.resume else ["--resume"])]
    return (
        f"interrupted; {done and done + ', and '}{arguments.checkpoint} holds the run, go on with: "
        f"{shlex.join(['fastmlp', *command])}"
    )


def _valid(run: dict[str, Any]) -> bool:
    options = run.get("options")
    if not isinstance(options, dict) or set(options) != set(OPTIONS):
        return False
    for name, value in options.items():
        kind = OPTIONS[name]
        if isinstance(kind, tuple):
            valid = value in kind
        else:
            valid = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        if not valid:
            return False
    return all(isinstance(name, str) for name in options["text"] + options["ignore"]) and all(
        type(width) is int for width in options["hidden"]
    )


def _shown(value: Any) -> str:
    if value is None:
        return "its default"
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _checksum(X: Array, y: Array) -> str:
    return persist.checksum("", {"X": np.ascontiguousarray(X), "y": np.ascontiguousarray(y)})
