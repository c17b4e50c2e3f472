"""Why activations must not be linear: identity networks collapse to one matrix."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.model import MLP
from fastmlp.optimizers import Adam

__all__ = ["Comparison", "collapse", "compare", "rings"]

Array = NDArray[Any]

EPOCHS = 200


@dataclass(frozen=True)
class Comparison:
    """The same network with identity and with relu, trained on the same rows in the same way.

    Attributes
    ----------
    X, y : ndarray (n, 2) and (n,)
    identity, relu : MLP
    accuracy : tuple of float
        Of the one and the other on these rows.
    W, b : ndarray
        What the identity network collapses to.
    difference : float
        The largest difference between its outputs on X and ``X W + b``.
    """

    X: Array
    y: Array
    identity: MLP
    relu: MLP
    accuracy: tuple[float, float]
    W: Array
    b: Array
    difference: float


def collapse(model: MLP) -> tuple[Array, Array]:
    """Return the one matrix and bias that a network of identities amounts to.

    W = W1 W2 ⋯ and b = (b1 W2 + b2) W3 + ⋯, in float64.

    Parameters
    ----------
    model : MLP
        Whose activations are all "identity".

    Returns
    -------
    W : ndarray (n_in, n_out)
    b : ndarray (n_out,)

    Examples
    --------
    >>> import fastmlp
    >>> model = fastmlp.MLP([1, 1, 1], activation="identity", loss="squared_error")
    >>> model.params[:] = [3, 1, 2, 5]                # W1, b1, W2, b2
    >>> fastmlp.explain.collapse(model)
    (array([[6.]]), array([7.]))
    """
    other = [name for name in model.activations if name != "identity"]
    if other:
        raise ValueError(f"the model has {other[0]} in it: only networks of identities collapse")
    W, b = np.eye(model.sizes[0]), np.zeros(model.sizes[0])
    for V, c in zip(model.weights, model.biases, strict=True):
        W, b = W @ V.astype(np.float64), b @ V.astype(np.float64) + c
    return W, b


def rings(n: int = 200) -> tuple[Array, Array]:
    """Return points (n, 2) of a disc, class 0, and of a ring around it, class 1."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 2
    radius = np.where(y == 0, rng.uniform(0, 0.9, n), rng.uniform(1.3, 2.0, n))
    angle = rng.uniform(0, 2 * np.pi, n)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1), y


def compare(sizes: tuple[int, ...] = (2, 8, 8, 2)) -> Comparison:
    """Train a network with identity and with relu on `rings`, and collapse the first."""
    X, y = rings()
    models, accuracy = [], []
    for activation in ("identity", "relu"):
        model = MLP(sizes, activation=activation, dtype="float64", seed=1)
        trainer = Adam(model, learning_rate=0.01, batch_size=50, n_threads=1)
        trainer.fit(X, y, epochs=EPOCHS)
        models.append(model)
        accuracy.append(float((model.predict(X) == y).mean()))
    W, b = collapse(models[0])
    apart = float(np.abs(models[0].forward(X) - (X @ W + b)).max())
    right = (accuracy[0], accuracy[1])
    return Comparison(X, y, models[0], models[1], right, W, b, apart)
