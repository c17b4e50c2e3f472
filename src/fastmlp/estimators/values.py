"""Values in files of estimators: JSON for what JSON can hold, tensors for numeric arrays."""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.errors import cut

__all__ = ["Reader", "Writer"]

Array = NDArray[Any]

# Arrays of other kinds than these are lists in the JSON.
TENSORS = "biuf"
# Those others, by the name of their dtype.
LISTED = re.compile(
    r"object|[<>]U\d{1,9}|(datetime|timedelta)64(\[\d{0,9}([YMWDhms]|[munpfa]s)\])?", re.ASCII
)
# Bytes of all of them together: an array of text is as wide as the longest text in it everywhere.
MOST_LISTED = 2**23
STREAM = 624  # words of the state of a RandomState


class Writer:
    """Turns values into what JSON can hold, and numeric arrays into tensors.

    What JSON has no word for becomes a dict with a single key that says what it is.
    """

    def __init__(self, tensors: dict[str, Array]) -> None:
        self.tensors = tensors
        self.room = MOST_LISTED

    def write(self, value: Any, name: str) -> Any:
        """Return `value` for JSON; `name` says in messages what it is."""
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, bool | int | str):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else {"float": str(value)}
        if isinstance(value, list):
            if value and all(type(item) is float for item in value):
                return {"floats": self._array(np.array(value), name)}
            return [self.write(item, f"{name}[{i}]") for i, item in enumerate(value)]
        if isinstance(value, tuple):
            return {"tuple": self.write(list(value), name)}
        if isinstance(value, dict):
            pairs = [[key, item] for key, item in value.items()]
            return {"dict": self.write(pairs, name)}
        if isinstance(value, np.ndarray):
            return self._array(value, name)
        if isinstance(value, np.random.RandomState):
            state = value.get_state(legacy=False)
            if state["bit_generator"] == "MT19937":
                return {"RandomState": self.write(state, name)}
        if value in (np.float32, np.float64):
            return {"dtype": np.dtype(value).name}
        raise TypeError(
            f"{name} is {value!r}, which a safetensors file cannot hold; set it to None, or pickle "
            "the estimator"
        )

    def _array(self, array: Array, name: str) -> Any:
        if array.dtype.kind in TENSORS:
            key = f"array.{len(self.tensors)}"
            # safetensors knows the order of bytes of this machine only.
            self.tensors[key] = array.astype(array.dtype.newbyteorder("="))
            return {"tensor": key}
        dtype = "object" if array.dtype.kind == "O" else str(array.dtype)
        if not LISTED.fullmatch(dtype):
            raise TypeError(f"{name} is an array of {dtype}, which a safetensors file cannot hold")
        self.room -= array.nbytes
        if self.room < 0:
            raise ValueError(
                f"{name} is {cut(str(array.shape))} of {dtype}, which takes more than the "
                f"{MOST_LISTED} bytes that a file can hold of text; name things shorter"
            )
        return {"array": [dtype, self.write(array.tolist(), name)]}


class Reader:
    """Undoes what `Writer` has done, for files that anybody may have written.

    `take` gives a tensor, by name, and each only once. Arrays that are made of JSON take no more
    than the writer allows: memory goes by the size of the file.
    """

    def __init__(self, take: Callable[[str], Array]) -> None:
        self.take = take
        self.room = MOST_LISTED

    def read(self, value: Any) -> Any:
        """Return the value that was written."""
        if isinstance(value, list):
            return [self.read(item) for item in value]
        if not isinstance(value, dict):
            return value
        ((what, held),) = value.items()
        if what == "tensor":
            return self.take(held)
        if what == "float":
            return float(_a(str, held))
        if what == "dtype":
            return {"float32": np.float32, "float64": np.float64}[held]
        if what == "floats":
            floats = _a(np.ndarray, self.read(held))
            if floats.ndim != 1 or floats.dtype != np.float64:
                raise ValueError(f"floats are {floats.dtype} of shape {floats.shape}")
            return floats.tolist()
        if what == "tuple":
            return tuple(self.read(_a(list, held)))
        if what == "dict":
            return dict(self.read(_a(list, held)))
        if what == "array":
            return self._array(*held)
        if what == "RandomState":
            return _stream(self.read(held))
        raise ValueError(f"{what!r} is no kind of value")

    def _array(self, kind: str, values: Any) -> Array:
        if not LISTED.fullmatch(kind):
            raise ValueError(f"{kind!r} is no dtype of a list")
        dtype = np.dtype(kind)
        values = self.read(_a(list, values))
        self.room -= dtype.itemsize * _elements(values)
        if self.room < 0:
            raise ValueError(f"its arrays of {kind} and others take more than {MOST_LISTED} bytes")
        return np.array(values, dtype)


def _a(kind: type, value: Any) -> Any:
    """Return the value, or raise TypeError if it is of another kind."""
    if not isinstance(value, kind):
        raise TypeError(f"it holds {type(value).__name__} for {kind.__name__}")
    return value


def _elements(values: Any) -> int:
    """Return how many elements NumPy makes of values at most."""
    if isinstance(values, np.ndarray):
        return values.size
    return sum(map(_elements, values)) if isinstance(values, list | tuple) else 1


def _stream(state: dict[str, Any]) -> np.random.RandomState:
    """Return the stream in this state. NumPy reads at `pos` of `key` without looking."""
    key, pos = state["state"]["key"], state["state"]["pos"]
    has_gauss, gauss = state["has_gauss"], state["gauss"]
    valid = isinstance(key, np.ndarray) and (key.dtype, key.shape) == (np.uint32, (STREAM,))
    valid = valid and type(pos) is int and 0 <= pos <= STREAM
    valid = valid and type(has_gauss) is int and has_gauss in (0, 1)
    if not (valid and type(gauss) is float and math.isfinite(gauss)):
        raise ValueError("the state of its RandomState is not valid")
    stream = np.random.RandomState()
    stream.set_state(state)
    back = stream.get_state(legacy=False)
    if not np.array_equal(back["state"].pop("key"), key) or back != {
        **state,
        "state": {"pos": pos},
    }:
        raise ValueError("the state of its RandomState is not that of a RandomState")
    return stream
