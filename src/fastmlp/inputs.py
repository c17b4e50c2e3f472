"""Turns what users hand over into the arrays the core wants, or says what is wrong with it.

Every function returns a new or the same array, C-contiguous and aligned, and never changes its
argument. Messages name the argument, what it is, what is expected and, where there is one, the
place.
"""

import operator
from typing import Any, NoReturn, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp import memory
from fastmlp._core import SparseRows, first_nonfinite

__all__ = [
    "Inputs",
    "as_array",
    "as_features",
    "as_generator",
    "as_int",
    "as_labels",
    "as_real",
    "as_rows",
    "as_values",
    "as_weights",
    "contiguous",
    "sparse_rows",
]

Array = NDArray[Any]


class Sparse(Protocol):
    """A sparse matrix, as SciPy has them."""

    @property
    def shape(self) -> tuple[int, ...]:
        """How many rows and columns."""

    def tocsr(self) -> Any:
        """Return it in compressed rows."""


Inputs = ArrayLike | Sparse | SparseRows


def as_features(X: ArrayLike, dtype: str, n_features: int, name: str = "X") -> Array:
    """Return X as (n_samples, n_features) of `dtype`, every value finite."""
    array = _numbers(X, name)
    _check_features(array.shape, n_features, name)
    return _finite(array, dtype, name)


def as_rows(X: Any, dtype: str, n_features: int, name: str = "X") -> Array | SparseRows:
    """Return an array as `as_features` does, and a sparse matrix of SciPy's as `SparseRows`."""
    if not isinstance(X, SparseRows) and not hasattr(X, "tocsr"):
        return as_features(X, dtype, n_features, name)
    _check_features(X.shape, n_features, name)
    return _compressed(X if isinstance(X, SparseRows) else X.tocsr(), dtype, name)


def sparse_rows(X: Any) -> Array | SparseRows:
    """Return a CSR matrix of the model's dtype as `SparseRows`, and what is none as it is."""
    if isinstance(X, np.ndarray | SparseRows):
        return X
    return _compressed(X, X.dtype, "X")


def _compressed(csr: Any, dtype: Any, name: str) -> SparseRows:
    rows: SparseRows = csr
    if not isinstance(csr, SparseRows) or csr.dtype != dtype:
        numbers = _numbers(csr.data, name)
        _check_memory(numbers, np.dtype(dtype), name)
        try:
            with np.errstate(all="ignore"):  # what is lost is looked for below
                rows = SparseRows(numbers, csr.indices, csr.indptr, csr.shape, dtype)
        except ValueError as error:
            raise ValueError(f"{name} is no sound sparse matrix: {error}") from None
        except MemoryError as error:
            raise MemoryError(f"no memory for {name} as {dtype}: {error}") from None
    first = first_nonfinite(rows.data)
    if first >= 0:
        row = int(np.searchsorted(rows.indptr, first, "right")) - 1
        _refuse(rows.given[first], str(rows.dtype), f"{name}[{row}, {rows.indices[first]}]")
    return rows


def _check_features(shape: tuple[int, ...], n_features: int, name: str) -> None:
    if len(shape) != 2:
        hint = f"; for one sample use {name}.reshape(1, -1)" if len(shape) == 1 else ""
        raise ValueError(f"{name} has shape {shape}, expected (n_samples, {n_features}){hint}")
    if shape[1] != n_features:
        raise ValueError(
            f"{name} has {shape[1]} features, the model expects {n_features} "
            f"({name}.shape is {shape})"
        )


def as_labels(y: ArrayLike, n_samples: int, n_classes: int, name: str = "y") -> Array:
    """Return y as int64 (n_samples,), every class number in 0..n_classes - 1."""
    array = as_array(y, name)
    if array.dtype.kind not in "biu":
        raise TypeError(
            f"{name} has dtype {array.dtype}, expected integers: the class numbers "
            f"0..{n_classes - 1} (with numbers stored as floats, {name}.astype(int))"
        )
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}, expected ({n_samples},)")
    _same_length(array, n_samples, name)
    wrong = np.flatnonzero((array < 0) | (array >= n_classes))
    if wrong.size:
        row = int(wrong[0])
        raise ValueError(
            f"{name}[{row}] is {array[row]}, expected a class number in 0..{n_classes - 1}"
        )
    return contiguous(array, "int64", name)


def as_values(y: ArrayLike, n_samples: int, n_out: int, dtype: str, name: str = "y") -> Array:
    """Return y as (n_samples, n_out) of `dtype`, every value finite; (n_samples,) if n_out is 1."""
    array = _numbers(y, name)
    if array.ndim == 1 and n_out == 1:
        array = array.reshape(-1, 1)
    if array.ndim != 2 or array.shape[1] != n_out:
        expected = f"({n_samples}, {n_out})" + (f" or ({n_samples},)" if n_out == 1 else "")
        raise ValueError(f"{name} has shape {array.shape}, expected {expected}")
    _same_length(array, n_samples, name)
    return _finite(array, dtype, name)


def as_weights(
    sample_weight: ArrayLike, n_samples: int, dtype: str, name: str = "sample_weight"
) -> Array:
    """Return sample weights as (n_samples,) of `dtype`, none of them negative, not all 0."""
    array = _numbers(sample_weight, name)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}, expected ({n_samples},)")
    _same_length(array, n_samples, name)
    array = _finite(array, dtype, name)
    wrong = np.flatnonzero(array < 0)
    if wrong.size:
        row = int(wrong[0])
        raise ValueError(f"{name}[{row}] is {array[row]}, expected at least 0")
    if not array.any():
        raise ValueError(f"{name} is 0 for every row")
    tiny = np.finfo(array.dtype).tiny
    small = np.flatnonzero((array > 0) & (array < tiny))
    if small.size:  # one over it would be infinite
        row = int(small[0])
        raise ValueError(f"{name}[{row}] is {array[row]}, expected 0 or at least {tiny:g}")
    with np.errstate(over="ignore"):
        total = array.sum(dtype=np.float64)
    if np.isinf(total):
        raise ValueError(f"{name} adds up to {total}, expected numbers whose sum is finite")
    return array


def as_int(value: Any, name: str, least: int) -> int:
    """Return value as an int of at least `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} is {value!r}, expected an integer")
    if number < least:
        raise ValueError(f"{name} is {number}, expected at least {least}")
    return number


def as_real(value: Any, name: str, least: float, below: float = np.inf) -> float:
    """Return value as a finite float with least <= value < below."""
    try:
        if isinstance(value, str | bytes):  # float() would read it
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {value!r}, expected a number") from None
    except OverflowError:
        number = np.inf
    if not least <= number < below:
        upper = "" if below == np.inf else f" and below {below:g}"
        raise ValueError(
            f"{name} is {number:g}, expected a finite number of at least {least:g}{upper}"
        )
    return number


def as_generator(seed: Any, name: str = "seed") -> "np.random.Generator":
    """Return the random generator that `seed`, as NumPy takes it, stands for."""
    try:
        return np.random.default_rng(seed)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"{name} is {seed!r}, expected an integer of at least 0, a numpy.random.Generator or "
            f"None"
        ) from None


def as_array(value: ArrayLike, name: str) -> Array:
    """Return value as an array of whatever it holds, without a copy where there can be none."""
    if hasattr(value, "toarray"):
        raise TypeError(f"{name} is sparse ({type(value).__name__}); use {name}.toarray()")
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(f"{name} is a masked array with masked entries; fill or drop them first")
    try:
        return np.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} is not an array of numbers: {error}") from None


def _numbers(value: ArrayLike, name: str) -> Array:
    array = as_array(value, name)
    if array.dtype.kind == "O":
        _check_memory(array, np.dtype(np.float64), name)
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise TypeError(f"{name} is not an array of numbers: {error}") from None
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} has dtype {array.dtype}, expected real numbers")
    return array


def _finite(array: Array, dtype: str, name: str) -> Array:
    converted = contiguous(array, dtype, name)
    first = first_nonfinite(converted.ravel())
    if first >= 0:
        place = np.unravel_index(first, array.shape)
        where = ", ".join(str(int(i)) for i in place)
        _refuse(array[place], dtype, f"{name}[{where}]")
    return converted


def _refuse(value: Any, dtype: str, place: str) -> NoReturn:
    reason = f"too large for {dtype}" if np.isfinite(value) else "every value must be finite"
    raise ValueError(f"{place} is {value}: {reason}")


def contiguous(array: Array, dtype: str, name: str) -> Array:
    """Return an array as one of `dtype`, C-contiguous and aligned, where there is memory for it."""
    if not (array.flags.c_contiguous and array.flags.aligned and array.dtype == dtype):
        _check_memory(array, np.dtype(dtype), name)
    try:
        with np.errstate(all="ignore"):  # what is lost, the caller may look for
            return np.require(array, dtype, ["C", "A"])
    except MemoryError as error:
        raise MemoryError(f"no memory for {name} as {dtype}: {error}") from None


def _check_memory(array: Array, dtype: np.dtype[Any], name: str) -> None:
    memory.check(array.size * dtype.itemsize, f"{name} of shape {array.shape} as {dtype}")


def _same_length(array: Array, n_samples: int, name: str) -> None:
    if len(array) != n_samples:
        raise ValueError(f"{name} has {len(array)} rows, X has {n_samples}")
