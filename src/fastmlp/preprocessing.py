"""What lies between a file of data and a network: label names and scaling.

Both are learnt when a model is trained on the command line, travel in the model's metadata, and
are applied again by ``fastmlp predict``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["SCALINGS", "Preprocessing", "encode_labels"]

Array = NDArray[Any]

SCALINGS = ("standard", "range", "none")


@dataclass(frozen=True)
class Preprocessing:
    """Turns rows of a file into inputs of a network and its outputs into labels.

    Attributes
    ----------
    labels : list of str
        The name of every class.
    features : list of str or None
        The names of the columns, where the data had names.
    shift, scale : list of float
        Inputs are ``(X - shift) / scale``; one number each, or one a feature.
    """

    labels: list[str]
    features: list[str] | None
    shift: list[float]
    scale: list[float]

    @classmethod
    def learn(
        cls, X: Array, labels: Sequence[str], features: Sequence[str] | None, scaling: str
    ) -> "Preprocessing":
        """Learn a scaling from the rows of X.

        ``standard`` brings every feature to mean 0 and variance 1, ``range`` all features
        together to 0..1 (for pixels, which share a unit), ``none`` changes nothing. A constant
        feature is shifted only.
        """
        if scaling not in SCALINGS:
            raise ValueError(f"scaling is {scaling!r}, expected one of {', '.join(SCALINGS)}")
        shift, scale = np.zeros(1), np.ones(1)
        with np.errstate(over="ignore", invalid="ignore"):
            if scaling == "standard":
                # The deviation of a constant is a rounding error, not always 0.
                constant = X.min(axis=0) == X.max(axis=0)
                shift, scale = X.mean(axis=0), np.where(constant, 0, X.std(axis=0))
            elif scaling == "range":
                shift, scale = X.min(keepdims=True)[0][:1], np.ptp(X, keepdims=True)[0][:1]
        scale = np.where(scale == 0, 1, scale)
        if not (np.isfinite(shift).all() and np.isfinite(scale).all()):
            raise ValueError(f"the data holds numbers too large for {scaling} scaling")
        names = None if features is None else list(features)
        return cls(list(labels), names, shift.tolist(), scale.tolist())

    def apply(self, X: Array) -> Array:
        """Return X scaled, as float64."""
        with np.errstate(over="ignore"):
            scaled: Array = (X - np.array(self.shift)) / np.array(self.scale)
        return scaled

    def to_metadata(self) -> dict[str, Any]:
        """Return what JSON can hold and `from_metadata` reads."""
        return asdict(self)

    @classmethod
    def from_metadata(cls, metadata: Any, n_features: int, n_labels: int) -> "Preprocessing":
        """Return what `to_metadata` gave, checked against the sizes of a network."""
        if not isinstance(metadata, Mapping) or set(metadata) != set(cls.__annotations__):
            raise ValueError("it was not trained by the command line: it has no labels and scaling")
        found = cls(**metadata)
        names = [("labels", found.labels, n_labels)]
        if found.features is not None:
            names.append(("features", found.features, n_features))
        for name, texts, n in names:
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise ValueError(f"its {name} are not a list of names")
            if len(texts) != n:
                raise ValueError(f"it has {len(texts)} {name} where its sizes ask for {n}")
        for name, numbers in (("shift", found.shift), ("scale", found.scale)):
            array = np.array(numbers)
            if array.dtype.kind not in "if" or array.shape not in ((1,), (n_features,)):
                raise ValueError(f"its {name} is not a list of 1 or {n_features} numbers")
            if not np.isfinite(array).all() or (name == "scale" and not array.all()):
                raise ValueError(f"its {name} holds a number that cannot be")
        return found


def encode_labels(values: ArrayLike) -> tuple[Array, list[str]]:
    """Return class numbers and class names for a column of labels.

    Classes are in numerical order where all labels are integers, else in that of their names;
    "01" is a name, not the integer 1.

    Examples
    --------
    >>> encode_labels(["10", "9", "10"])
    (array([1, 0, 1]), ['9', '10'])
    """
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"the labels have shape {array.shape}, expected one a row")
    if array.dtype.kind not in "biufUS":
        raise ValueError(f"the labels have dtype {array.dtype}, expected integers or text")
    if array.dtype.kind == "f":
        wrong = np.flatnonzero((array != np.round(array)) | (np.abs(array) > 2**53))
        if wrong.size:
            row = int(wrong[0])
            raise ValueError(f"the label of row {row} is {array[row]}, expected integers or text")
    if array.dtype.kind in "bf":
        array = array.astype(np.int64)
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8")
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
