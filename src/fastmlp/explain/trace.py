"""One turn of training with all its numbers: forward, loss, backpropagation, update, repeat."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp import kernels
from fastmlp.activations import activate, slope
from fastmlp.inputs import as_array, as_real
from fastmlp.losses import row_losses
from fastmlp.model import MLP

__all__ = ["Layer", "Turn", "outputs", "take_rows", "turn"]

Array = NDArray[Any]

# What makes of the last layer's sums the outputs that the loss compares with the targets.
LINKS = {
    "softmax_cross_entropy": "softmax",
    "binary_cross_entropy": "logistic",
    "poisson": "exp",
}
KERNELS = {
    "relu": (kernels.relu_forward, kernels.relu_backward),
    "tanh": (kernels.tanh_forward, kernels.tanh_backward),
    "logistic": (kernels.logistic_forward, kernels.logistic_backward),
}
STRAIGHT = ("relu", "leaky_relu", "identity")  # slopes that stay as they are around a point
FEW = 8  # roundoffs that an elementwise function may be off
# So many rows at a time go through `_loss_backward`, whose memory is their square.
ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Layer:
    """One layer in one turn; n rows, I inputs, O neurons.

    Attributes
    ----------
    activation : str
        Of its neurons. That of the last layer belongs to the loss: "softmax", "logistic", "exp"
        or "identity".
    W, b : ndarray (I, O) and (O,)
        Weights and biases before the update.
    inputs : ndarray (n, I)
    Z : ndarray (n, O)
        The weighted sums ``inputs W + b``.
    A : ndarray (n, O)
        Their activations.
    slope : ndarray (n, O)
        Derivatives of A by Z, each neuron's own; ones in the last layer, whose derivative is part
        of that of the loss.
    dZ : ndarray (n, O)
        Derivatives of the total loss by Z.
    dW, db : ndarray (I, O) and (O,)
        Derivatives of the total loss by weights and biases, from the engine that trains.
    W_after, b_after : ndarray
        After the update.
    """

    activation: str
    W: Array
    b: Array
    inputs: Array
    Z: Array
    A: Array
    slope: Array
    dZ: Array
    dW: Array
    db: Array
    W_after: Array
    b_after: Array

    @property
    def fired(self) -> NDArray[np.bool_]:
        """Which neurons were pushed past their threshold: ``Z > 0``, (n, O)."""
        return self.Z > 0


@dataclass(frozen=True)
class Turn:
    """One turn of the five steps.

    Attributes
    ----------
    X, y : ndarray
        As the engine takes them.
    layers : tuple of Layer
    row_losses : ndarray of float64 (n,)
    loss, loss_after : float
        The total loss, which is the mean over rows, before and after the update.
    dX : ndarray (n, n_in)
        Derivatives of the total loss by the inputs.
    difference, tolerance : float
        The largest difference between the derivatives of this turn, computed operation by
        operation, and those of the engine that trains; and how large rounding can make it. Both
        are shares of the largest derivative.
    """

    X: Array
    y: Array
    layers: tuple[Layer, ...]
    row_losses: Array
    loss: float
    loss_after: float
    dX: Array
    difference: float
    tolerance: float


@np.errstate(over="ignore", invalid="ignore")
def turn(model: MLP, X: Array, y: Array, learning_rate: float) -> Turn:
    """Return one turn of gradient descent on the rows of X; the model stays as it is.

    The forward pass, the loss and dZ come from `fastmlp.kernels`, operation by operation, dW and db
    from `MLP.gradients`, which is the engine that trains.
    """
    learning_rate = as_real(learning_rate, "learning_rate", 0)
    bad = np.flatnonzero(~np.isfinite(model.params))
    if bad.size:
        raise ValueError(
            f"the model's params[{bad[0]}] is {model.params[bad[0]]}, expected finite numbers: "
            "a training that diverged leaves none"
        )
    sums, values = forward(model, X)
    loss, dweights, dbiases = model.gradients(X, y)
    losses = row_losses(sums[-1], y, model.loss_name, model.loss_parameter)
    if not (np.isfinite(loss) and np.isfinite(losses).all()):
        raise ValueError(f"the loss is {loss}: there is nothing to explain in numbers so large")
    dZ = _loss_backward(model, sums[-1], y)
    slopes = [slope(Z, name) for Z, name in zip(sums, model.activations, strict=False)]
    slopes.append(np.ones_like(sums[-1]))

    layers: list[Layer] = []
    own: list[Array] = []
    for i in reversed(range(len(model.weights))):
        W, b = model.weights[i], model.biases[i]
        name = model.activations[i] if i < len(model.activations) else _link(model)
        dA, dW, db = kernels.linear_backward(dZ, values[i], W)
        own += [db, dW]
        layers.append(
            Layer(
                activation=name,
                W=W,
                b=b,
                inputs=values[i],
                Z=sums[i],
                A=values[i + 1],
                slope=slopes[i],
                dZ=dZ,
                dW=dweights[i],
                db=dbiases[i],
                W_after=_updated(W, dweights[i], learning_rate),
                b_after=_updated(b, dbiases[i], learning_rate),
            )
        )
        if i:
            dZ = _activation_backward(dA, sums[i - 1], values[i], model.activations[i - 1])
    layers.reverse()
    own.reverse()

    after = model.copy()
    for layer, W, b in zip(layers, after.weights, after.biases, strict=True):
        W[...], b[...] = layer.W_after, layer.b_after
    engine = [array for layer in layers for array in (layer.dW, layer.db)]
    largest = max(float(np.abs(array).max()) for array in engine) or 1.0
    apart = max(float(np.abs(a - b).max()) for a, b in zip(own, engine, strict=True))
    bound = max(float(array.max()) for pair in rounding(X, layers) for array in pair)
    return Turn(
        X, y, tuple(layers), losses, loss, after.loss(X, y), dA, apart / largest, bound / largest
    )


def forward(model: MLP, X: Array) -> tuple[list[Array], list[Array]]:
    """Return the sums Z of every layer, and the values that go in and come out: X, A1, A2, ..."""
    sums, values = [], [X]
    for i, (W, b) in enumerate(zip(model.weights, model.biases, strict=True)):
        Z = kernels.linear_forward(values[-1], W, b)
        sums.append(Z)
        if i < len(model.activations):
            name = model.activations[i]
            values.append(KERNELS[name][0](Z) if name in KERNELS else activate(Z, name))
    values.append(outputs(model, sums[-1]))
    return sums, values


def outputs(model: MLP, Z: Array) -> Array:
    """Return what the loss compares with the targets: probabilities, rates or Z itself."""
    link = _link(model)
    if link == "softmax":
        return kernels.softmax_cross_entropy_forward(Z, np.zeros(len(Z), np.int64))[1]
    if link == "logistic":
        return kernels.logistic_forward(Z)
    A: Array = np.exp(Z) if link == "exp" else Z
    return A


def rounding(X: Array, layers: list[Layer]) -> list[tuple[Array, Array]]:
    """Return how far apart rounding can take two computations of dW and db of every layer.

    A sum of k products is off by at most (k + 2) u times the sum of their sizes, in whatever order
    they are added (Higham, "Accuracy and Stability of Numerical Algorithms", section 3.5), an
    elementwise function by `FEW` u. Such errors go on through the network as derivatives do, to
    first order: forward through weights and slopes, and back. No slope changes faster than its
    argument. Two computations are twice as far apart as one is from the exact derivatives.
    """
    u = float(np.finfo(X.dtype).eps) / 2
    of_sums, of_inputs = [], [np.zeros(X.shape)]
    for layer in layers:
        W, inputs = np.abs(layer.W).astype(np.float64), np.abs(layer.inputs)
        of_sums.append(
            of_inputs[-1] @ W + (len(W) + 2) * u * (inputs @ W + np.abs(layer.b)[np.newaxis])
        )
        of_inputs.append(np.abs(layer.slope) * of_sums[-1] + FEW * u * np.abs(layer.A))
    d = _spread(layers[-1], of_sums[-1], u) / len(X) + FEW * u * np.abs(layers[-1].dZ)
    bounds = []
    for i in reversed(range(len(layers))):
        size, inputs = np.abs(layers[i].dZ).astype(np.float64), np.abs(layers[i].inputs)
        sums = (len(X) + 2) * u
        dW = inputs.T @ (d + sums * size) + of_inputs[i].T @ size
        bounds.append((2 * dW, 2 * (d + sums * size).sum(axis=0)))
        if i:
            W = np.abs(layers[i].W).T.astype(np.float64)
            curved = layers[i - 1].activation not in STRAIGHT
            of_slopes = (of_sums[i - 1] + FEW * u) * curved
            of_dA = d @ W + (len(W) + 2) * u * (size @ W)
            slopes = np.abs(layers[i - 1].slope)
            d = of_dA * slopes + (size @ W) * of_slopes + FEW * u * np.abs(layers[i - 1].dZ)
    return bounds[::-1]


def _spread(last: Layer, error: Array, u: float) -> Array:
    """Return how far errors in Z can take the derivative of a row's loss."""
    P: Array = last.A.astype(np.float64)
    spread: Array = error
    if last.activation == "softmax":
        weighted = P * error
        others = weighted.sum(axis=1, keepdims=True) - weighted
        spread = P * ((1 - P) * error + others + FEW * u)
    elif last.activation == "logistic":
        spread = P * ((1 - P) * error + FEW * u)
    elif last.activation == "exp":
        spread = P * (error + FEW * u)
    return spread


def take_rows(model: MLP, x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    """Return the rows to explain as the engine takes them; x may be one row, y its target."""
    if not isinstance(model, MLP):
        raise TypeError(f"model is {type(model).__name__}, expected fastmlp.MLP")
    array = as_array(x, "X")
    if array.ndim == 1 and (model.sizes[0] == 1 or np.ndim(y) == 0 or model.sizes[0] == len(array)):
        array = array.reshape(-1, model.sizes[0] if len(array) % model.sizes[0] == 0 else 1)
        if len(array) == 1 and (np.ndim(y) == 0 or not model.classifies):
            y = np.asarray(y).reshape((1,) if model.classifies else (1, -1))
    X, targets = model.as_data(array if array.ndim > 1 else x, y)
    assert isinstance(X, np.ndarray)  # which `as_array` has made sure of
    return X, targets


def _link(model: MLP) -> str:
    return LINKS.get(model.loss_name, "identity")


def _loss_backward(model: MLP, Z: Array, y: Array) -> Array:
    """Return dZ, the derivative of the mean loss by the outputs of the last layer."""
    if model.loss_name == "softmax_cross_entropy":
        return kernels.softmax_cross_entropy_backward(outputs(model, Z), y)
    if model.loss_name == "squared_error":
        return kernels.squared_error(Z, y)[1]
    # The engine itself: with unit vectors as inputs and Z as weights, outputs are Z, and dW is dZ.
    parts = []
    for start in range(0, len(Z), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        n = len(Z[part])
        bare = MLP(
            [n, Z.shape[1]],
            loss=model.loss_name,
            loss_parameter=model.loss_parameter or None,
            dtype=model.dtype,
        )
        bare.weights[0][...] = Z[part]
        dW = bare.gradients(np.eye(n), y[part])[1][0]
        parts.append(dW * dW.dtype.type(n / len(Z)))
    return np.concatenate(parts)


def _activation_backward(dA: Array, Z: Array, A: Array, name: str) -> Array:
    if name in KERNELS:
        return KERNELS[name][1](dA, A)
    return dA * slope(Z, name)


def _updated(W: Array, dW: Array, learning_rate: float) -> Array:
    after = W.copy()
    kernels.sgd_update(after, np.zeros_like(after), dW, learning_rate=learning_rate)
    return after
