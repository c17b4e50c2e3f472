"""Data to train on: the embedded digits, and readers for CSV, NPZ, NPY and IDX files.

Every reader refuses what it cannot read with a `FileFormatError` that names the file and the
place.
"""

import contextlib
import csv
import gzip
import math
import os
import struct
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fastmlp.errors import FileFormatError

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

# Type codes of the IDX format, as http://yann.lecun.com/exdb/mnist/ gives them; big-endian.
IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


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
    """
    rows = _rows(path)
    _, header = next(rows)
    names, picks, at_target = _columns(path, header, target, columns)
    cells: list[list[float]] = []
    targets: list[str] = []
    for line, row in rows:
        place = f"{path}, line {line}"
        cells.append([_number(row[i], place, header[i]) for i in picks])
        if at_target is not None:
            label = row[at_target].strip()
            if not label:
                raise FileFormatError(f"{place}, column {target!r}: the cell is empty")
            targets.append(label)
    if not cells:
        raise FileFormatError(f"{path} has no rows below its header")
    return Table(names, np.array(cells), targets if at_target is not None else None)


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
        return f"{self.path}, line {self.lines[row]}, column {column!r}"


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
    """
    rows = _rows(path)
    _, header = next(rows)
    for name in ignore:
        if name not in header:
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
    path = _existing(path)
    line = 1  # where the row read next starts; quoted cells may span lines
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            yield line, header
            line = reader.line_num + 1
            for row in reader:
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
    repeated = {name for name in header if header.count(name) > 1}
    if repeated:
        raise FileFormatError(f"{path}, line 1: repeats the column {sorted(repeated)[0]!r}")
    if target is not None and target not in header:
        raise _no_column(path, target, header)
    names = [name for name in header if name != target] if columns is None else list(columns)
    for name in names:
        if name not in header:
            raise _no_column(path, name, header)
    if not names:
        raise FileFormatError(f"{path} has no column besides the target {target!r}")
    at_target = None if target is None else header.index(target)
    return names, [header.index(name) for name in names], at_target


def _no_column(path: PathLike, name: str, header: list[str]) -> FileFormatError:
    return FileFormatError(f"{path} has no column {name!r}; it has {listed(header)}")


def listed(names: Sequence[str]) -> str:
    """Return names in a row, the first ten where they are many."""
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more


def _looks_like_data(header: list[str]) -> bool:
    """Return whether the names are all numbers, and not the 0, 1, 2... that pandas gives."""
    try:
        numbers = [float(name) for name in header]
    except ValueError:
        return False
    return len(set(numbers)) < len(numbers) or not all(name.isdecimal() for name in header)


def _first_not_utf8(path: Path) -> int:
    with path.open("rb") as file:
        for line, text in enumerate(file, 1):
            try:
                text.decode()
            except UnicodeDecodeError:
                return line
    raise AssertionError("a file with an error has a line with it")


def _number(cell: str, place: str, column: str) -> float:
    try:
        if "_" in cell:  # Python takes 1_000 for a number
            raise ValueError
        value = float(cell)
    except ValueError:
        what = f"{cell!r} is not a number" if cell.strip() else "the cell is empty"
        raise FileFormatError(f"{place}, column {column!r}: {what}") from None
    if not math.isfinite(value):
        raise FileFormatError(f"{place}, column {column!r}: {cell!r} is not finite")
    return value


def read_npz(path: PathLike) -> tuple[Array, Array | None]:
    """Read X and, if there is one, y from a NumPy archive.

    Raises
    ------
    FileNotFoundError
    FileFormatError
        Not an archive, damaged, without an array named X, or holding Python objects.
    """
    path = _existing(path)
    with _numpy_file(path) as file:
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise FileFormatError(f"{path} is one array, not an archive; name it .npy")
        if "X" not in archive:
            held = ", ".join(archive.files) or "nothing"
            raise FileFormatError(f"{path} has no array named X; it holds {held}")
        return archive["X"], archive.get("y")


def read_npy(path: PathLike) -> Array:
    """Read one array from a NumPy file.

    Raises
    ------
    FileNotFoundError, FileFormatError
    """
    path = _existing(path)
    with _numpy_file(path) as file:
        array = np.load(file, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise FileFormatError(f"{path} is an archive of arrays, not one; name it .npz")
        return array


@contextlib.contextmanager
def _numpy_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for NumPy, and turn what it raises over damage into a FileFormatError."""
    with path.open("rb") as file:
        start = file.read(6)
        if start != b"\x93NUMPY" and start[:2] != b"PK":
            raise FileFormatError(f"{path} is not a NumPy file: {_starts_with(start)}")
        file.seek(0)
        try:
            yield file
        except FileFormatError:
            raise
        except Exception as error:  # a dozen kinds, MemoryError for sizes that cannot be true
            raise FileFormatError(f"{path} cannot be read as NumPy data: {error}") from None


def read_idx(path: PathLike) -> Array:
    """Read an array in the IDX format, in which MNIST comes, plain or compressed (.gz).

    Returns
    -------
    ndarray of the shape and type the file states, in this machine's byte order

    Raises
    ------
    FileNotFoundError
    FileFormatError
        Wrong magic number, or more or fewer bytes than the header promises.
    """
    path = _existing(path)
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise FileFormatError(f"{path} is damaged: {error}") from None
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in IDX_TYPES or data[3] == 0:
        raise FileFormatError(f"{path} is not an IDX file: {_starts_with(data[:4])}")
    dtype, n_dims = np.dtype(IDX_TYPES[data[2]]), data[3]
    start = 4 + 4 * n_dims
    if len(data) < start:
        raise FileFormatError(f"{path} is cut short: its header of {start} bytes is incomplete")
    shape = struct.unpack(f">{n_dims}I", data[4:start])
    expected = start + math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        problem = "is cut short" if len(data) < expected else "is too long"
        sizes = " x ".join(map(str, shape))
        raise FileFormatError(
            f"{path} {problem}: its header promises {sizes} values, {expected} bytes in all, "
            f"and it has {len(data)}"
        )
    array = np.frombuffer(data, dtype, offset=start)
    try:
        array = array.reshape(shape)
    except ValueError as error:  # more dimensions than NumPy has, or 0 times too much
        raise FileFormatError(f"{path}: {error}") from None
    return array.astype(dtype.newbyteorder("="))


def _starts_with(data: bytes) -> str:
    return f"it starts with {data.hex(' ')}" if data else "it is empty"


def _existing(path: PathLike) -> Path:
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.is_dir():
        raise FileFormatError(f"{path} is a folder, expected a file")
    return path
