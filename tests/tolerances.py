"""How far a result may be from the exact one, derived from the dtype and the length of sums.

u is the unit roundoff. A product of matrices with inner length K, summed in any order, with a
bias, has |error| <= (K + 2) u (|A||B| + |b|) elementwise, to first order (Higham, "Accuracy and
Stability of Numerical Algorithms", section 3.5).
"""

import numpy as np


def roundoff(dtype):
    return float(np.finfo(dtype).eps) / 2


def product(A, B, bias=0.0):
    """Bound for A B + bias computed in the dtype of A."""
    u, K = roundoff(A.dtype), A.shape[1]
    magnitude = np.abs(A).astype(float) @ np.abs(B).astype(float) + np.abs(bias)
    return (K + 2) * u * magnitude + np.finfo(A.dtype).tiny


def assert_within(actual, expected, bound):
    error = np.abs(np.asarray(actual, float) - expected)
    bound = np.broadcast_to(bound, error.shape)
    # written so that NaN fails
    worst = np.argmax(error - bound) if error.size else None
    assert np.all(error <= bound), f"error {error.flat[worst]:.3g}, bound {bound.flat[worst]:.3g}"


# Of an activation or its slope as it is computed, in units of the last place of numbers up to 1.
FEW = 8


def backpropagation(model, X, dZ_of):
    """Outputs and gradients of a network in float64, each with a bound on what `model` computes.

    The bounds follow the operations: that of a product, plus what the errors of its factors can do.
    A relu near its kink may be on either side of it.

    Parameters
    ----------
    model : MLP
        Of relu, identity, tanh or logistic.
    X : ndarray of the model's dtype
    dZ_of : callable
        From the outputs Z and their bound to the loss's derivative by Z, and a bound for it.

    Returns
    -------
    Z, bound, gradients, bounds : the latter two flat, like `model.params`
    """
    u, A, e = roundoff(model.dtype), X.astype(np.float64), np.zeros(X.shape)
    weights = [W.astype(np.float64) for W in model.weights]
    kept = []
    for W, b, activation in zip(
        weights, model.biases, (*model.activations, "identity"), strict=True
    ):
        Z = A @ W + b
        e_Z = e @ np.abs(W) + (len(W) + 2) * u * ((np.abs(A) + e) @ np.abs(W) + np.abs(b))
        kept.append((A, e, W, Z, e_Z, activation))
        A, e = _activated(Z, e_Z, activation, u)
    outputs, e_outputs = Z, e_Z
    dZ, e_dZ = dZ_of(outputs, e_outputs)
    gradients, bounds = [], []
    while kept:
        A, e, W, *_ = kept.pop()
        K = len(A) + 2
        dW, db = A.T @ dZ, dZ.sum(axis=0)
        most = np.abs(dZ) + e_dZ
        e_dW = np.abs(A).T @ e_dZ + e.T @ most + K * u * ((np.abs(A) + e).T @ most)
        e_db = e_dZ.sum(axis=0) + K * u * most.sum(axis=0)
        gradients[:0], bounds[:0] = [dW.ravel(), db], [e_dW.ravel(), e_db]
        if kept:
            dA = dZ @ W.T
            e_dA = e_dZ @ np.abs(W).T + (W.shape[1] + 2) * u * (most @ np.abs(W).T)
            *_, Z, e_Z, activation = kept[-1]
            dZ, e_dZ = _through(dA, e_dA, Z, e_Z, activation, u)
    tiny = np.finfo(model.dtype).tiny
    return outputs, e_outputs + tiny, np.concatenate(gradients), np.concatenate(bounds) + tiny


def _activated(Z, e_Z, activation, u):
    if activation == "relu":
        return np.maximum(Z, 0), e_Z
    if activation == "identity":
        return Z, e_Z
    with np.errstate(over="ignore"):
        A = np.tanh(Z) if activation == "tanh" else 1 / (1 + np.exp(-Z))
    return A, np.minimum(e_Z, 2) + FEW * u


def _through(dA, e_dA, Z, e_Z, activation, u):
    """The derivative by Z of a hidden layer, and a bound."""
    most = np.abs(dA) + e_dA
    if activation == "identity":
        return dA, e_dA
    if activation == "relu":
        return np.where(Z > 0, dA, 0), np.where(np.abs(Z) <= e_Z, most, np.where(Z > 0, e_dA, 0))
    A, e_A = _activated(Z, e_Z, activation, u)
    slope = 1 - A**2 if activation == "tanh" else A * (1 - A)
    return dA * slope, e_dA * slope + most * (2 * e_A + e_A**2 + FEW * u)
