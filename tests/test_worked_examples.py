"""The two examples that can be checked by hand, every number written out."""

import numpy as np
import pytest

import fastmlp


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_chain(dtype):
    """One input, one hidden neuron, one output: yhat = W2 W1 x with W1 = 3, W2 = 1, y = 2x."""
    model = fastmlp.MLP([1, 1, 1], activation="identity", loss="squared_error", dtype=dtype)
    model.params[:] = [3, 0, 1, 0]
    X, y = [[0], [1], [2], [3], [4]], [0, 2, 4, 6, 8]

    np.testing.assert_array_equal(model.predict(X), [0, 3, 6, 9, 12])
    loss, (dW1, dW2), (db1, db2) = model.gradients(X, y)
    assert loss == 3.0  # 1/2 (0 + 1 + 4 + 9 + 16) / 5
    assert dW2.item() == 18.0  # mean of error · hidden: (0 + 3 + 12 + 27 + 48) / 5
    assert dW1.item() == 6.0  # mean of error · W2 · x: (0 + 1 + 4 + 9 + 16) / 5
    assert db1.item() == 2.0  # mean of error · W2
    assert db2.item() == 2.0  # mean of error


def test_descent_on_the_chain_finds_the_product_2():
    model = fastmlp.MLP([1, 1, 1], activation="identity", loss="squared_error", dtype="float64")
    model.params[:] = [3, 0, 1, 0]
    X, y = [[0], [1], [2], [3], [4]], [0, 2, 4, 6, 8]
    fastmlp.SGD(model, learning_rate=0.02, momentum=0, batch_size=5).fit(X, y, epochs=2000)
    (W1,), (W2,) = model.weights
    assert (W1 * W2).item() == pytest.approx(2, abs=1e-6)


def test_one_step_of_descent_on_the_chain():
    model = fastmlp.MLP([1, 1, 1], activation="identity", loss="squared_error", dtype="float64")
    model.params[:] = [3, 0, 1, 0]
    X, y = [[0], [1], [2], [3], [4]], [0, 2, 4, 6, 8]
    fastmlp.SGD(model, learning_rate=0.01, momentum=0, batch_size=5).fit(X, y, epochs=1)
    # each parameter less 0.01 times its gradient: 6, 2, 18, 2
    np.testing.assert_allclose(model.params, [2.94, -0.02, 0.82, -0.02], rtol=1e-15)


def test_two_hidden_layers_with_a_relu_that_is_off():
    """2 inputs, 2 + 2 ReLU neurons, 2 softmax outputs; the row x = (1, 2), class 0.

    Z1 = (1·1 + 2·0.5, 1·-1 + 2·0) = (2, -1)     A1 = (2, 0): the second neuron is off
    Z2 = (2·1 + 0, 2·-0.5 + 0 + 2) = (2, 1)      A2 = (2, 1)
    Z3 = (2·1 + 1·0, 2·0 + 1·1 + 1) = (2, 2)     P = (1/2, 1/2), loss = log 2
    dZ3 = (-1/2, 1/2)
    dA2 = (1·-1/2 + 0·1/2, 0·-1/2 + 1·1/2) = (-1/2, 1/2) = dZ2
    dA1 = (1·-1/2 - 0.5·1/2, 3·-1/2 + 4·1/2) = (-3/4, 1/2), dZ1 = (-3/4, 0)
    """
    model = fastmlp.MLP([2, 2, 2, 2], dtype="float64")
    for view, values in zip(
        [*model.weights, *model.biases],
        [[[1, -1], [0.5, 0]], [[1, -0.5], [3, 4]], [[1, 0], [0, 1]], [0, 0], [0, 2], [0, 1]],
        strict=True,
    ):
        view[...] = values
    np.testing.assert_array_equal(model.forward([[1, 2]]), [[2, 2]])
    np.testing.assert_array_equal(model.predict_proba([[1, 2]]), [[0.5, 0.5]])

    loss, (dW1, dW2, dW3), (db1, db2, db3) = model.gradients([[1, 2]], [0])
    assert loss == pytest.approx(np.log(2), rel=1e-15)
    np.testing.assert_array_equal(db3, [-0.5, 0.5])
    np.testing.assert_array_equal(dW3, [[-1, 1], [-0.5, 0.5]])  # A2^T dZ3
    np.testing.assert_array_equal(db2, [-0.5, 0.5])
    np.testing.assert_array_equal(dW2, [[-1, 1], [0, 0]])  # the silent neuron sends nothing on
    np.testing.assert_array_equal(db1, [-0.75, 0])
    np.testing.assert_array_equal(dW1, [[-0.75, 0], [-1.5, 0]])  # and nothing comes back to it
