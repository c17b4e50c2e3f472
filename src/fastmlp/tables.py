"""Tables of numbers and text: what each column holds, and where a cell cannot be used.

A column is one of numbers where at least half of its cells are; then all have to be. Any other is
one of text, and so is one that the user calls text. The categories of a text column are those of
all rows of the file, held out or not: a category is a name, nothing is learnt from it. Every cell
has to hold something: empty cells and the words in `MISSING` do not. In a column that the user
calls text, these words are categories like any other (NA may be Namibia).
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.data import Cells
from fastmlp.errors import FileFormatError, listed, shown

__all__ = ["MISSING", "MOST_CATEGORIES", "labels", "learn_categories", "numbers", "to_matrix"]

Array = NDArray[Any]

MISSING = frozenset(["", "na", "n/a", "nan", "<na>", "null"])  # in lower case
MOST_CATEGORIES = 1000


def learn_categories(
    cells: Cells, features: Sequence[str], text: Collection[str] = ()
) -> dict[str, list[str]]:
    """Return the categories of every column of text; the other columns are of numbers.

    Parameters
    ----------
    cells : Cells
    features : sequence of str
        The columns to look at.
    text : collection of str
        Those to take as text, whatever they hold.

    Raises
    ------
    FileFormatError
        A missing value, a text in a column of numbers, or so many different texts that they
        cannot be categories.

    Examples
    --------
    >>> cells = Cells("t.csv", {"size": ["1", "2.5"], "port": ["C", "Q"]}, [2, 3])
    >>> learn_categories(cells, ["size", "port"])
    {'port': ['C', 'Q']}
    """
    categories = {}
    for name in features:
        column = cells.columns[name]
        if name not in text and _floats(column) is not None:
            continue
        leave_out = f"--ignore {name!r} leaves the column out"
        _refuse_missing(cells, name, name in text, f"; {leave_out}")
        n_numbers = 0 if name in text else sum(map(_is_number, column))
        if 2 * n_numbers >= len(column):
            row = _first_not_number(column)
            kind = "" if _is_number(column[row]) else (
                f", as {n_numbers} of the {len(column)} cells of the column are; "
                f"--text {name!r} takes all of them as text"
            )  # fmt: skip
            raise FileFormatError(f"{cells.place(row, name)}: {_not_number(column[row])}{kind}")
        found = sorted(set(column))
        if len(found) > _most(len(column), 2):
            raise FileFormatError(
                f"{cells.path}, column {name!r}: {len(found)} different texts in {len(column)} "
                f"rows are too many to be categories, which may be {_most(len(column), 2)} here; "
                f"{leave_out}"
            )
        categories[name] = found
    return categories


def to_matrix(
    cells: Cells, features: Sequence[str], categories: Mapping[str, Sequence[str]]
) -> Array:
    """Return a row for every row of the table: numbers as they are, texts as category numbers.

    Raises
    ------
    FileFormatError
        A missing value, a text where a number is expected, a category that is not known.

    Examples
    --------
    >>> cells = Cells("t.csv", {"size": ["1", "2.5"], "port": ["Q", "C"]}, [2, 3])
    >>> to_matrix(cells, ["size", "port"], {"port": ["C", "Q"]})
    array([[1. , 1. ],
           [2.5, 0. ]])
    """
    X = np.empty((len(cells.lines), len(features)))
    for i, name in enumerate(features):
        if name in categories:
            X[:, i] = _category_numbers(cells, name, categories[name])
        else:
            X[:, i] = numbers(cells, name)
    return X


def numbers(cells: Cells, name: str) -> Array:
    """Return a column of numbers, or raise a FileFormatError that says where it is not one."""
    column = cells.columns[name]
    found = _floats(column)
    if found is None:
        row = _first_not_number(column)
        raise FileFormatError(f"{cells.place(row, name)}: {_not_number(column[row])}")
    return found


def labels(cells: Cells, name: str, is_text: bool = False) -> list[str]:
    """Return a column of class names.

    Parameters
    ----------
    cells : Cells
    name : str
    is_text : bool
        Whether the user calls the column text: then numbers are names like any other.

    Raises
    ------
    FileFormatError
        A missing value, or numbers or texts that are hardly classes.
    """
    column = cells.columns[name]
    _refuse_missing(cells, name, is_text)
    n_classes = len(set(column))
    found = None if is_text else _floats(column)
    if found is not None:
        advice = f"--regression learns numbers, --text {name!r} takes them as names"
        fractions = np.flatnonzero(found != np.round(found))
        if fractions.size:
            row = int(fractions[0])
            raise FileFormatError(
                f"{cells.place(row, name)}: {column[row]} is not the number of a class; {advice}"
            )
        if n_classes > _most(len(column), 5):
            raise FileFormatError(
                f"{cells.path}, column {name!r}: {n_classes} different numbers in {len(column)} "
                f"rows are too many to be classes; {advice}"
            )
    if n_classes > _most(len(column), 2):
        raise FileFormatError(
            f"{cells.path}, column {name!r}: {n_classes} different texts in {len(column)} rows "
            f"are too many to be classes, which may be {_most(len(column), 2)} here"
        )
    return column


def _most(n_rows: int, rows_each: int) -> int:
    """How many categories a column may have, at so many rows each; small tables may have ten."""
    return min(MOST_CATEGORIES, max(10, n_rows // rows_each))


def _refuse_missing(cells: Cells, name: str, is_text: bool, advice: str = "") -> None:
    missing = [row for row, cell in enumerate(cells.columns[name]) if _is_missing(cell, is_text)]
    if missing:
        n = len(missing) - 1
        more = f", and so {'is' if n == 1 else 'are'} {n} more of this column" if n else ""
        place, cell = cells.place(missing[0], name), cells.columns[name][missing[0]]
        raise FileFormatError(f"{place}: {_not_number(cell)}{more}{advice}")


def _category_numbers(cells: Cells, name: str, categories: Sequence[str]) -> list[int]:
    column = cells.columns[name]
    number = {category: i for i, category in enumerate(categories)}
    try:
        return [number[cell] for cell in column]
    except KeyError:
        row = next(row for row, cell in enumerate(column) if cell not in number)
    cell = column[row]
    known = f"the categories that the model knows: {listed(list(map(repr, categories)))}"
    if _is_missing(cell):
        what = _not_number(cell)
    elif _is_number(cell) and not any(map(_is_number, categories)):
        what = f"{cell} is a number, expected one of {known}"
    else:
        what = f"{shown(cell)} is none of {known}"
    raise FileFormatError(f"{cells.place(row, name)}: {what}")


def _floats(column: list[str]) -> Array | None:
    """Return the numbers in a column, or None where not all of its cells are finite numbers."""
    try:
        found = np.array([float(cell) for cell in column])
    except ValueError:
        return None
    if not np.isfinite(found).all() or any("_" in cell for cell in column):
        return None
    return found


def _first_not_number(column: list[str]) -> int:
    return next(row for row, cell in enumerate(column) if _floats([cell]) is None)


def _is_number(cell: str) -> bool:
    """Return whether a cell is a number, be it infinite."""
    try:
        return "_" not in cell and not math.isnan(float(cell))  # Python takes 1_0 for a number
    except ValueError:
        return False


def _is_missing(cell: str, is_text: bool = False) -> bool:
    return not cell if is_text else cell.lower() in MISSING


def _not_number(cell: str) -> str:
    if not cell:
        return "the cell is empty"
    if _is_missing(cell):
        return f"{cell!r} stands for a missing value"
    return f"{shown(cell)} is not {'finite' if _is_number(cell) else 'a number'}"
