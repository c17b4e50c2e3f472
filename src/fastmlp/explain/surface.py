"""The loss over two weights, with the descent on it and its gradient as arrows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.errors import DivergedError
from fastmlp.model import MLP

__all__ = ["Surface", "pair", "surface"]

Array = NDArray[Any]

GRID, COARSE = 41, 21  # losses along each side; the latter where one takes long
LONG = 2e6  # parameters times rows
ARROWS = 9
STEPS = 40


@dataclass(frozen=True)
class Surface:
    """The total loss as a function of two parameters, all others held.

    Attributes
    ----------
    indices : tuple of int
        The two places in `MLP.params`.
    u, v : ndarray of float64 (k,)
        Values of the one and the other.
    loss : ndarray of float64 (k, k)
        ``loss[i, j]`` at ``v[i]``, ``u[j]``.
    path : ndarray of float64 (steps + 1, 3)
        Gradient descent in these two alone: u, v, loss.
    arrows : ndarray of float64 (ARROWS², 4)
        u, v, and the partial derivatives of the loss there.
    """

    indices: tuple[int, int]
    u: Array
    v: Array
    loss: Array
    path: Array
    arrows: Array


def pair(model: MLP, dparams: Array) -> tuple[int, int]:
    """Return the two weights of different layers whose derivatives are the largest.

    With a single layer, its two largest; biases only where there is but one weight.
    """
    dweights, _ = model.split(dparams)
    starts, start = [], 0
    for dW in dweights:
        starts.append(start)
        start += dW.size + dW.shape[1]
    best = sorted(
        (
            (-abs(float(dW.flat[place])), begin + int(place))
            for dW, begin in zip(dweights, starts, strict=True)
            for place in [int(np.abs(dW).argmax())]
        ),
    )
    if len(best) > 1:
        first, second = sorted(index for _, index in best[:2])
        return first, second
    order = np.argsort(-np.abs(dparams), kind="stable")
    return int(min(order[:2])), int(max(order[:2]))


@np.errstate(over="ignore", invalid="ignore")
def surface(
    model: MLP, X: Array, y: Array, indices: tuple[int, int], learning_rate: float
) -> Surface:
    """Return the loss around the model over two of its parameters, in float64."""
    twin = model.copy(dtype="float64")
    X = X.astype(np.float64)
    y = y if model.classifies else y.astype(np.float64)
    home = twin.params[list(indices)].copy()

    def at(u: float, v: float) -> tuple[float, Array]:
        """Return the loss and its derivatives by the two."""
        twin.params[list(indices)] = u, v
        loss, dweights, dbiases = twin.gradients(X, y)
        flat = np.concatenate([a.ravel() for p in zip(dweights, dbiases, strict=True) for a in p])
        return loss, flat[list(indices)]

    path = _descent(at, home, learning_rate)
    n = COARSE if model.n_parameters * len(X) > LONG else GRID
    u, v = (_range(path[:, axis], home[axis], n) for axis in (0, 1))
    loss = np.empty((n, n))
    for i, second in enumerate(v):
        for j, first in enumerate(u):
            twin.params[list(indices)] = first, second
            loss[i, j] = twin.loss(X, y)
    few = np.linspace(0, n - 1, ARROWS + 2).round().astype(int)[1:-1]
    arrows = [(u[j], v[i], *(at(float(u[j]), float(v[i]))[1]).tolist()) for i in few for j in few]
    return Surface(indices, u, v, loss, path, np.array(arrows))


def _descent(at: Any, home: Array, learning_rate: float) -> Array:
    """Follow the gradient in the two parameters; end where the loss leaves the finite numbers."""
    point = home.copy()
    path: list[tuple[float, ...]] = []
    for _ in range(STEPS + 1):
        try:
            loss, gradient = at(*point)
        except (DivergedError, FloatingPointError):
            break
        if not np.isfinite(loss) or (path and loss > 100 * path[0][2] + 1):
            break
        path.append((*point.tolist(), loss))
        point = point - learning_rate * gradient
    return np.array(path)


def _range(path: Array, home: float, n: int) -> Array:
    """Return values around the path, at least as far from home to either side as to the other."""
    reach = max(float(np.abs(path - home).max()), 0.5 * abs(home), 0.5)
    return np.linspace(home - 1.25 * reach, home + 1.25 * reach, n)
