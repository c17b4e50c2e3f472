"""What lies between a file of data and a network: names, scaling, and categories as inputs.

All of it is learnt when a model is trained on the command line, travels in the model's metadata,
and is applied again by ``fastmlp predict``.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastmlp.inputs import as_array

__all__ = ["SCALINGS", "Preprocessing", "Target", "encode_labels"]

Array = NDArray[Any]

SCALINGS = ("standard", "range", "none")


@dataclass(frozen=True)
class Target:
    """A column of numbers to learn; a network learns it with mean 0 and variance 1.

    Attributes
    ----------
    name : str
    shift, scale : float
        The network learns ``(y - shift) / scale``.
    """

    name: str
    shift: float
    scale: float

    @classmethod
    def learn(cls, name: str, y: Array) -> "Target":
        """Learn the scaling from the values of the training rows.

        Examples
        --------
        >>> Target.learn("price", np.array([10.0, 30.0]))
        Target(name='price', shift=20.0, scale=10.0)
        """
        with np.errstate(over="ignore", invalid="ignore"):
            shift, scale = float(y.mean()), float(y.std())
        if y.min() == y.max():
            raise ValueError(
                f"the target {name!r} is {y[0]:g} in every row to train on: "
                "there is nothing to learn"
            )
        if not (np.isfinite(shift) and np.isfinite(scale) and scale):
            raise ValueError(f"the target {name!r} holds numbers too large or too close to scale")
        return cls(name, shift, scale)

    def standardise(self, y: Array) -> Array:
        """Return what the network learns in place of y."""
        with np.errstate(over="ignore"):
            standardised: Array = (y - self.shift) / self.scale
        return standardised

    def restore(self, z: Array) -> Array:
        """Return the values, in float64, that the network's outputs stand for."""
        return z.astype(np.float64) * self.scale + self.shift


@dataclass(frozen=True)
class Preprocessing:
    """Turns rows of a file into inputs of a network and its outputs into labels or values.

    Attributes
    ----------
    labels : list of str or None
        The name of every class; None where the target is a number.
    features : list of str or None
        The names of the columns, where the data had names.
    shift, scale : list of float
        Features become ``(X - shift) / scale``; one number each, or one a feature.
    categories : dict of str to list of str
        The categories of every feature that is text. Its values in X are their numbers, and
        become as many inputs as there are categories, one of them 1 and the others 0.
    target : Target or None
        The column of numbers that is learnt, if it is not labels.
    """

    labels: list[str] | None
    features: list[str] | None
    shift: list[float]
    scale: list[float]
    categories: dict[str, list[str]] = field(default_factory=dict)
    target: Target | None = None

    @classmethod
    def learn(
        cls,
        X: Array,
        labels: Sequence[str] | None,
        features: Sequence[str] | None,
        scaling: str,
        *,
        categories: Mapping[str, Sequence[str]] | None = None,
        target: Target | None = None,
    ) -> "Preprocessing":
        """Learn a scaling from the rows of X.

        ``standard`` brings every feature to mean 0 and variance 1, ``range`` all features
        together to 0..1 (for pixels, which share a unit), ``none`` changes nothing. A constant
        feature is shifted only, and one of text is left as it is.
        """
        if scaling not in SCALINGS:
            raise ValueError(f"scaling is {scaling!r}, expected one of {', '.join(SCALINGS)}")
        names = None if features is None else list(features)
        texts = {name: list(texts) for name, texts in (categories or {}).items()}
        numeric = np.array([name not in texts for name in names or [""] * X.shape[1]])
        N = X[:, numeric] if texts else X
        shift, scale = np.zeros(1), np.ones(1)
        with np.errstate(over="ignore", invalid="ignore"):
            if scaling == "standard" and N.size:
                # The deviation of a constant is a rounding error, not always 0.
                constant = N.min(axis=0) == N.max(axis=0)
                shift, scale = N.mean(axis=0), np.where(constant, 0, N.std(axis=0))
            elif scaling == "range" and N.size:
                shift, scale = N.min(keepdims=True)[0][:1], np.ptp(N, keepdims=True)[0][:1]
        scale = np.where(scale == 0, 1, scale)
        if not (np.isfinite(shift).all() and np.isfinite(scale).all()):
            raise ValueError(f"the data holds numbers too large for {scaling} scaling")
        if texts:
            shifts, scales = np.zeros(len(numeric)), np.ones(len(numeric))
            shifts[numeric], scales[numeric] = shift, scale
            shift, scale = shifts, scales
        given = None if labels is None else list(labels)
        return cls(given, names, shift.tolist(), scale.tolist(), texts, target)

    @property
    def widths(self) -> list[int] | None:
        """How many inputs each feature becomes, where the features have names."""
        if self.features is None:
            return None
        return [len(self.categories.get(name, "1")) for name in self.features]

    def described(self) -> list[str] | None:
        """Return the names of the features, with the categories of those that are text."""
        if self.features is None:
            return None
        texts = {name: f"{name} ({', '.join(names)})" for name, names in self.categories.items()}
        return [texts.get(name, name) for name in self.features]

    def apply(self, X: Array, dtype: DTypeLike = np.float64) -> Array:
        """Return X scaled; what is too large for dtype becomes infinite."""
        with np.errstate(over="ignore"):
            scaled: Array = (X - np.array(self.shift)) / np.array(self.scale)
            return scaled.astype(dtype, copy=False)

    def expand(self, scaled: Array) -> Array:
        """Return the inputs of the network for what `apply` gave.

        Examples
        --------
        >>> found = Preprocessing(None, ["size", "port"], [0, 0], [1, 1], {"port": ["C", "Q"]})
        >>> found.expand(np.array([[0.5, 1], [-2, 0]]))
        array([[ 0.5,  0. ,  1. ],
               [-2. ,  1. ,  0. ]])
        """
        if not self.categories or self.features is None or self.widths is None:
            return scaled
        inputs = np.zeros((len(scaled), sum(self.widths)), scaled.dtype)
        start = 0
        for i, (name, width) in enumerate(zip(self.features, self.widths, strict=True)):
            if name in self.categories:
                inputs[np.arange(len(scaled)), start + scaled[:, i].astype(np.intp)] = 1
            else:
                inputs[:, start] = scaled[:, i]
            start += width
        return inputs

    def to_metadata(self) -> dict[str, Any]:
        """Return what JSON can hold and `from_metadata` reads."""
        metadata = asdict(self)
        return {name: metadata[name] for name in metadata if name in REQUIRED or metadata[name]}

    @classmethod
    def from_metadata(cls, metadata: Any, n_inputs: int, n_outputs: int) -> "Preprocessing":
        """Return what `to_metadata` gave, checked against the sizes of a network."""
        if not isinstance(metadata, Mapping) or not (
            REQUIRED <= set(metadata) <= set(cls.__annotations__)
        ):
            raise ValueError("it was not trained by the command line: it has no labels and scaling")
        target = _target(metadata["target"], n_outputs) if "target" in metadata else None
        found = cls(**{**metadata, "target": target})
        if target is None:
            _check_names("labels", found.labels, n_outputs)
        elif found.labels is not None:
            raise ValueError("it has labels and a target of numbers")
        if not isinstance(found.categories, dict):
            raise ValueError("its categories do not belong to its features")
        n_features = n_inputs
        if found.features is not None:
            if found.categories and isinstance(found.features, list):
                n_features = len(found.features)
            _check_names("features", found.features, n_features)
        found._check_categories(n_inputs)
        for name, numbers in (("shift", found.shift), ("scale", found.scale)):
            array = np.array(numbers)
            shapes = [(n_features,)] if found.categories else [(1,), (n_features,)]
            if array.dtype.kind not in "if" or array.shape not in shapes:
                raise ValueError(f"its {name} is not a list of 1 or {n_features} numbers")
            texts = [
                number for number, text in zip(numbers, found._is_text(), strict=False) if text
            ]
            if (
                not np.isfinite(array).all()
                or (name == "scale" and not array.all())
                or any(number != (name == "scale") for number in texts)
            ):
                raise ValueError(f"its {name} holds a number that cannot be")
        return found

    def _is_text(self) -> list[bool]:
        return [name in self.categories for name in self.features or []]

    def _check_categories(self, n_inputs: int) -> None:
        if not set(self.categories) <= set(self.features or []):
            raise ValueError("its categories do not belong to its features")
        for name, texts in self.categories.items():
            n = len(texts) if isinstance(texts, list) else 0
            _check_names(f"categories of {name!r}", texts, max(n, 1))
            if len(set(texts)) < len(texts):
                raise ValueError(f"its categories of {name!r} repeat a name")
        if self.widths is not None and sum(self.widths) != n_inputs:
            raise ValueError(f"it has {sum(self.widths)} inputs where its sizes ask for {n_inputs}")


REQUIRED = {"labels", "features", "shift", "scale"}  # the others are left out where there are none


def _check_names(what: str, texts: Any, n: int) -> None:
    if not isinstance(texts, list) or not all(map(_is_name, texts)):
        raise ValueError(f"its {what} are not a list of names")
    if len(texts) != n:
        raise ValueError(f"it has {len(texts)} {what} where its sizes ask for {n}")


def _is_name(text: Any) -> bool:
    """Return whether this is a text that can be written to a file."""
    # "\ud800", half a character, is none
    return isinstance(text, str) and not re.search("[\ud800-\udfff]", text)


def _target(stored: Any, n_outputs: int) -> Target:
    try:
        target = Target(**stored)
        good = math.isfinite(target.shift) and math.isfinite(target.scale) and target.scale != 0
    except (TypeError, OverflowError):
        good = False
    if not good or not _is_name(target.name) or n_outputs != 1:
        raise ValueError("its target is not one column of numbers with its scaling")
    return target


def encode_labels(values: ArrayLike) -> tuple[Array, list[str]]:
    """Return class numbers and class names for a column of labels.

    Classes are in numerical order where all labels are integers, else in that of their names;
    "01" is a name, not the integer 1.

    Examples
    --------
    >>> encode_labels(["10", "9", "10"])
    (array([1, 0, 1]), ['9', '10'])
    """
    array = as_array(values, "the column of labels")
    if array.ndim != 1:
        raise ValueError(f"the labels have shape {array.shape}, expected one a row")
    if array.dtype.kind not in "biufUS":
        raise ValueError(f"the labels have dtype {array.dtype}, expected integers or text")
    if array.dtype.kind == "f":
        array = array.astype(np.float64)
        wrong = np.flatnonzero((array != np.round(array)) | (np.abs(array) > 2**53))
        if wrong.size:
            row = int(wrong[0])
            raise ValueError(f"the label of row {row} is {array[row]}, expected integers or text")
    if array.dtype.kind in "bf":
        array = array.astype(np.int64)
    if array.dtype.kind == "S":
        try:
            array = np.char.decode(array, "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"the labels are bytes, and no UTF-8 text: {error.reason}") from None
    names = [str(label) for label in array.tolist()]
    classes = sorted(set(names))
    if all(map(_is_integer, classes)):
        classes.sort(key=int)
    if len(classes) < 2:
        raise ValueError(f"the labels are all {classes[0]!r}: there is nothing to learn"
                         if classes else "there are no labels")  # fmt: skip
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number[name] for name in names], np.int64), classes


def _is_integer(text: str) -> bool:
    try:
        return str(int(text)) == text
    except ValueError:
        return False
