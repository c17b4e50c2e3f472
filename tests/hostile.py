"""Hypothesis strategies for what users hand over by mistake, and what must come of it."""

import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fastmlp import DivergedError

REAL = ["f2", "f4", "f8", "g", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]
OTHER = ["c8", "c16", "S3", "U3", "M8[s]", "m8[s]", "V4", "O"]


@dataclass
class Given:
    """What is handed over, the same as a plain array, and whether it is numbers at all."""

    value: Any
    plain: np.ndarray
    numbers: bool = True
    how: str = ""

    def __repr__(self):
        return f"Given({self.how}, {self.plain.dtype}, {self.plain.shape}, {self.value!r})"


class Subclass(np.ndarray):
    """An array of somebody else's class."""


def misaligned(array):
    room = np.empty(array.nbytes + 1, np.uint8)[1:]
    result = room.view(array.dtype).reshape(array.shape)
    result[...] = array
    return result


def strided(array):
    room = np.zeros([2 * n for n in array.shape], array.dtype)
    at = (slice(None, None, 2),) * array.ndim
    room[at] = array
    return room[at]


def reversed_(array):
    at = (slice(None, None, -1),) * array.ndim
    return array[at].copy()[at]


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def in_pandas(array):
    import pandas

    return pandas.DataFrame(array) if array.ndim == 2 else pandas.Series(array)


def record(array):
    return np.zeros(array.shape, [("a", "f4"), ("b", "i8")])


# Layouts that change nothing about the numbers; and those which make something else of them.
SAME = {
    "plain": np.copy,
    "Fortran": np.asfortranarray,
    "strided": strided,
    "reversed": reversed_,
    "misaligned": misaligned,
    "read-only": read_only,
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "misaligned big-endian": lambda a: misaligned(a.astype(a.dtype.newbyteorder(">"))),
    "subclass": lambda a: a.copy().view(Subclass),
    "masked, no entry masked": np.ma.array,
    "zero strides": lambda a: np.broadcast_to(a[:1] if a.ndim else a, a.shape),
    "list": np.ndarray.tolist,
    "tuple": lambda a: tuple(a.tolist()) if a.ndim else a.tolist(),
    "pandas": in_pandas,
}
NO_NUMBERS = {
    "masked": lambda a: np.ma.array(a, mask=True),
    "generator": lambda a: (x for x in a.ravel()),
    "ragged": lambda a: [[1.0, 2.0], [3.0]],
    "dict": lambda a: {"a": 1},
    "text": lambda a: "0123",
    "bytes": lambda a: b"\0" * 12,
    "records": record,
    "complex": lambda a: a.astype("c16"),
    "strings": lambda a: a.astype("U3"),
    "dates": lambda a: a.astype("i8").astype("M8[s]"),
    "set": lambda a: {1.0, 2.0},
    "function": lambda a: np.zeros,
}
SPECIAL = [np.nan, np.inf, -np.inf, 1e38, -1e38, 3.5e38, 1e300, 1e-40, 1e-310, 65504.0, -0.0]


@st.composite
def arrays(draw, shape, *, kinds=REAL, least=-3, most=3):
    """An array of mostly this shape, dtype, and range, or something else, in any layout."""
    if draw(st.integers(0, 9)) == 0:
        shape = tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        numbers = rng.uniform(least, most, shape)
        dtype = np.dtype(draw(st.sampled_from(kinds)))
        if dtype.kind in "iu":
            numbers = np.round(numbers)
        numbers = np.asarray(numbers).astype(dtype)
        if numbers.size and dtype.kind in "fiu" and draw(st.integers(0, 4)) == 0:
            place = draw(st.integers(0, numbers.size - 1))
            value = draw(st.sampled_from(SPECIAL)) if dtype.kind == "f" else None
            limits = None if value is not None else np.iinfo(dtype)
            numbers.flat[place] = value if limits is None else limits.max
        if draw(st.integers(0, 5)) == 0:
            how = draw(st.sampled_from(sorted(NO_NUMBERS)))
            how = (
                "dict" if how == "masked" and not numbers.size else how
            )  # there is nothing to mask
            return Given(NO_NUMBERS[how](numbers), numbers, False, how)
        how = draw(st.sampled_from(sorted(SAME)))
        if how == "pandas" and (numbers.ndim not in (1, 2) or dtype.char in "eg"):
            how = "plain"
        value = SAME[how](numbers)
        return Given(value, np.array(value, copy=True), True, how)


def fingerprint(value):
    """The bits of an array that a caller holds, to see whether they change."""
    if isinstance(value, np.ndarray):
        return np.asarray(value).tobytes(), value.flags.writeable
    return repr(value) if isinstance(value, list | tuple) else None


class Outcomes(Counter):
    """How many examples were right, and how many were refused, by which exception."""

    def call(self, function, names, state, *values):
        """Call a function; return its result, or None where it has refused by a good exception.

        A good exception is one of few types, says in words which of `names` is wrong, and leaves
        `state()` and the values as they were.
        """
        before = state(), [fingerprint(value) for value in values]
        try:
            result = function()
        except (ValueError, TypeError, MemoryError) as error:
            kind = next(k for k in (ValueError, TypeError, MemoryError) if isinstance(error, k))
            message = str(error)
            assert any(name in message for name in names), f"{kind.__name__}: {message!r}"
            assert state() == before[0], f"changed, and then {kind.__name__}: {message}"
            self[kind.__name__] += 1
            result = None
        except DivergedError as error:
            assert error.epoch >= 1 and error.step >= 1
            self["DivergedError"] += 1
            result = error
        else:
            self["right"] += 1
        assert [fingerprint(value) for value in values] == before[1], "the caller's array changed"
        return result


def run(check, share, **strategies):
    """Try a share of the examples that the profile has; return the outcomes of `check`."""
    profile = settings.get_profile("hostile")
    outcomes, examples = Outcomes(), [0]

    @settings(
        profile,
        max_examples=max(1, round(share * profile.max_examples)),
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # to make an example smaller takes minutes
        report_multiple_bugs=False,
    )
    @given(**strategies)
    def each(**values):
        check(outcomes, **values)
        examples[0] += 1

    each()
    print(f"{check.__name__}: {examples[0]} examples, calls: {dict(outcomes)}")
    return outcomes
