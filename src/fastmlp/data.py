"""Data to train on: the embedded digits, and readers for CSV, NPZ, NPY and IDX files.

Every reader refuses what it cannot read with a `FileFormatError` that names the file and the
place.
"""

import array
import codecs
import csv
import math
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from fastmlp.arrayfiles import existing, read_idx, read_npy, read_npz
from fastmlp.errors import FileFormatError, listed, shown

__all__ = [
    "Cells",
    "Table",
    "load_digits",
    "read_cells",
    "read_csv",
    "read_idx",
    "read_npy",
    "read_npz",
]

Array = NDArray[Any]
PathLike = str | os.PathLike[str]

# What a row of a CSV file may hold, which bounds the memory that it takes as text.
LONGEST_ROW = 2**20  # characters
MOST_COLUMNS = 2**16


def load_digits() -> tuple[Array, Array]:
    """Return 1,797 images of handwritten digits and the digits they show.

    Returns
    -------
    X : ndarray of float32 (1797, 64)
        8 x 8 pixels row by row, 0 (paper) to 16 (ink).
    y : ndarray of int64 (1797,)

    Notes
    -----
    "Optical Recognition of Handwritten Digits", E. Alpaydin and C. Kaynak (1998), UCI Machine
    Learning Repository, https://doi.org/10.24432/C50P49, CC BY 4.0; its test part.

    Examples
    --------
    >>> import fastmlp
    >>> X, y = fastmlp.data.load_digits()
    >>> X.shape, y[:5]
    ((1797, 64), array([0, 1, 2, 3, 4]))
    """
    with np.load(Path(__file__).with_name("digits.npz")) as arrays:
        return arrays["X"].astype(np.float32), arrays["y"].astype(np.int64)


@dataclass
class Table:
    """What a CSV file holds.

    Attributes
    ----------
    names : list of str
        Of the feature columns.
    X : ndarray of float64 (n_rows, n_features)
    target : list of str or None
        The cells of the target column as they stand, one a row.
    """

    names: list[str]
    X: Array
    target: list[str] | None


def read_csv(
    path: PathLike, *, target: str | None = None, columns: Sequence[str] | None = None
) -> Table:
    """Read a table of numbers with a header line.

    Parameters
    ----------
    path : path of a CSV file in UTF-8, its first line naming the columns
    target : str or None
        The column that holds the targets, of numbers or text.
    columns : sequence of str or None
        The feature columns wanted, in this order; None takes all but the target.

    Raises
    ------
    FileNotFoundError
    FileFormatError
        An unknown, repeated or nameless column, a row of another length, an empty cell, a cell
        that is no finite number: with the line of the file, where the row starts, and the name
        of the column.

    Notes
    -----
    Takes the memory of X (8 bytes a number, and a sixteenth more to grow into), the text of the
    targets, and 16 MB. A row is of 2**16 columns and 2**20 characters at most.
    """
    rows = _rows(path)
    _, header = next(rows)
    names, picks, at_target = _columns(path, header, target, columns)
    numbers = array.array("d")
    targets: list[str] = []
    for line, row in rows:
        place = f"{path}, line {line}"
        numbers.extend([_number(row[i], place, header[i]) for i in picks])
        if at_target is not None:
            label = row[at_target].strip()
            if not label:
                raise FileFormatError(
                    f"{place}, column {shown(header[at_target])}: the cell is empty"
                )
            targets.append(label)
    if not numbers:
        raise FileFormatError(f"{path} has no rows below its header")
    X = np.frombuffer(numbers).reshape(-1, len(names))
    return Table(names, X, targets if at_target is not None else None)


@dataclass
class Cells:
    """The cells of a CSV file as text, without the space around them.

    Attributes
    ----------
    path : path of the file
    columns : dict of str to list of str
        The cells of each column, one a row.
    lines : list of int
        The line of the file where each row starts.
    """

    path: PathLike
    columns: dict[str, list[str]]
    lines: list[int]

    def place(self, row: int, column: str) -> str:
        """Return the words that lead a reader of the file to a cell."""
        return f"{self.path}, line {self.lines[row]}, column {shown(column)}"


def read_cells(
    path: PathLike, *, columns: Sequence[str] | None = None, ignore: Collection[str] = ()
) -> Cells:
    """Read a table of whatever its cells hold, with a header line.

    Parameters
    ----------
    path : path of a CSV file in UTF-8, its first line naming the columns
    columns : sequence of str or None
        The columns wanted, in this order; None takes all.
    ignore : collection of str
        Columns to leave out where `columns` is None.

    Raises
    ------
    FileNotFoundError
    FileFormatError
        An unknown, repeated or nameless column, a row of another length.

    Notes
    -----
    Takes some 60 bytes for every cell, which is text. A row is of 2**16 columns and 2**20
    characters at most.
    """
    rows = _rows(path)
    _, header = next(rows)
    ignore, known = set(ignore), set(header)
    for name in sorted(ignore - known):
        raise _no_column(path, name, header)
    names, picks, _ = _columns(path, header, None, columns)
    kept = [(name, i) for name, i in zip(names, picks, strict=True) if name not in ignore]
    cells: list[list[str]] = [[] for _ in kept]
    lines = []
    for line, row in rows:
        lines.append(line)
        for column, (_, i) in zip(cells, kept, strict=True):
            column.append(row[i].strip())
    if not lines:
        raise FileFormatError(f"{path} has no rows below its header")
    return Cells(path, {name: column for (name, _), column in zip(kept, cells, strict=True)}, lines)


def _rows(path: PathLike) -> Iterator[tuple[int, list[str]]]:
    """Yield the header, then every row that is not blank, with the line where each starts."""
    path = existing(path)
    line = 1  # where the row read next starts; quoted cells may span lines
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = _Lines(file)
            reader = csv.reader(lines, strict=True)
            header = [name.strip() for name in next(reader, [])]
            yield line, header
            lines.begin_row()
            line = reader.line_num + 1
            for row in reader:
                lines.begin_row()
                start, line = line, reader.line_num + 1
                if row and len(row) != len(header):
                    raise FileFormatError(
                        f"{path}, line {start}: {len(row)} cells where the header names "
                        f"{len(header)} columns"
                    )
                if row:
                    yield start, row
    except UnicodeDecodeError as error:
        place = f"{path}, line {_first_not_utf8(path)}"
        raise FileFormatError(f"{place}: not UTF-8 text: {error.reason}") from None
    except csv.Error as error:
        raise FileFormatError(f"{path}, line {line}: {error}") from None


class _Lines:
    """The lines of a file, of which no row may take too many: a quoted cell may span lines."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.begin_row()

    def begin_row(self) -> None:
        """Count from here."""
        self.n_characters, self.n_commas = 0, 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self.file.readline(LONGEST_ROW)
        if not line:
            raise StopIteration
        self.n_characters += len(line)
        self.n_commas += line.count(",")
        if self.n_characters >= LONGEST_ROW:
            raise csv.Error(f"the row has {LONGEST_ROW:,} characters or more")
        if self.n_commas >= MOST_COLUMNS:
            raise csv.Error(f"the row has more than {MOST_COLUMNS:,} cells")
        return line


def _columns(
    path: PathLike, header: list[str], target: str | None, columns: Sequence[str] | None
) -> tuple[list[str], list[int], int | None]:
    """Return the feature columns, their places in the header, and the target's place."""
    if not any(header) or _looks_like_data(header):
        raise FileFormatError(f"{path}, line 1: no header that names the columns")
    for mark in ";\t":
        if len(header) == 1 and mark in header[0]:
            raise FileFormatError(f"{path}, line 1: {mark!r} separates the cells, expected commas")
    if "" in header:
        raise FileFormatError(f"{path}, line 1: column {header.index('') + 1} has no name")
    places = {name: i for i, name in enumerate(header)}
    if len(places) < len(header):
        repeated = min(name for name, n in Counter(header).items() if n > 1)
        raise FileFormatError(f"{path}, line 1: repeats the column {shown(repeated)}")
    if target is not None and target not in places:
        raise _no_column(path, target, header)
    names = [name for name in header if name != target] if columns is None else list(columns)
    for name in names:
        if name not in places:
            raise _no_column(path, name, header)
    if not names:
        raise FileFormatError(f"{path} has no column besides the target {target!r}")
    at_target = None if target is None else places[target]
    return names, [places[name] for name in names], at_target


def _no_column(path: PathLike, name: str, header: list[str]) -> FileFormatError:
    return FileFormatError(f"{path} has no column {shown(name)}; it has {listed(header)}")


def _looks_like_data(header: list[str]) -> bool:
    """Return whether the names are all numbers, and not the 0, 1, 2... that pandas gives."""
    try:
        numbers = [float(name) for name in header]
    except ValueError:
        return False
    return len(set(numbers)) < len(numbers) or not all(name.isdecimal() for name in header)


def _first_not_utf8(path: Path) -> int:
    decoder = codecs.getincrementaldecoder("utf-8")()
    line = 1
    with path.open("rb") as file:
        while block := file.read(2**16):
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                return line + error.object[: error.start].count(b"\n")
            line += block.count(b"\n")
    return line  # it ends within a character


def _number(cell: str, place: str, column: str) -> float:
    try:
        if "_" in cell:  # Python takes 1_000 for a number
            raise ValueError
        value = float(cell)
    except ValueError:
        what = f"{shown(cell)} is not a number" if cell.strip() else "the cell is empty"
        raise FileFormatError(f"{place}, column {shown(column)}: {what}") from None
    if not math.isfinite(value):
        raise FileFormatError(f"{place}, column {shown(column)}: {shown(cell)} is not finite")
    return value
