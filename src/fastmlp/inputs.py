"""Turns what users hand over into the arrays the core wants, or says what is wrong with it.

Every function returns a new or the same array, C-contiguous and aligned, and never changes its
argument. Messages name the argument, what it is, what is expected and, where there is one, the
place.
"""

import operator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp._core import first_nonfinite

__all__ = ["as_features", "as_int", "as_labels", "as_real", "as_values", "as_weights"]

Array = NDArray[Any]


def as_features(X: ArrayLike, dtype: str, n_features: int, name: str = "X") -> Array:
    """Return X as (n_samples, n_features) of `dtype`, every value finite."""
    array = _numbers(X, name)
    if array.ndim != 2:
        hint = f"; for one sample use {name}.reshape(1, -1)" if array.ndim == 1 else ""
        raise ValueError(
            f"{name} has shape {array.shape}, expected (n_samples, {n_features}){hint}"
        )
    if array.shape[1] != n_features:
        raise ValueError(
            f"{name} has {array.shape[1]} features, the model expects {n_features} "
            f"({name}.shape is {array.shape})"
        )
    return _finite(array, dtype, name)


def as_labels(y: ArrayLike, n_samples: int, n_classes: int, name: str = "y") -> Array:
    """Return y as int64 (n_samples,), every class number in 0..n_classes - 1."""
    array = _array(y, name)
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
    return np.require(array, np.int64, ["C", "A"])


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


def _array(value: ArrayLike, name: str) -> Array:
    if hasattr(value, "toarray"):
        raise TypeError(f"{name} is sparse ({type(value).__name__}); use {name}.toarray()")
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(f"{name} is a masked array with masked entries; fill or drop them first")
    try:
        return np.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} is not an array of numbers: {error}") from None


def _numbers(value: ArrayLike, name: str) -> Array:
    array = _array(value, name)
    if array.dtype.kind == "O":
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise TypeError(f"{name} is not an array of numbers: {error}") from None
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} has dtype {array.dtype}, expected real numbers")
    return array


def _finite(array: Array, dtype: str, name: str) -> Array:
    with np.errstate(all="ignore"):  # what the conversion loses is found below
        converted = np.require(array, dtype, ["C", "A"])
    first = first_nonfinite(converted.ravel())
    if first >= 0:
        place = np.unravel_index(first, array.shape)
        where = ", ".join(str(int(i)) for i in place)
        value = array[place]
        reason = f"too large for {dtype}" if np.isfinite(value) else "every value must be finite"
        raise ValueError(f"{name}[{where}] is {value}: {reason}")
    return converted


def _same_length(array: Array, n_samples: int, name: str) -> None:
    if len(array) != n_samples:
        raise ValueError(f"{name} has {len(array)} rows, X has {n_samples}")
