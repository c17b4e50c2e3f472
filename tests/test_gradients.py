"""Gradients: the reference against complex step, the engine against both."""

import numpy as np
import pytest
import reference
from tolerances import roundoff

import fastmlp

N_NETS = 200


def random_net(seed, dtype="float64"):
    """A network of 1 to 4 layers with data: every activation and loss comes up."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 8, size=rng.integers(2, 6)).tolist()
    activation = ["relu", "tanh", "logistic", "identity"][seed % 4]
    loss = ["softmax_cross_entropy", "squared_error"][seed // 4 % 2]
    model = fastmlp.MLP(sizes, activation=activation, loss=loss, dtype=dtype, seed=seed)
    for b in model.biases:
        b[:] = rng.normal(size=b.shape)
    B = int(rng.integers(1, 12))
    X = rng.normal(size=(B, sizes[0])).astype(dtype)
    if model.classifies:
        return model, X, rng.integers(0, sizes[-1], B)
    return model, X, rng.normal(size=(B, sizes[-1])).astype(dtype)


def flat_gradient(model, X, y):
    """Loss and gradient of the engine, the latter laid out like model.params."""
    loss, dweights, dbiases = model.gradients(X, y)
    layers = zip(dweights, dbiases, strict=True)
    return loss, np.concatenate([part.ravel() for layer in layers for part in layer])


def by_complex_step(model, X, y):
    def loss(params):
        return reference.loss(*model.split(params), X, y, model.activation, model.loss_name)

    return reference.complex_step(loss, model.params.astype(float))


def test_the_reference_agrees_with_complex_step():
    for seed in range(40):
        model, X, y = random_net(seed)
        _, dweights, dbiases = reference.gradients(
            model.weights, model.biases, X, y, model.activation, model.loss_name
        )
        layers = zip(dweights, dbiases, strict=True)
        actual = np.concatenate([part.ravel() for layer in layers for part in layer])
        expected = by_complex_step(model, X, y)
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


def test_float64_gradients_agree_with_complex_step():
    for seed in range(N_NETS):
        model, X, y = random_net(seed)
        loss, actual = flat_gradient(model, X, y)
        expected = by_complex_step(model, X, y)
        size = np.linalg.norm(expected)
        if model.sizes[-1] > 1 or not model.classifies:
            assert size > 0, "a gradient of zero tests nothing"
        assert np.linalg.norm(actual - expected) <= 1e-9 * size, f"net {seed}: {model}"
        # elementwise as well: an entry may lose only what cancels in its own sum
        assert np.abs(actual - expected).max() <= 1e-9 * np.abs(expected).max(initial=0)
        expected_loss = reference.loss(
            model.weights, model.biases, X, y, model.activation, model.loss_name
        )
        assert loss == pytest.approx(expected_loss, rel=1e-12)


def magnitudes(model, X, y):
    """For every parameter, what its gradient is with every term of every sum made positive.

    Rounding errors are relative to these. Activations have slope at most 1.
    """
    weights, biases = [np.abs(W) for W in model.weights], [np.abs(b) for b in model.biases]
    A = [np.abs(X).astype(float)]
    for W, b in zip(weights, biases, strict=True):
        A.append(A[-1] @ W + b)
    if model.classifies:
        dZ = np.ones((len(X), model.sizes[-1])) / len(X) * (1 + A[-1].max())
    else:
        dZ = (A[-1] + np.abs(y)) / len(X)
    parts = []
    for i in range(len(weights) - 1, -1, -1):
        parts = [(A[i].T @ dZ).ravel(), dZ.sum(axis=0), *parts]
        # the derivative's own argument is in error too: tanh and logistic bend by at most 1
        dZ = dZ @ weights[i].T * (1 + A[i])
    return np.concatenate(parts)


def test_float32_gradients_are_within_the_rounding_of_their_sums():
    for seed in range(N_NETS):
        model, X, y = random_net(seed, "float32")
        _, actual = flat_gradient(model, X, y)
        weights, biases = model.split(model.params.astype(float))
        y64 = y if model.classifies else y.astype(float)
        _, dweights, dbiases = reference.gradients(
            weights, biases, X.astype(float), y64, model.activation, model.loss_name
        )
        layers = zip(dweights, dbiases, strict=True)
        expected = np.concatenate([part.ravel() for layer in layers for part in layer])
        # one rounding a term of every sum on the way, forward and back, and six a function
        terms = 2 * sum(model.sizes) + len(X) + 6 * len(model.sizes)
        bound = terms * roundoff("float32") * magnitudes(model, X, y)
        assert np.all(np.abs(actual - expected) <= bound), f"net {seed}: {model}"


def test_gradients_do_not_depend_on_how_many_rows_there_are():
    model, X, y = random_net(0)
    X, y = np.tile(X, (300, 1)), np.tile(y, 300)
    _, actual = flat_gradient(model, X, y)
    np.testing.assert_allclose(actual, by_complex_step(model, X, y), rtol=0, atol=1e-9)
