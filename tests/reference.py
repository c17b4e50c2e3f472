"""Every operation of fastmlp again, in plain NumPy: what the engines are tested against.

The functions work in whatever precision they are given; tests give them float64, or complex128
for the complex-step derivative. Names and arguments are those of `fastmlp.kernels`.
"""

import numpy as np


def linear_forward(X, W, b):
    return X @ W + b


def linear_backward(dY, X, W):
    return dY @ W.T, X.T @ dY, dY.sum(axis=0)


def relu_forward(Z):
    return np.where(Z.real > 0, Z, 0 * Z)


def relu_backward(dA, A):
    return np.where(A > 0, dA, 0)


def tanh_forward(Z):
    return np.tanh(Z)


def tanh_backward(dA, A):
    return dA * (1 - A**2)


def logistic_forward(Z):
    return 1 / (1 + np.exp(-Z))


def logistic_backward(dA, A):
    return dA * A * (1 - A)


def identity_forward(Z):
    return Z


def identity_backward(dA, A):
    return dA


def softmax_cross_entropy_forward(Z, y):
    """Mean over rows of log(sum(exp(Z))) - Z[y], and softmax(Z)."""
    shifted = Z - Z.real.max(axis=1, keepdims=True)
    total = np.exp(shifted).sum(axis=1, keepdims=True)
    losses = np.log(total[:, 0]) - shifted[np.arange(len(Z)), y]
    return losses.mean(), np.exp(shifted) / total


def softmax_cross_entropy_backward(P, y):
    return (P - np.eye(P.shape[1])[y]) / len(P)


def squared_error(Z, T):
    return 0.5 * ((Z - T) ** 2).sum(axis=1).mean(), (Z - T) / len(Z)


def sgd_update(W, v, dW, learning_rate, momentum, nesterov, weight_decay):
    """The new W and v."""
    change = learning_rate * (dW + weight_decay * W)
    v = momentum * v - change
    return W + (momentum * v - change if nesterov else v), v


def adam_update(W, m, v, dW, t, learning_rate, beta_1, beta_2, epsilon, weight_decay, decoupled):
    """The new W, m and v after step t = 1, 2, ..."""
    if decoupled:
        W = W - learning_rate * weight_decay * W
    else:
        dW = dW + weight_decay * W
    m = beta_1 * m + (1 - beta_1) * dW
    v = beta_2 * v + (1 - beta_2) * dW**2
    rate = learning_rate * np.sqrt(1 - beta_2**t) / (1 - beta_1**t)
    return W - rate * m / (np.sqrt(v) + epsilon), m, v


ACTIVATIONS = {
    "relu": (relu_forward, relu_backward),
    "tanh": (tanh_forward, tanh_backward),
    "logistic": (logistic_forward, logistic_backward),
    "identity": (identity_forward, identity_backward),
}


def forward(weights, biases, X, activation):
    """The outputs of all layers, A_0 = X first; the last is linear."""
    outputs = [X]
    for i, (W, b) in enumerate(zip(weights, biases, strict=True)):
        Z = linear_forward(outputs[-1], W, b)
        outputs.append(Z if i == len(weights) - 1 else ACTIVATIONS[activation][0](Z))
    return outputs


def loss(weights, biases, X, y, activation, loss_name):
    Z = forward(weights, biases, X, activation)[-1]
    if loss_name == "softmax_cross_entropy":
        return softmax_cross_entropy_forward(Z, y)[0]
    return squared_error(Z, y)[0]


def gradients(weights, biases, X, y, activation, loss_name):
    """Loss, dweights and dbiases by backpropagation."""
    outputs = forward(weights, biases, X, activation)
    if loss_name == "softmax_cross_entropy":
        value, P = softmax_cross_entropy_forward(outputs[-1], y)
        dZ = softmax_cross_entropy_backward(P, y)
    else:
        value, dZ = squared_error(outputs[-1], y)
    dweights, dbiases = [], []
    for i in range(len(weights) - 1, -1, -1):
        dA, dW, db = linear_backward(dZ, outputs[i], weights[i])
        dweights.insert(0, dW)
        dbiases.insert(0, db)
        if i > 0:
            dZ = ACTIVATIONS[activation][1](dA, outputs[i])
    return value, dweights, dbiases


def complex_step(function, x, step=1e-30):
    """The gradient of a real function at x: Im f(x + ih e_k) / h, exact to rounding.

    W. Squire and G. Trapp, "Using complex variables to estimate derivatives of real functions",
    SIAM Review 40 (1998).
    """
    derivative = np.empty(x.size)
    for k in range(x.size):
        moved = x.astype(complex)
        moved[k] += 1j * step
        derivative[k] = function(moved).imag / step
    return derivative


def shuffled(n, seed):
    """0..n-1 shuffled by SplitMix64, index by index from the last, as fastmlp's trainers do."""
    order, mask = list(range(n)), 2**64 - 1
    for i in range(n - 1, 0, -1):
        seed = (seed + 0x9E3779B97F4A7C15) & mask
        z = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        j = ((z ^ (z >> 31)) >> 32) * (i + 1) >> 32
        order[i], order[j] = order[j], order[i]
    return np.array(order)


def orders(n, epochs, seed):
    """The orders of the rows that a trainer with this seed takes, epoch by epoch."""
    rng = np.random.default_rng(seed)
    return [shuffled(n, int(rng.integers(2**64, dtype=np.uint64))) for _ in range(epochs)]


def train(model, X, y, orders, batch_size, learning_rate, momentum, nesterov, weight_decay):
    """Mean training loss of every epoch of SGD, with the rows of each in the given order.

    Starts from the parameters of `model`, which is left alone.
    """

    def update(t, decay, W, v, _, dW):
        W, v = sgd_update(W, v, dW, learning_rate, momentum, nesterov, decay * weight_decay)
        return W, v, None

    return descend(model, model.params, X, y, orders, batch_size, update)[0]


def descend(model, params, X, y, orders, batch_size, update):
    """Mean training loss of every epoch, and the final parameters, starting from `params`.

    update(t, decay, W, m, v, dW) gives the new W, m and v in step t = 1, 2, ...; decay is 1 for
    weights and 0 for biases.
    """
    weights, biases = model.split(np.array(params, np.float64))
    decays = [1] * len(weights) + [0] * len(biases)
    parameters = [*weights, *biases]
    moments = [(np.zeros_like(p), np.zeros_like(p)) for p in parameters]
    losses, t = [], 0
    for order in orders:
        total = 0.0
        for start in range(0, len(order), batch_size):
            rows, t = order[start : start + batch_size], t + 1
            weights, biases = parameters[: len(weights)], parameters[len(weights) :]
            value, dweights, dbiases = gradients(
                weights, biases, X[rows], y[rows], model.activation, model.loss_name
            )
            total += value * len(rows)
            for i, d in enumerate([*dweights, *dbiases]):
                parameters[i], *moments[i] = update(t, decays[i], parameters[i], *moments[i], d)
        losses.append(total / len(order))
    layers = zip(parameters[: len(weights)], parameters[len(weights) :], strict=True)
    return losses, np.concatenate([part.ravel() for layer in layers for part in layer])
