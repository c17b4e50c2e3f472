"""``fastmlp explain``: one step of training, printed, or as a report to look at."""

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import atomic, persist
from fastmlp.explain.examples import EXAMPLES
from fastmlp.explain.explanation import Explanation, explain
from fastmlp.inputs import as_real
from fastmlp.model import MLP
from fastmlp.preprocessing import Preprocessing
from fastmlp.sources import read_rows, read_samples

__all__ = ["add_command"]

Array = NDArray[Any]

MOST = 8  # columns, categories and numbers of rows that are named


def add_command(commands: Any, data_help: str) -> None:
    """Add ``explain`` to the commands of a parser."""
    parser = commands.add_parser(
        "explain",
        help="show one step of training with its real numbers",
        description="One step of training with its real numbers: forward, loss, backpropagation, "
        "update, repeat. Without a model, a chain of two weights to check by hand.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    what = parser.add_argument_group("what to explain")
    what.add_argument("--example", choices=EXAMPLES, help="a built-in example (chain)")
    what.add_argument("--model", metavar="MODEL", help="a file that train has written")
    what.add_argument("--data", metavar="FILE", help=data_help)
    what.add_argument("--target", metavar="COLUMN", help="the column of a .csv that was learnt")
    what.add_argument("--labels", metavar="FILE", help="labels of IDX or .npy data")
    what.add_argument("--row", metavar="N", help="which rows: 7, or 0,3,7, or 0:32 (0)")
    what.add_argument("--learning-rate", type=float, metavar="RATE", help="of the update (0.1)")
    out = parser.add_argument_group("what comes out")
    out.add_argument(
        "--weight", metavar="L,I,J", help="only the chain rule of weight I,J of layer L, from 0"
    )
    out.add_argument("--html", metavar="FILE", help="a report to open in a browser")
    out.add_argument("--plot", metavar="FILE", help="a picture (.png, .svg, .pdf)")


def run(arguments: argparse.Namespace) -> None:
    """Print what was asked for, or write it."""
    for path in (arguments.html, arguments.plot):
        if path is not None:
            atomic.check_writable(path)
    explanation, notes = _of_model(arguments) if arguments.model else (_of_example(arguments), [])
    if arguments.weight is not None:
        print(*notes, explanation.weight(*_weight(arguments.weight)), sep="\n")
    if arguments.html is not None:
        explanation.to_html(arguments.html)
        print(f"report in {arguments.html}")
    if arguments.plot is not None:
        figure = explanation.plot()
        kind = arguments.plot.rpartition(".")[2].lower()
        if kind not in ("png", "svg", "pdf"):
            raise ValueError(f"--plot is {arguments.plot!r}, expected .png, .svg or .pdf")
        with atomic.writing(arguments.plot) as file:
            figure.savefig(file, format=kind)
        print(f"picture in {arguments.plot}")
    if (arguments.weight, arguments.html, arguments.plot) == (None, None, None):
        print(*notes, explanation, sep="\n")


def _of_example(arguments: argparse.Namespace) -> Explanation:
    for option in ("data", "target", "labels", "row"):
        if getattr(arguments, option) is not None:
            raise ValueError(f"--{option} goes with --model; the examples bring their own rows")
    model, X, y, rate = EXAMPLES[arguments.example or "chain"]()
    if arguments.learning_rate is not None:
        rate = as_real(arguments.learning_rate, "--learning-rate", 0)
    return explain(model, X, y, learning_rate=rate)


def _of_model(arguments: argparse.Namespace) -> tuple[Explanation, list[str]]:
    """Return the explanation, and in words what its rows and numbers are in the file."""
    if arguments.example is not None:
        raise ValueError("--example and --model are two things to explain, expected one")
    if arguments.data is None:
        raise ValueError("--model needs --data FILE, the rows to explain it on")
    model = MLP.load(arguments.model)
    try:
        preprocessing = Preprocessing.from_metadata(model.metadata, model.sizes[0], model.sizes[-1])
    except ValueError as error:
        raise persist.not_a_model(arguments.model, str(error)) from None
    rate = 0.1
    if arguments.learning_rate is not None:
        rate = as_real(arguments.learning_rate, "--learning-rate", 0)
    found = read_rows(arguments.data, preprocessing)
    n = model.sizes[0] if preprocessing.features is None else len(preprocessing.features)
    if found.X.shape[1] != n:
        raise ValueError(
            f"{arguments.data} has {found.X.shape[1]} features, {arguments.model} expects {n}"
        )
    X = found.inputs(preprocessing, model.dtype)
    row = "0" if arguments.row is None else arguments.row
    rows = _rows(row, len(X), arguments.data)
    y = _targets(arguments, model, preprocessing, rows)
    notes = [*_which(rows, arguments.data), *_scaled(preprocessing)]
    labels = preprocessing.labels
    return explain(model, X[rows], y, learning_rate=rate, labels=labels), notes


def _targets(
    arguments: argparse.Namespace, model: MLP, preprocessing: Preprocessing, rows: list[int]
) -> Array:
    """Return the targets of some rows as the model was trained on them."""
    samples = read_samples(
        arguments.data,
        target=arguments.target,
        labels=arguments.labels,
        regression=not model.classifies,
    )
    if preprocessing.target is not None:
        return preprocessing.target.standardise(np.asarray(samples.targets)[rows])
    names = [str(samples.targets[row]) for row in rows]
    labels = preprocessing.labels or []
    for row, name in zip(rows, names, strict=True):
        if name not in labels:
            raise ValueError(f"the label of row {row} of {arguments.data} is {name!r}, which the "
                             f"model does not know")  # fmt: skip
    return np.array([labels.index(name) for name in names])


def _which(rows: list[int], name: str) -> Iterator[str]:
    """Say which rows of the file they are, where they are not numbered as in it."""
    if rows == list(range(len(rows))):
        return
    if len(rows) == 1:
        yield f"Row 0 here is row {rows[0]} of {name}."
    else:
        shown = ", ".join(map(str, rows[:MOST])) + (", ..." if len(rows) > MOST else "")
        yield f"Rows 0, 1, ... here are rows {shown} of {name}."


def _scaled(preprocessing: Preprocessing) -> Iterator[str]:
    """Say what was made of the columns before the network saw them."""
    shift, scale = preprocessing.shift, preprocessing.scale
    if preprocessing.features is not None:
        yield "The inputs, in order:"
        shifts, scales = (np.broadcast_to(v, len(preprocessing.features)) for v in (shift, scale))
        start = 0
        for i, (name, width) in enumerate(
            zip(preprocessing.features, preprocessing.widths or [], strict=True)
        ):
            if i == MOST:
                yield f"  ({len(preprocessing.features) - MOST} more columns)"
                break
            if name in preprocessing.categories:
                texts = preprocessing.categories[name]
                of = ", ".join(texts[:MOST]) + (", ..." if len(texts) > MOST else "")
                end = f"..{start + width - 1}" * (width > 1)
                yield f"  x[{start}{end}]: 1 for the {name} of the row, of {of}"
            else:
                yield f"  x[{start}]: {_standard(name, float(shifts[i]), float(scales[i]))}"
            start += width
    elif len(shift) > 1:
        yield "Every input has its mean taken off and is divided by its deviation."
    elif (shift, scale) != ([0], [1]):
        yield f"Every input is {_standard('value', shift[0], scale[0])}."
    target = preprocessing.target
    if target is not None:
        yield f"Outputs, and what is wanted: {_standard(target.name, target.shift, target.scale)}"


def _standard(name: str, shift: float, scale: float) -> str:
    """Return how a value was scaled, as a formula."""
    if shift:
        name = f"({name} {'-' if shift > 0 else '+'} {abs(shift):.6g})"
    return name if scale == 1 else f"{name} / {scale:.6g}"


def _rows(text: str, n: int, name: str) -> list[int]:
    try:
        if ":" in text:
            start, _, stop = text.partition(":")
            rows = list(range(int(start or 0), int(stop or n)))
        else:
            rows = [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--row is {text!r}, expected 7, or 0,3,7, or 0:32") from None
    for row in rows:
        if not 0 <= row < n:
            raise ValueError(f"row {row} does not exist: {name} has {n:,} rows, 0..{n - 1}")
    if not rows:
        raise ValueError(f"--row {text} names no row")
    return rows


def _weight(text: str) -> tuple[int, int, int]:
    try:
        layer, i, j = (int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--weight is {text!r}, expected three numbers like 0,5,2") from None
    return layer, i, j
