"""MLP: parameters, initialisation, inference."""

import numpy as np
import pytest
import reference
from tolerances import roundoff

import fastmlp
from fastmlp import MLP
from fastmlp._core import OUTPUTS


def data(model, n, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, model.sizes[0]))
    if model.classifies:
        return X, rng.integers(0, model.sizes[-1], n)
    return X, rng.normal(size=(n, model.sizes[-1]))


def test_parameters_are_one_flat_array():
    model = MLP([3, 4, 2], dtype="float64")
    model.params[:] = np.arange(26)
    np.testing.assert_array_equal(model.weights[0], np.arange(12).reshape(3, 4))
    np.testing.assert_array_equal(model.biases[0], np.arange(12, 16))
    np.testing.assert_array_equal(model.weights[1], np.arange(16, 24).reshape(4, 2))
    np.testing.assert_array_equal(model.biases[1], [24, 25])
    model.weights[1][0, 0] = -1
    assert model.params[16] == -1
    assert model.n_parameters == 26


def test_same_seed_same_parameters():
    np.testing.assert_array_equal(MLP([9, 8, 7], seed=3).params, MLP([9, 8, 7], seed=3).params)
    assert (MLP([9, 8, 7], seed=3).weights[0] != MLP([9, 8, 7], seed=4).weights[0]).any()
    assert (MLP([9, 8, 7], seed=None).params != MLP([9, 8, 7], seed=None).params).any()
    single, double = MLP([9, 8, 7], seed=3), MLP([9, 8, 7], seed=3, dtype="float64")
    np.testing.assert_array_equal(single.params, double.params.astype("float32"))


@pytest.mark.parametrize("activation", ["relu", "identity", "tanh", "logistic"])
def test_initial_variance(activation):
    """He before a ReLU, Glorot elsewhere; the sample variance of n values is near the true one."""
    sizes = [300, 400, 200]
    model = MLP(sizes, activation=activation, dtype="float64", seed=1)
    glorot = [2 / (300 + 400), 2 / (400 + 200)]
    expected = [2 / 300, glorot[1]] if activation == "relu" else glorot
    for W, b, variance in zip(model.weights, model.biases, expected, strict=True):
        # the standard error of a variance is at most sqrt(2 / n) of it; five of them
        assert W.var() == pytest.approx(variance, rel=5 * np.sqrt(2 / W.size))
        assert abs(W.mean()) < 5 * np.sqrt(variance / W.size)
        assert not b.any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ["relu", "identity", "tanh", "logistic"])
@pytest.mark.parametrize("sizes", [[1, 1], [5, 3], [4, 7, 3], [3, 1, 9, 2, 5]], ids=str)
@pytest.mark.parametrize("n", [1, 2500])
def test_forward(sizes, activation, dtype, n):
    model = MLP(sizes, activation=activation, dtype=dtype)
    X, _ = data(model, n)
    weights, biases = model.split(model.params.astype(float))
    expected = reference.forward(weights, biases, X.astype(dtype).astype(float), activation)
    # every layer adds a rounding a term; values grow by the norms of the weights at most
    grown = np.abs(X).max() * np.prod([np.abs(W).sum(axis=0).max() + 1 for W in weights])
    bound = roundoff(dtype) * sum(size + 6 for size in sizes) * grown
    actual = model.forward(X)
    assert actual.shape == (n, sizes[-1]) and actual.dtype == dtype
    np.testing.assert_allclose(actual, expected[-1], rtol=0, atol=bound)


def test_predict_classes_and_probabilities():
    model = MLP([4, 8, 3], dtype="float64")
    X, y = data(model, 50)
    P = model.predict_proba(X)
    _, expected = reference.softmax_cross_entropy_forward(model.forward(X), y)
    np.testing.assert_allclose(P, expected, rtol=1e-14)
    np.testing.assert_array_equal(model.predict(X), expected.argmax(axis=1))


def test_predict_values():
    one, two = MLP([4, 8, 1], loss="squared_error"), MLP([4, 8, 2], loss="squared_error")
    X, _ = data(one, 50)
    assert one.predict(X).shape == (50,) and one.forward(X).shape == (50, 1)
    assert two.predict(X).shape == (50, 2)
    with pytest.raises(TypeError, match="needs a classifier"):
        one.predict_proba(X)


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "squared_error"])
def test_loss_is_that_of_the_reference(loss):
    model = MLP([4, 8, 3], loss=loss, dtype="float64")
    X, y = data(model, 50)
    expected = reference.loss(model.weights, model.biases, X, y, "relu", loss)
    assert model.loss(X, y) == pytest.approx(expected, rel=1e-13)
    assert model.gradients(X, y)[0] == pytest.approx(expected, rel=1e-13)


def test_evaluate_counts_what_is_right():
    model = MLP([2, 2])
    model.params[:] = [1, 0, 0, 1, 0, 0]
    loss, accuracy = model.evaluate([[1, 0], [0, 1], [3, 2], [5, 0]], [0, 1, 1, 0])
    assert accuracy == 0.75
    margins = np.array([1, 1, -1, 5])
    assert loss == pytest.approx(np.log1p(np.exp(-margins)).mean(), rel=1e-6)
    assert MLP([2, 1], loss="squared_error").evaluate([[0, 0]], [2.0]) == (2.0, None)


def test_no_rows():
    model = MLP([4, 8, 3])
    assert model.forward(np.empty((0, 4))).shape == (0, 3)
    assert model.predict(np.empty((0, 4))).shape == (0,)
    with pytest.raises(ValueError, match="no rows"):
        model.loss(np.empty((0, 4)), [])


BAD_MODELS = {
    "one size": (lambda: MLP([3]), "at least inputs and outputs"),
    "zero width": (lambda: MLP([3, 0, 2]), r"sizes\[1\] is 0"),
    "float width": (lambda: MLP([3, 2.5, 2]), r"sizes\[1\] is 2.5"),
    "boolean width": (lambda: MLP([3, True, 2]), r"sizes\[1\] is True"),
    "text": (lambda: MLP("64"), "sequence of layer widths"),
    "number": (lambda: MLP(64), "sequence of layer widths"),
    "activation": (lambda: MLP([3, 2], activation="swish"), "activation is 'swish'"),
    "loss": (lambda: MLP([3, 2], loss="hinge"), "loss is 'hinge'"),
    "dtype": (lambda: MLP([3, 2], dtype="float16"), "dtype is 'float16'"),
    "no dtype": (lambda: MLP([3, 2], dtype="single precision"), "dtype is 'single precision'"),
}


@pytest.mark.parametrize("make, message", BAD_MODELS.values(), ids=BAD_MODELS)
def test_bad_models_are_named(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_numpy_dtypes_name_the_same():
    assert MLP([3, 2], dtype=np.float64).dtype == "float64"
    assert MLP([3, 2], dtype=np.dtype("f")).dtype == "float32"


def test_the_views_cannot_be_cut_loose():
    model = MLP([3, 2])
    with pytest.raises(TypeError):
        model.weights[0] = np.zeros((3, 2))


def test_one_model_in_many_threads():
    from concurrent.futures import ThreadPoolExecutor

    model = MLP([20, 30, 5])
    batches = [data(model, n, seed=n)[0] for n in range(1, 65)]
    expected = [model.forward(X) for X in batches]
    with ThreadPoolExecutor(8) as pool:
        for actual, wanted in zip(pool.map(model.forward, batches * 5), expected * 5, strict=True):
            np.testing.assert_array_equal(actual, wanted)


def test_show_config(capsys):
    fastmlp.show_config()
    shown = capsys.readouterr().out
    assert f"fastmlp     {fastmlp.__version__}" in shown
    assert "engine      " in shown and "blas        " in shown


def test_copies_and_pickles_keep_views_and_parameters_together():
    import copy
    import pickle

    model = MLP([3, 4, 2], seed=5)
    model.predict(np.zeros((1, 3)))
    model.metadata["note"] = "kept"
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(twin.params, model.params)
        twin.params[:] = 0
        assert not twin.weights[0].any() and model.weights[0].any()
        assert twin.metadata == {"note": "kept"} and repr(twin) == repr(model)


@pytest.mark.parametrize("engine", ["fused", "blas"])
def test_inference_is_there_for_either_engine(engine):
    """On a CPU without vectors, BLAS is the engine that `predict` has."""
    model = MLP([3, 2], seed=0)
    X = np.array([[1, 2, 4], [8, 16, 32]], "f")
    outputs = model.inference(engine=engine).infer(X, model.params, OUTPUTS)
    np.testing.assert_allclose(outputs, X.astype(float) @ model.weights[0], rtol=1e-6)
