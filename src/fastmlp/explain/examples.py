"""The built-in examples: small enough to check by hand."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.model import MLP

__all__ = ["EXAMPLES", "chain", "two_layer"]

Array = NDArray[Any]


def chain() -> tuple[MLP, Array, Array, float]:
    """Return the chain ŷ = W2 · W1 · x with W1 = 3 and W2 = 1, rows of y = 2 x, and a rate.

    Errors are x, the loss ½ (0 + 1 + 4 + 9 + 16) / 5 = 3, and its derivatives 6 by W1 and 18 by W2.
    Biases are 0.

    Examples
    --------
    >>> from fastmlp.explain import examples
    >>> model, X, y, learning_rate = examples.chain()
    >>> model.loss(X, y)
    3.0
    """
    model = MLP([1, 1, 1], activation="identity", loss="squared_error", dtype="float64")
    model.params[:] = [3, 0, 1, 0]  # W1, b1, W2, b2
    X = np.arange(5.0)[:, np.newaxis]
    return model, X, 2 * X, 0.01


def two_layer() -> tuple[MLP, Array, Array, float]:
    """Return a network of 2 inputs, 2 + 2 relu neurons and 2 classes, one row, and a rate.

    On the row (1, 2) of class 0 the second neuron of the first hidden layer is off.

    Examples
    --------
    >>> from fastmlp.explain import examples
    >>> model, X, y, learning_rate = examples.two_layer()
    >>> model.forward(X)
    array([[2., 2.]])
    """
    model = MLP([2, 2, 2, 2], activation="relu", dtype="float64")
    for view, value in zip(
        [array for pair in zip(model.weights, model.biases, strict=True) for array in pair],
        [
            [[1.0, 1.0], [0.5, -1.0]], [0.0, 0.0],
            [[1.0, 0.5], [2.0, -1.0]], [0.0, 1.0],
            [[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0],
        ],
        strict=True,
    ):  # fmt: skip
        view[...] = value
    return model, np.array([[1.0, 2.0]]), np.array([0]), 0.1


EXAMPLES = {"chain": chain, "two-layer": two_layer}
