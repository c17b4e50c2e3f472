"""The command line: fastmlp train | predict | explain | bench | info."""

import argparse
import contextlib
import csv
import io
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from numpy.typing import NDArray

import fastmlp
from fastmlp import atomic, engines, persist, runs, training
from fastmlp._core import DTYPES, OPTIMIZERS
from fastmlp.errors import printable
from fastmlp.explain.command import add_command as add_explain
from fastmlp.inputs import as_int, as_real
from fastmlp.model import MLP
from fastmlp.preprocessing import SCALINGS, Preprocessing
from fastmlp.sources import read_rows

Array = NDArray[Any]

DATA_HELP = (
    "what to read: 'digits' (1,797 images that come with fastmlp), a .csv with a header line, "
    "a .npz with X and y, a .npy, or images in the IDX format (plain or .gz)"
)

LINES = re.compile(r"\s*\n\s*")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    0 done; 1 training diverged or memory ran out; 2 bad input; 130 interrupted.
    """
    arguments = _parser().parse_args(argv)
    arguments.argv = sys.argv[1:] if argv is None else list(argv)
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except OSError as error:
        told = str(error) if _flushes() else f"cannot write to standard output: {error.strerror}"
        return _fail(2, told)
    except (ValueError, TypeError, ModuleNotFoundError) as error:
        return _fail(2, str(error))
    except FloatingPointError as error:
        return _fail(1, f"{error}. {_written(arguments)}")
    except MemoryError as error:
        return _fail(1, f"out of memory: {error}. {_written(arguments)}")
    except KeyboardInterrupt as stop:
        return _fail(130, str(stop) or "interrupted, nothing was written")
    return 0


def _written(arguments: argparse.Namespace) -> str:
    """Return what to say of the files of a command that failed."""
    done = runs.written(arguments) if "before" in arguments else ""
    checkpoint = getattr(arguments, "checkpoint", None)
    if checkpoint is None or not os.path.exists(checkpoint):
        return done or "Nothing was written"
    return f"{done and done + ', and '}{checkpoint} holds the run up to an epoch before"


def _flushes() -> bool:
    """Return whether what was printed can be written; if not, it is dropped."""
    try:
        sys.stdout.flush()
    except OSError:
        # The interpreter would try again as it ends, and say so at length.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def _fail(code: int, message: str) -> int:
    print(f"fastmlp: error: {printable(LINES.sub(' ', message))}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastmlp", description="Multilayer perceptrons on the CPU.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"fastmlp {fastmlp.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    _add_train(commands)
    predict = commands.add_parser("predict", help="apply a saved model", allow_abbrev=False)
    predict.set_defaults(run=_predict)
    predict.add_argument("model", metavar="MODEL", help="a file that train has written")
    predict.add_argument("--data", required=True, metavar="FILE", help=DATA_HELP)
    predict.add_argument("--out", metavar="FILE", help="a .csv to write (standard output)")

    add_explain(commands, DATA_HELP)
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


def _add_train(commands: Any) -> None:
    train = commands.add_parser("train", help="train a network and save it", allow_abbrev=False)
    train.set_defaults(run=training.run)
    data = train.add_argument_group("what to learn")
    data.add_argument("--data", metavar="FILE", help=DATA_HELP)
    data.add_argument("--target", metavar="COLUMN", help="the column of a .csv to learn")
    data.add_argument("--labels", metavar="FILE", help="labels of IDX or .npy data")
    data.add_argument("--regression", action="store_true", default=None,
                      help="the target is a number, not a class")  # fmt: skip
    data.add_argument("--text", action="append", metavar="COLUMN",
                      help="take a column as text, whatever it holds (repeatable)")  # fmt: skip
    data.add_argument("--ignore", action="append", metavar="COLUMN",
                      help="leave a column out (repeatable)")  # fmt: skip
    data.add_argument("--test-fraction", type=float, metavar="F",
                      help="share of the rows held out for the test (0.2)")  # fmt: skip
    data.add_argument("--scale", nargs="?", const="standard", choices=SCALINGS,
                      help="of the inputs (range for images, standard for tables)")  # fmt: skip

    how = train.add_argument_group("how")
    how.add_argument("--hidden", type=_widths, metavar="N[,N...]",
                     help="widths of the hidden layers (100)")  # fmt: skip
    how.add_argument("--optimizer", choices=tuple(OPTIMIZERS), help="(sgd)")
    how.add_argument("--epochs", type=int, metavar="N",
                     help=f"passes ({training.EPOCHS}; "
                          f"with --early-stopping at most {training.MOST_EPOCHS})")  # fmt: skip
    how.add_argument("--batch-size", type=int, metavar="N", help="rows a step (32)")
    how.add_argument("--learning-rate", type=float, metavar="RATE",
                     help=f"(sgd {training.CLASS_RATE}, with --regression {training.VALUE_RATE}; "
                          f"adam {training.ADAM_RATE})")  # fmt: skip
    how.add_argument("--momentum", type=float, metavar="MU", help="of sgd (0.9)")
    how.add_argument("--early-stopping", action="store_true", default=None,
                     help="stop when the loss on a validation part of the training rows has not "
                          "got less for a while; keep the best epoch")  # fmt: skip
    how.add_argument("--validation-fraction", type=float, metavar="F",
                     help="that part, a share of the training rows (0.1)")  # fmt: skip
    how.add_argument("--patience", type=int, metavar="N", help="that while, in epochs (10)")
    how.add_argument("--dtype", choices=tuple(DTYPES), help="(float32)")
    how.add_argument("--threads", type=int, metavar="N", help="threads to use (all)")
    how.add_argument("--seed", type=int, metavar="N", help="of all that is random (0)")

    long = train.add_argument_group("runs that take long")
    long.add_argument("--checkpoint", metavar="FILE",
                      help="keep the run in a file as it goes, also after Ctrl-C")  # fmt: skip
    long.add_argument("--every", type=int, metavar="N", help="epochs between two writings (1)")
    long.add_argument("--resume", action="store_true",
                      help="go on with the run in that file; what it was asked for need not be "
                           "given again, but for --out and --plot")  # fmt: skip

    out = train.add_argument_group("what comes out")
    out.add_argument("--out", metavar="FILE", help="where the model goes (.safetensors)")
    out.add_argument("--plot", metavar="FILE",
                     help="where a chart of the losses goes (.png, .svg, .pdf)")  # fmt: skip
    out.add_argument("--json", action="store_true", help="print one JSON object, no bar")


def _widths(text: str) -> tuple[int, ...]:
    try:
        widths = tuple(int(part) for part in text.split(",") if text.strip())
    except ValueError:
        widths = (0,)
    if any(width < 1 for width in widths):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of layer widths like 256,128")
    return widths


def _predict(arguments: argparse.Namespace) -> None:
    read = {"MODEL": arguments.model, "--data": arguments.data}
    atomic.check_apart(read, {"--out": arguments.out})
    model = MLP.load(arguments.model)
    try:
        preprocessing = Preprocessing.from_metadata(model.metadata, model.sizes[0], model.sizes[-1])
        if model.classifies != (preprocessing.target is None):
            raise ValueError(f"its loss, {model.loss_name}, does not go with what it learnt")
    except ValueError as error:
        raise persist.not_a_model(arguments.model, str(error)) from None
    rows = read_rows(arguments.data, preprocessing)
    n_features = model.sizes[0] if preprocessing.features is None else len(preprocessing.features)
    if rows.X.shape[1] != n_features:
        raise ValueError(
            f"{arguments.data} has {rows.X.shape[1]} features, {arguments.model} expects "
            f"{n_features}"
        )
    X = rows.inputs(preprocessing, model.dtype)
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(_predictions(model, preprocessing, X))
    if arguments.out is None:
        try:
            sys.stdout.write(text.getvalue())
        except OSError as error:
            raise OSError(f"cannot write to standard output: {error.strerror}") from None
        return
    with atomic.writing(arguments.out) as file:
        file.write(text.getvalue().encode())
    print(f"{len(X)} predictions in {arguments.out}")


def _predictions(model: MLP, preprocessing: Preprocessing, X: Array) -> Iterator[list[str]]:
    """Yield the header and the rows of a table of predictions."""
    if preprocessing.target is not None:
        yield [preprocessing.target.name]
        for value in preprocessing.target.restore(model.predict(X)).tolist():
            yield [repr(value)]
        return
    labels = preprocessing.labels or []
    digits = 9 if model.dtype == "float32" else 17  # enough to give the number back exactly
    yield ["label", *(f"probability_{label}" for label in labels)]
    for number, row in zip(model.predict(X), model.predict_proba(X), strict=True):
        yield [labels[number], *(f"{p:.{digits}g}" for p in row)]


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
    metadata = model.metadata
    description = {
        "sizes": list(model.sizes),
        "activation": model.activation,
        "loss": model.loss_name,
        "dtype": model.dtype,
        "parameters": model.n_parameters,
        "labels": metadata.get("labels"),
        "features": metadata.get("features"),
    }
    description |= {key: metadata[key] for key in ("categories", "target") if key in metadata}
    if arguments.json:
        print(json.dumps(description))
        return
    with contextlib.suppress(ValueError):  # whose metadata is its own business
        found = Preprocessing.from_metadata(metadata, model.sizes[0], model.sizes[-1])
        description |= {"features": found.described(), "target": found.target and found.target.name}
        description.pop("categories", None)
    for key, value in description.items():
        if value is not None:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            print(f"{key:<10}  {printable(str(shown))}")
