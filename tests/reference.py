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


def train(model, X, y, orders, batch_size, learning_rate, momentum, nesterov, weight_decay):
    """Mean training loss of every epoch, with the rows of each in the given order.

    Starts from the parameters of `model`, which is left alone.
    """
    parameters = [np.array(p, np.float64) for p in (*model.weights, *model.biases)]
    velocity = [np.zeros_like(p) for p in parameters]
    n_layers = len(model.weights)
    losses = []
    for order in orders:
        total = 0.0
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            weights, biases = parameters[:n_layers], parameters[n_layers:]
            value, dweights, dbiases = gradients(
                weights, biases, X[rows], y[rows], model.activation, model.loss_name
            )
            total += value * len(rows)
            for i, d in enumerate([*dweights, *dbiases]):
                decay = weight_decay if i < n_layers else 0
                parameters[i], velocity[i] = sgd_update(
                    parameters[i], velocity[i], d, learning_rate, momentum, nesterov, decay
                )
        losses.append(total / len(order))
    return losses
