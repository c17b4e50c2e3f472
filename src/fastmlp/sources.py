"""From the file that a command line names to rows of numbers, with names to speak of them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import data, tables
from fastmlp.errors import FileFormatError, listed
from fastmlp.preprocessing import Preprocessing

__all__ = ["Rows", "Samples", "read_rows", "read_samples"]

Array = NDArray[Any]


@dataclass
class Rows:
    """The rows of a file.

    Attributes
    ----------
    name : str
        Of the file.
    X : ndarray of float64 (n_rows, n_features), finite
        Where a feature is text, the numbers of its categories.
    features : list of str or None
        The names of the columns, where they have some.
    categories : dict of str to list of str
        Those of the features that are text.
    lines : list of int or None
        Where the rows start, if it is a file of text.
    """

    name: str
    X: Array
    features: list[str] | None = None
    categories: Mapping[str, Sequence[str]] = field(default_factory=dict)
    lines: list[int] | None = None

    def place(self, row: int, column: int | str) -> str:
        """Return the words that lead a reader of the file to a value."""
        if isinstance(column, int) and self.features is not None:
            column = self.features[column]
        where = f"row {row}" if self.lines is None else f"line {self.lines[row]}"
        return f"{self.name}, {where}, column {column!r}"

    def inputs(self, preprocessing: Preprocessing, dtype: str) -> Array:
        """Return the inputs of a network for these rows, or raise where one is too large."""
        X = preprocessing.apply(self.X, dtype)
        wrong = np.argwhere(~np.isfinite(X))
        if len(wrong):
            row, column = map(int, wrong[0])
            value = f"{self.X[row, column]:g} is too large for {dtype}"
            raise FileFormatError(f"{self.place(row, column)}: {value}")
        return preprocessing.expand(X)


@dataclass
class Samples:
    """Rows, and what is to be learnt of each.

    Attributes
    ----------
    rows : Rows
    targets : sequence of str or ndarray
        Labels, or values in float64, one a row.
    target : str
        The name of the targets.
    scaling : str
        Which scaling of the inputs is usual for such data.
    """

    rows: Rows
    targets: Any
    target: str
    scaling: str


def read_samples(
    name: str,
    *,
    target: str | None = None,
    labels: str | None = None,
    regression: bool = False,
    text: Collection[str] = (),
    ignore: Collection[str] = (),
) -> Samples:
    """Read what a network can learn from.

    Parameters
    ----------
    name : str
        A file, or ``digits``.
    target : str or None
        The column to learn, of a CSV file.
    labels : str or None
        The file of the labels, for IDX and NPY files.
    regression : bool
        Whether the targets are numbers, and not the names of classes.
    text, ignore : collections of str
        Columns of a CSV file: those to take as text, and those to leave out.
    """
    kind = _kind(name)
    if kind == ".csv":
        if target is None:
            raise ValueError(f"{name} needs --target COLUMN, the column to learn")
        if labels is not None:
            raise ValueError(f"--labels goes with IDX or .npy data; {name} brings its own labels")
        return _table(name, target, regression, text, ignore)
    if target is not None:
        raise ValueError("--target names a column of a .csv file; give labels by --labels")
    for option, columns in (("--text", text), ("--ignore", ignore)):
        if columns:
            raise ValueError(f"{option} names columns of a .csv file; {name} has none")
    if labels is not None and kind not in ("idx", ".npy"):
        raise ValueError(f"--labels goes with IDX or .npy data; {name} brings its own labels")
    if kind == "digits":
        X, y = data.load_digits()
    elif kind == ".npz":
        X, found = data.read_npz(name)
        if found is None:
            raise FileFormatError(f"{name} has no array named y, the labels")
        y = found
    elif labels is None:
        raise ValueError(f"{name} needs --labels FILE, the labels of its rows")
    else:
        X = data.read_npy(name) if kind == ".npy" else data.read_idx(name)
        y = data.read_npy(labels) if _kind(labels) == ".npy" else data.read_idx(labels)
    rows = Rows(name, _matrix(X, name))
    if y.ndim and len(y) != len(X):
        raise ValueError(f"{name} has {len(X)} rows, its labels are {len(y)}")
    if regression:
        y = _values(y, labels or name)
    return Samples(rows, y, "y", "range" if kind in ("digits", "idx") else "standard")


def read_rows(name: str, preprocessing: Preprocessing) -> Rows:
    """Read the features that `preprocessing` knows; a CSV file may hold them in any order.

    Columns that it does not know are not looked at.
    """
    kind, features = _kind(name), preprocessing.features
    if kind == ".csv" and features is not None:
        cells = data.read_cells(name, columns=features)
        categories = preprocessing.categories
        X = tables.to_matrix(cells, features, categories)
        return Rows(name, X, features, categories, cells.lines)
    if preprocessing.categories:
        raise ValueError(
            f"{name} does not name its columns, and the model was trained on columns of text: "
            f"expected a .csv with {listed(features or [])}"
        )
    if kind == "digits":
        X = data.load_digits()[0]
    elif kind == ".csv":
        X = data.read_csv(name).X
    elif kind == ".npz":
        X = data.read_npz(name)[0]
    else:
        X = data.read_npy(name) if kind == ".npy" else data.read_idx(name)
    return Rows(name, _matrix(X, name), features)


def _table(
    name: str, target: str, regression: bool, text: Collection[str], ignore: Collection[str]
) -> Samples:
    if target in ignore:
        raise ValueError(f"--ignore leaves out {target!r}, which is the column to learn")
    if regression and target in text:
        raise ValueError(f"--text {target!r} does not go with --regression, which learns numbers")
    for column in set(text) & set(ignore):
        raise ValueError(f"--ignore and --text both name {column!r}")
    cells = data.read_cells(name, ignore=ignore)
    for column in (target, *text):
        if column not in cells.columns:
            given = listed(list(cells.columns))
            raise FileFormatError(f"{name} has no column {column!r}; it has {given}")
    features = [column for column in cells.columns if column != target]
    if not features:
        raise FileFormatError(f"{name} has no column besides the target {target!r}")
    targets: Any
    if regression:
        targets = tables.numbers(cells, target)
    else:
        targets = tables.labels(cells, target, is_text=target in text)
    categories = tables.learn_categories(cells, features, text)
    X = tables.to_matrix(cells, features, categories)
    return Samples(Rows(name, X, features, categories, cells.lines), targets, target, "standard")


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


def _values(y: Array, name: str) -> Array:
    """Return targets as finite float64, one a row."""
    if y.dtype.kind not in "biuf":
        raise FileFormatError(f"{name} has targets of {y.dtype}, --regression learns real numbers")
    if y.ndim != 1:
        raise FileFormatError(f"{name} has targets of shape {y.shape}, expected one a row")
    values: Array = y.astype(np.float64)
    wrong = np.flatnonzero(~np.isfinite(values))
    if wrong.size:
        row = int(wrong[0])
        raise FileFormatError(f"{name}, the target of row {row}: {y[row]} is not finite")
    return values
