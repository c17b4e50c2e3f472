"""The command line: fastmlp train | predict | bench | info."""

import argparse
import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastmlp
from fastmlp import data, engines, persist
from fastmlp.errors import DivergedError, FileFormatError
from fastmlp.inputs import as_int, as_real
from fastmlp.model import MLP
from fastmlp.preprocessing import SCALINGS, Preprocessing, encode_labels
from fastmlp.trainer import SGD

Array = NDArray[Any]

DATA_HELP = (
    "what to read: 'digits' (1,797 images that come with fastmlp), a .csv with a header line, "
    "a .npz with X and y, a .npy, or images in the IDX format (plain or .gz)"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    0 done; 1 training diverged or memory ran out; 2 bad input; 130 interrupted.
    """
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except (ValueError, TypeError, OSError) as error:
        return _fail(2, str(error))
    except DivergedError as error:
        return _fail(1, f"{error}. Nothing was written")
    except MemoryError as error:
        return _fail(1, f"out of memory: {error}. Nothing was written")
    except KeyboardInterrupt:
        return _fail(130, "interrupted, nothing was written")
    return 0


def _fail(code: int, message: str) -> int:
    print(f"fastmlp: error: {' '.join(message.split())}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastmlp", description="Multilayer perceptrons on the CPU.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"fastmlp {fastmlp.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train a classifier and save it", allow_abbrev=False)
    train.set_defaults(run=_train)
    train.add_argument("--data", required=True, metavar="FILE", help=DATA_HELP)
    train.add_argument("--target", metavar="COLUMN", help="the column of a .csv to learn")
    train.add_argument("--labels", metavar="FILE", help="labels of IDX or .npy data")
    train.add_argument("--hidden", type=_widths, default=(100,), metavar="N[,N...]",
                       help="widths of the hidden layers (100)")  # fmt: skip
    train.add_argument("--epochs", type=int, default=30, metavar="N", help="passes (30)")
    train.add_argument("--batch-size", type=int, default=32, metavar="N", help="rows a step (32)")
    train.add_argument("--learning-rate", type=float, default=0.05, metavar="RATE", help="(0.05)")
    train.add_argument("--momentum", type=float, default=0.9, metavar="MU", help="(0.9)")
    train.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    train.add_argument("--threads", type=int, metavar="N", help="threads to use (all)")
    train.add_argument("--test-fraction", type=float, default=0.2, metavar="F",
                       help="share of the rows held out for the test (0.2)")  # fmt: skip
    train.add_argument("--scale", nargs="?", const="standard", choices=SCALINGS,
                       help="of the inputs (range for images, standard for tables)")  # fmt: skip
    train.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is random (0)")
    train.add_argument("--out", metavar="FILE", help="where the model goes (.safetensors)")
    train.add_argument("--json", action="store_true", help="print one JSON object, no bar")

    predict = commands.add_parser("predict", help="apply a saved model", allow_abbrev=False)
    predict.set_defaults(run=_predict)
    predict.add_argument("model", metavar="MODEL", help="a file that train has written")
    predict.add_argument("--data", required=True, metavar="FILE", help=DATA_HELP)
    predict.add_argument("--out", metavar="FILE", help="a .csv to write (standard output)")

    bench = commands.add_parser(
        "bench", help="measure our engines on this machine", allow_abbrev=False
    )
    bench.set_defaults(run=_bench)
    bench.add_argument("--threads", type=int, metavar="N", help="most threads (all)")
    bench.add_argument("--seconds", type=float, default=1.0, metavar="S", help="a figure (1.0)")
    bench.add_argument("--json", action="store_true", help="print one JSON list")

    info = commands.add_parser(
        "info", help="say what this machine gets, or what a model is", allow_abbrev=False
    )
    info.set_defaults(run=_info)
    info.add_argument("model", nargs="?", metavar="MODEL", help="a model file to describe")
    info.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _widths(text: str) -> tuple[int, ...]:
    try:
        widths = tuple(int(part) for part in text.split(",") if text.strip())
    except ValueError:
        widths = (0,)
    if any(width < 1 for width in widths):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of layer widths like 256,128")
    return widths


def _train(arguments: argparse.Namespace) -> None:
    X, y, features, scaling = _training_data(arguments.data, arguments.target, arguments.labels)
    X = _matrix(X, arguments.data)
    numbers, labels = encode_labels(y)
    if len(numbers) != len(X):
        raise ValueError(f"{arguments.data} has {len(X)} rows, its labels are {len(numbers)}")
    if not 0 <= arguments.test_fraction < 1:
        raise ValueError(f"--test-fraction is {arguments.test_fraction}, expected 0 <= F < 1")
    if arguments.seed < 0:
        raise ValueError(f"--seed is {arguments.seed}, expected at least 0")
    if arguments.epochs < 1:
        raise ValueError(f"--epochs is {arguments.epochs}, expected at least 1")
    if arguments.out is not None:
        persist.check_writable(arguments.out)

    order = np.random.default_rng(arguments.seed).permutation(len(X))
    n_test = round(arguments.test_fraction * len(X))
    test, rest = order[:n_test], order[n_test:]
    if not len(rest):
        raise ValueError(f"{arguments.data} has {len(X)} rows: none are left to train on")
    preprocessing = Preprocessing.learn(X[rest], labels, features, arguments.scale or scaling)
    X = preprocessing.apply(X)

    sizes = [X.shape[1], *arguments.hidden, len(labels)]
    model = MLP(sizes, dtype=arguments.dtype, seed=arguments.seed)
    model.metadata = preprocessing.to_metadata()
    trainer = SGD(
        model,
        learning_rate=arguments.learning_rate,
        momentum=arguments.momentum,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        n_threads=arguments.threads,
    )
    history = trainer.fit(
        X[rest],
        numbers[rest],
        epochs=arguments.epochs,
        validation_data=(X[test], numbers[test]) if n_test else None,
        progress=not arguments.json,
    )
    if arguments.out is not None:
        model.save(arguments.out)

    with trainer.threads() as threads:
        seconds = sum(history.seconds)
        result = {
            "test_accuracy": history.validation_accuracy[-1] if n_test else None,
            "loss": history.loss[-1],
            "epochs": history.epochs,
            "seconds": seconds,
            "samples_per_second": len(rest) * history.epochs / seconds,
            "engine": trainer.engine,
            "threads": threads,
            "model": arguments.out,
        }
    print(json.dumps(result) if arguments.json else _result_table(result, n_test))


def _result_table(result: dict[str, Any], n_test: int) -> str:
    accuracy = result["test_accuracy"]
    rows = {
        "test accuracy": "no rows held out" if accuracy is None else f"{accuracy:.4f} of {n_test}",
        "training loss": f"{result['loss']:.4g}",
        "epochs": result["epochs"],
        "seconds": f"{result['seconds']:.3f}",
        "samples/s": f"{result['samples_per_second']:,.0f}",
        "engine": result["engine"],
        "threads": result["threads"],
        "model": result["model"] or "not saved (--out FILE saves it)",
    }
    return "\n".join(f"{key:<14} {value}" for key, value in rows.items())


def _predict(arguments: argparse.Namespace) -> None:
    model = MLP.load(arguments.model)
    try:
        preprocessing = Preprocessing.from_metadata(model.metadata, model.sizes[0], model.sizes[-1])
    except ValueError as error:
        raise persist.not_a_model(arguments.model, str(error)) from None
    X = _matrix(_features(arguments.data, preprocessing.features), arguments.data)
    if X.shape[1] != model.sizes[0]:
        raise ValueError(
            f"{arguments.data} has {X.shape[1]} features, {arguments.model} expects "
            f"{model.sizes[0]}"
        )
    X = preprocessing.apply(X)
    P, numbers = model.predict_proba(X), model.predict(X)
    digits = 9 if model.dtype == "float32" else 17  # enough to give the number back exactly
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["label", *(f"probability_{label}" for label in preprocessing.labels)])
    for number, row in zip(numbers, P, strict=True):
        writer.writerow([preprocessing.labels[number], *(f"{p:.{digits}g}" for p in row)])
    if arguments.out is None:
        sys.stdout.write(text.getvalue())
        return
    with persist.write_atomically(arguments.out) as file:
        file.write(text.getvalue().encode())
    print(f"{len(P)} predictions in {arguments.out}")


def _bench(arguments: argparse.Namespace) -> None:
    from fastmlp import benchmark

    most = as_int(arguments.threads or engines.usable_threads(), "--threads", 1)
    threads = sorted({min(2**i, most) for i in range(most.bit_length() + 1)})
    rows = benchmark.run(threads=threads, seconds=as_real(arguments.seconds, "--seconds", 0.01))
    print(json.dumps(rows) if arguments.json else benchmark.table(rows))


def _info(arguments: argparse.Namespace) -> None:
    if arguments.model is None:
        if arguments.json:
            print(json.dumps(engines.configuration()))
        else:
            engines.show_config()
        return
    model = MLP.load(arguments.model)
    description = {
        "sizes": list(model.sizes),
        "activation": model.activation,
        "loss": model.loss_name,
        "dtype": model.dtype,
        "parameters": model.n_parameters,
        "labels": model.metadata.get("labels"),
        "features": model.metadata.get("features"),
    }
    if arguments.json:
        print(json.dumps(description))
        return
    for key, value in description.items():
        if value is not None:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            print(f"{key:<10}  {shown}")


def _training_data(
    name: str, target: str | None, labels: str | None
) -> tuple[Array, Any, list[str] | None, str]:
    """Return X, the labels as they stand, the names of the columns, and the usual scaling."""
    kind = _kind(name)
    if target is not None and kind != ".csv":
        raise ValueError("--target names a column of a .csv file; give labels by --labels")
    if labels is not None and kind not in ("idx", ".npy"):
        raise ValueError(f"--labels goes with IDX or .npy data; {name} brings its own labels")
    if kind == "digits":
        X, y = data.load_digits()
        return X, y, None, "range"
    if kind == ".csv":
        if target is None:
            raise ValueError(f"{name} needs --target COLUMN, the column to learn")
        table = data.read_csv(name, target=target)
        return table.X, table.target, table.names, "standard"
    if kind == ".npz":
        X, found = data.read_npz(name)
        if found is None:
            raise FileFormatError(f"{name} has no array named y, the labels")
        return X, found, None, "standard"
    if labels is None:
        raise ValueError(f"{name} needs --labels FILE, the labels of its rows")
    y = data.read_npy(labels) if _kind(labels) == ".npy" else data.read_idx(labels)
    return _features(name, None), y, None, "standard" if kind == ".npy" else "range"


def _features(name: str, columns: list[str] | None) -> Array:
    kind = _kind(name)
    if kind == "digits":
        return data.load_digits()[0]
    if kind == ".csv":
        return data.read_csv(name, columns=columns).X
    if kind == ".npz":
        return data.read_npz(name)[0]
    return data.read_npy(name) if kind == ".npy" else data.read_idx(name)


def _kind(name: str) -> str:
    suffix = Path(name).suffix.lower()
    return name if name == "digits" else suffix if suffix in (".csv", ".npz", ".npy") else "idx"


def _matrix(X: Array, name: str) -> Array:
    """Return X with one row a sample, as finite float64."""
    if X.dtype.kind not in "biuf":
        raise FileFormatError(f"{name} holds {X.dtype}, expected real numbers")
    if X.ndim < 2 or X.size == 0:
        raise FileFormatError(f"{name} holds an array of shape {X.shape}, expected rows of numbers")
    X = X.reshape(len(X), -1).astype(np.float64)
    wrong = np.argwhere(~np.isfinite(X))
    if len(wrong):
        row, column = map(int, wrong[0])
        raise FileFormatError(f"{name}, row {row}, column {column}: {X[row, column]} is not finite")
    return X
