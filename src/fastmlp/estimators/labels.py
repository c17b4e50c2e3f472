"""What the labels of a classifier are to its network."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import expit, softmax
from sklearn.utils.multiclass import type_of_target, unique_labels

__all__ = ["Labels"]

Array = NDArray[Any]


class Labels:
    """The classes of a classifier, and how its network writes them.

    Three kinds, as scikit-learn's MLPClassifier has them:

    - ``multiclass``, three classes or more: one output a class, the softmax over them;
    - ``binary``, two classes or one: a single output, the logistic of it the probability of
      ``classes[1]``;
    - ``multilabel``: one output a label, the logistic of each its probability.

    Parameters
    ----------
    kind : {"binary", "multiclass", "multilabel"}
    classes : ndarray, sorted
    is_sparse : bool
        Whether predictions are sparse; only those of multilabel are.
    """

    def __init__(self, kind: str, classes: Array, is_sparse: bool = False) -> None:
        self.kind = kind
        self.classes = classes
        self.is_sparse = is_sparse

    @classmethod
    def of(cls, y: Any) -> "Labels":
        """Return the labels that are in y, or raise what is wrong with them."""
        kind = type_of_target(y, input_name="y")
        if "multioutput" in kind:
            raise ValueError("Multioutput target data is not supported with label binarization")
        classes = unique_labels(y)  # names a target that is no label
        return cls("multilabel" if kind.startswith("multilabel") else kind, classes, _sparse(y))

    @property
    def loss(self) -> str:
        """Name of the loss of `fastmlp.MLP`."""
        return "softmax_cross_entropy" if self.kind == "multiclass" else "binary_cross_entropy"

    @property
    def n_outputs(self) -> int:
        """Number of outputs of the network."""
        return 1 if self.kind == "binary" else len(self.classes)

    @property
    def out_activation(self) -> str:
        """What scikit-learn calls the function of the last layer."""
        return "softmax" if self.kind == "multiclass" else "logistic"

    def numbers(self, y: Array) -> NDArray[np.int64]:
        """Return the place in `classes` of every label, or raise ValueError for a label not there.

        Parameters
        ----------
        y : ndarray (n_samples,)
        """
        places = self.classes.searchsorted(y)
        places[places == len(self.classes)] = 0
        unknown = self.classes[places] != y
        if unknown.any():
            row = int(np.flatnonzero(unknown)[0])
            raise ValueError(f"y[{row}] is {y[row]!r}, which is none of the classes {self.classes}")
        return places

    def encode(self, y: Any, dtype: Any) -> Array:
        """Return y as the targets of the network.

        Returns
        -------
        ndarray of int64 (n_samples,) for multiclass, else of `dtype` (n_samples, n_outputs)
        """
        if self.kind == "multilabel":
            if y.ndim != 2 or y.shape[1] != len(self.classes):
                raise ValueError(
                    f"y has shape {y.shape}, expected (n_samples, {len(self.classes)}): one column "
                    "a label, as in the first fit"
                )
            dense = y.toarray() if _sparse(y) else y
            return np.ascontiguousarray(dense != 0, dtype)
        if y.ndim != 1:
            raise ValueError("y is multilabel, but the classifier was fitted with single labels")
        if self.kind == "multiclass":
            return self.numbers(y)
        return self.numbers(y).reshape(-1, 1).astype(dtype)

    def decode(self, Z: Array) -> Any:
        """Return the labels that the outputs Z stand for, sparse where y was sparse."""
        if self.kind == "multiclass":
            return self.classes[Z.argmax(axis=1)]
        chosen = expit(Z) > 0.5
        if self.kind == "multilabel":
            return sparse.csr_matrix(chosen.astype(int)) if self.is_sparse else chosen.astype(int)
        if len(self.classes) == 1:
            return np.repeat(self.classes, len(Z))
        return self.classes[chosen[:, 0].astype(np.intp)]

    def right(self, Z: Array, targets: Array) -> NDArray[np.bool_]:
        """Return of every row whether the outputs Z stand for its targets."""
        if self.kind == "multiclass":
            return Z.argmax(axis=1) == targets
        return ((expit(Z) > 0.5) == targets).all(axis=1)

    def probabilities(self, Z: Array) -> Array:
        """Return the probability of every class, or of every label."""
        if self.kind == "multiclass":
            return softmax(Z, axis=1)
        P = expit(Z)
        return np.hstack([1 - P, P]) if self.kind == "binary" else P

    def log_probabilities(self, Z: Array) -> Array:
        """Return the logarithms of `probabilities`, -inf where these are 0."""
        P = self.probabilities(Z)
        with np.errstate(divide="ignore"):
            return np.log(P, out=P)


def _sparse(y: Any) -> bool:
    return bool(sparse.issparse(y))
