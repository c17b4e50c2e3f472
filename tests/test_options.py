"""What a step can do beside the plain one: losses, activations, weights, dropout, decay."""

import functools
import math

import numpy as np
import pytest
import reference
from levels import DTYPES, LEVELS, core_of
from scipy import special
from tolerances import assert_within, roundoff

import fastmlp
from fastmlp._core import LOSSES, OUTPUTS, dropout_words
from fastmlp.losses import row_losses
from fastmlp.session import Session

ENGINES = ["blas", *LEVELS]
engines = pytest.mark.parametrize("engine", ENGINES)
dtypes = pytest.mark.parametrize("dtype", DTYPES)


@np.vectorize
def normal_cdf(z):
    return 0.5 * math.erfc(-z / math.sqrt(2))


# activation: value, slope, and the relative error allowed of each in units of roundoff, of the
# largest of the terms that add up to it. For the logistic see test_vector_math; the normal
# distribution is exp(-z²/2), whose argument's rounding counts z²/2 times, and a dozen operations;
# the BLAS engine and, in float64, the reference round z/√2 instead, which counts z² times.
ACTIVATIONS = {
    "leaky_relu": (
        lambda z: np.where(z > 0, z, 0.01 * z), lambda z: np.where(z > 0, 1, 0.01),
        lambda z: 2 + 0 * z, lambda z: 1 + 0 * z,
    ),
    "silu": (
        lambda z: z * special.expit(z),
        lambda z: special.expit(z) * (1 + z * special.expit(-z)),
        lambda z: 8 + 0 * z, lambda z: 16 * (1 + np.abs(z)),
    ),
    "gelu": (
        lambda z: z * normal_cdf(z),
        lambda z: normal_cdf(z) + z * np.exp(-z * z / 2) / np.sqrt(2 * np.pi),
        lambda z: 2 * z * z + 20, lambda z: (2 * z * z + 20) * (1 + np.abs(z)),
    ),
}  # fmt: skip


def through_activation(engine, dtype, activation, Z, T, dropout=0.0):
    """A network whose first layer gives Z and whose second passes on activation(Z)."""
    B, O = Z.shape
    model = fastmlp.MLP([B, O, O], activation=activation, loss="squared_error", dtype=dtype)
    model.params[:] = 0
    model.weights[0][:] = Z
    model.weights[1][:] = np.eye(O)
    network = core_of(engine, model, B, dropout=dropout)
    gradients = np.full_like(model.params, np.nan)
    network.gradients(gradients, np.eye(B, dtype=dtype), T, model.params)
    values = network.infer(np.eye(B, dtype=dtype), model.params, OUTPUTS)
    return values, model.split(gradients)[0][0]


@engines
@dtypes
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_and_their_slopes(engine, dtype, activation):
    u, tiny = roundoff(dtype), np.finfo(dtype).tiny
    value, slope, value_error, slope_error = ACTIVATIONS[activation]
    for B, O in ((1, 1), (3, 17), (40, 33)):
        rng = np.random.default_rng([B, O])
        Z = (3 * rng.normal(size=(B, O))).astype(dtype)
        Z[0, 0] = 0
        T = rng.normal(size=(B, O)).astype(dtype)
        A, dZ = through_activation(engine, dtype, activation, Z, T)
        z = Z.astype(float)
        assert_within(A, value(z), u * value_error(z) * np.abs(value(z)) + 4 * tiny)
        # dA as computed is exact but for a subtraction and a product
        dA = (A.astype(float) - T) / B
        bound = u * (slope_error(z) + 4) * np.abs(dA)
        assert_within(dZ, dA * slope(z), bound + tiny)


@engines
@dtypes
def test_the_normal_distribution_far_out(engine, dtype):
    """gelu is 0 far below and the identity far above, with its slope."""
    Z = np.array([[-1e15, -50, 50, 1e15]], dtype)
    A, dZ = through_activation(engine, dtype, "gelu", Z, np.full_like(Z, 3))
    np.testing.assert_array_equal(A, [[0, 0, 50, Z[0, 3]]])
    np.testing.assert_array_equal(dZ, [[0, 0, 47, Z[0, 3] - 3]])


def derivative(Z, T, loss, parameter):
    """Of a loss of values by the outputs, and what its relative error may be."""
    error = Z - T
    return {
        "binary_cross_entropy": special.expit(Z) - T,
        "squared_error": error,
        "poisson": np.exp(Z) - T,
        "absolute_error": np.sign(error),
        "huber": np.clip(error, -parameter, parameter),
        "quantile": np.where(error == 0, 0, np.where(error < 0, -parameter, 1 - parameter)),
    }[loss]


@functools.cache
def values_problem(dtype, loss, O, B=37):
    rng = np.random.default_rng([O, B])
    Z = (2 * rng.normal(size=(B, O))).astype(dtype)
    T = rng.poisson(2, (B, O)) if loss == "poisson" else rng.normal(size=(B, O))
    if loss == "binary_cross_entropy":
        T = rng.integers(0, 2, (B, O))
    weights = rng.uniform(0.1, 3, B)
    weights[B // 2] = 0
    return Z, T.astype(dtype), weights.astype(dtype)


VALUE_LOSSES = [loss for loss in LOSSES if loss != "softmax_cross_entropy"]


@engines
@dtypes
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", VALUE_LOSSES)
def test_losses_of_values(engine, dtype, loss, weighted):
    u = roundoff(dtype)
    for O in (1, 16, 33):
        Z, T, weights = values_problem(dtype, loss, O)
        B, parameter = len(Z), {"huber": 0.75, "quantile": 0.875}.get(loss)
        model = fastmlp.MLP([B, O], loss=loss, loss_parameter=parameter, dtype=dtype)
        model.params[:] = 0
        model.weights[0][:] = Z
        network, X = core_of(engine, model, B), np.eye(B, dtype=dtype)
        gradients = np.full_like(model.params, np.nan)
        found = network.gradients(gradients, X, T, model.params, weights if weighted else None)
        share = (weights.astype(float) if weighted else np.ones(B)) / (
            weights.sum(dtype=float) if weighted else B
        )
        z, t = Z.astype(float), T.astype(float)
        expected = derivative(z, t, loss, parameter or 0) * share[:, None]
        # the derivative is the difference of two numbers with a relative error of 6u at most;
        # then the sample weight's share, three roundings
        size = (np.exp(z) + np.abs(t) + np.abs(z) + 2) * share[:, None]
        assert_within(gradients[: B * O].reshape(B, O), expected, 10 * u * size)
        losses = row_losses(Z, T, loss, parameter or 0.0)
        assert found == pytest.approx(losses @ share, rel=(O + 40) * u * 4)


def test_row_losses_are_those_of_scipy():
    Z, T, _ = values_problem("float64", "binary_cross_entropy", 3)
    expected = -special.xlogy(T, special.expit(Z)) - special.xlogy(1 - T, special.expit(-Z))
    np.testing.assert_allclose(row_losses(Z, T, "binary_cross_entropy"), expected.sum(axis=1))
    Z, T, _ = values_problem("float64", "poisson", 3)
    expected = special.kl_div(T, np.exp(Z)).sum(axis=1)  # t log(t/m) - t + m
    np.testing.assert_allclose(row_losses(Z, T, "poisson"), expected, atol=1e-14)
    np.testing.assert_allclose(
        row_losses(Z, T, "huber", 0.75), special.huber(0.75, Z - T).sum(axis=1)
    )
    y = np.arange(len(Z)) % 3
    expected = -special.log_softmax(Z, axis=1)[range(len(Z)), y]
    np.testing.assert_allclose(row_losses(Z, y, "softmax_cross_entropy"), expected)
    quantile = row_losses(np.array([[0.0], [0.0]]), np.array([[2.0], [-2.0]]), "quantile", 0.9)
    np.testing.assert_allclose(quantile, [1.8, 0.2])


@engines
@dtypes
@pytest.mark.parametrize("O", [3, 16, 20])
def test_weighted_softmax(engine, dtype, O):
    """A row of weight 2 is two rows, one of weight 0 is none."""
    rng = np.random.default_rng(O)
    model = fastmlp.MLP([5, O], dtype=dtype, seed=1)
    X, y = rng.normal(size=(9, 5)).astype(dtype), rng.integers(0, O, 9)
    weights = np.array([1, 2, 0, 1, 1, 3, 0, 1, 1], dtype)
    rows = np.repeat(np.arange(9), weights.astype(int))
    once, repeated = (np.full_like(model.params, np.nan) for _ in range(2))
    loss = core_of(engine, model, 9).gradients(once, X, y, model.params, weights)
    expected = core_of(engine, model, 10).gradients(repeated, X[rows], y[rows], model.params)
    u = roundoff(dtype)
    assert loss == pytest.approx(expected, rel=20 * u)
    # two orders of sums of 9 and 10 terms of at most |x|
    np.testing.assert_allclose(once, repeated, rtol=0, atol=40 * u * np.abs(X).max())


@engines
@dtypes
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "binary_cross_entropy"])
def test_clipped_probabilities(engine, dtype, loss):
    """The loss is that of clipped probabilities, the gradient that of the probabilities."""
    eps = float(np.finfo(dtype).eps)
    most = {"float32": 13, "float64": 33}[dtype]  # its logistic rounds to a few ulp less than 1
    Z = np.array([[100, 0, -100], [-100, 0, most], [0, most, -most]], dtype)
    y = np.array([0, 0, 0])
    if loss == "binary_cross_entropy":
        y = np.array([[1, 0, 1], [1, 0, 0], [1, 0, 1]], dtype)
    model = fastmlp.MLP([3, 3], loss=loss, dtype=dtype)
    model.params[:] = 0
    model.weights[0][:] = Z
    plain, clipped = (np.full_like(model.params, np.nan) for _ in range(2))
    X = np.eye(3, dtype=dtype)
    core_of(engine, model, 3).gradients(plain, X, y, model.params)
    model.probability_clip = eps
    found = core_of(engine, model, 3).gradients(clipped, X, y, model.params)
    np.testing.assert_array_equal(clipped, plain)
    if loss == "softmax_cross_entropy":
        P = np.clip(special.softmax(Z.astype(float), axis=1)[range(3), y], eps, 1 - eps)
    else:
        P = np.clip(special.expit(Z).astype(float), eps, 1 - eps)  # rounded as the engine rounds
        P = np.where(y == 1, P, 1 - P)
    expected = -np.log(P).sum() / 3
    assert found == pytest.approx(expected, rel=30 * roundoff(dtype))
    assert model.loss(X, y) == pytest.approx(expected, rel=30 * roundoff(dtype))


@engines
@dtypes
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "binary_cross_entropy"])
def test_what_is_certain_and_right_still_costs_the_clip(engine, dtype, loss):
    eps = float(np.finfo(dtype).eps)
    model = fastmlp.MLP([1, 2], loss=loss, dtype=dtype)
    model.probability_clip = eps
    model.params[:] = [200, -200, 0, 0]
    X, y = np.ones((1, 1), dtype), np.array([0])
    if loss == "binary_cross_entropy":
        y = np.array([[1, 0]], dtype)
    found = core_of(engine, model, 1).gradients(np.empty_like(model.params), X, y, model.params)
    n = 1 if loss == "softmax_cross_entropy" else 2
    assert found == pytest.approx(-n * np.log1p(-eps), rel=4 * roundoff(dtype))
    assert model.loss(X, y) == pytest.approx(found, rel=4 * roundoff(dtype))


@engines
@dtypes
def test_small_losses_are_accurate(engine, dtype):
    """log(1 + e) for e far below the roundoff of 1."""
    Z = np.array([[-40, -20, 20, 40]], dtype)
    model = fastmlp.MLP([1, 4], loss="binary_cross_entropy", dtype=dtype)
    model.params[:] = [*Z[0], 0, 0, 0, 0]
    network, X = core_of(engine, model, 1), np.ones((1, 1), dtype)
    gradients = np.full_like(model.params, np.nan)
    loss = network.gradients(gradients, X, np.array([[0, 0, 1, 1]], dtype), model.params)
    expected = np.log1p(np.exp(-np.abs(Z.astype(float)))).sum()
    # exp 4u, log 4u, quotient and product, the sum of four
    assert loss == pytest.approx(expected, rel=14 * roundoff(dtype))


# -- dropout ---------------------------------------------------------------------------------------


def philox(counter, key):
    """Philox4x32-10 in Python's integers."""
    c, k, word = list(counter), list(key), 2**32 - 1
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [b >> 32 ^ c[1] ^ k[0], b & word, a >> 32 ^ c[3] ^ k[1], a & word]
        k = [k[0] + 0x9E3779B9 & word, k[1] + 0xBB67AE85 & word]
    return c


def test_philox_is_that_of_its_authors():
    # the known answers that come with Random123
    assert philox([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert philox([2**32 - 1] * 4, [2**32 - 1] * 2) == [
        0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD,
    ]  # fmt: skip


def test_dropout_words():
    key, step, layer, row, block = 0xABCDEF0123456789, 2**33 + 5, 3, 77, 2
    words = dropout_words(key, step, layer, row, block)
    counters = [[8 * block + i, row, 5, 2 ^ layer << 16] for i in range(8)]
    expected = np.array([philox(c, [key & 2**32 - 1, key >> 32]) for c in counters])
    np.testing.assert_array_equal(words.reshape(4, 8).T, expected)


def kept(model, B, dropout, key, step):
    """The factors of every hidden layer's outputs: 0 or 1 / (1 - dropout)."""
    factors = []
    for layer, O in enumerate(model.sizes[1:-1]):
        words = [
            np.concatenate([dropout_words(key, step, layer, b, k) for k in range(-(-O // 32))])[:O]
            for b in range(B)
        ]
        factors.append((np.array(words) >= int(dropout * 2**32)) / (1 - dropout))
    return factors


@engines
@dtypes
@pytest.mark.parametrize(
    ("B", "width"),
    [(37, 40), (1100, 200)],  # which is more than passes through a network at once
)
@pytest.mark.parametrize("activation", ["relu", "tanh", "identity", "gelu"])
def test_a_step_with_dropout(engine, dtype, activation, B, width):
    """The step is that of a network whose outputs are multiplied by what dropout keeps."""
    rng = np.random.default_rng(0)
    dropout, key, t = 0.25, 12345, 7
    model = fastmlp.MLP([9, width, 33, 4], activation=activation, dtype=dtype, seed=3)
    X, y = rng.normal(size=(B, 9)).astype(dtype), rng.integers(0, 4, B)
    factors = kept(model, B, dropout, key, t)
    assert 0.15 < np.mean([np.mean(factor == 0) for factor in factors]) < 0.35

    value, slope = {
        "relu": (reference.relu_forward, lambda z: z > 0),
        "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
        "identity": (lambda z: z, np.ones_like),
        "gelu": ACTIVATIONS["gelu"][:2],
    }[activation]
    weights, biases = model.split(model.params.astype(float))
    A, Z = [X.astype(float)], []
    for W, b, factor in zip(weights, biases, factors, strict=False):
        Z.append(A[-1] @ W + b)
        A.append(value(Z[-1]) * factor)
    loss, P = reference.softmax_cross_entropy_forward(A[-1] @ weights[-1] + biases[-1], y)
    dZ, dW = reference.softmax_cross_entropy_backward(P, y), []
    for i in (2, 1, 0):
        dW.insert(0, A[i].T @ dZ)
        if i:
            dZ = dZ @ weights[i].T * slope(Z[i - 1]) * factors[i - 1]

    network, params = core_of(engine, model, B, dropout=dropout), model.params.copy()
    network.load(params, np.zeros_like(params))
    order = np.arange(B)
    found = network.epoch(X, y, order, B, learning_rate=0.5, t=t, dropout_key=key)[0] / B
    network.store(params)
    u = roundoff(dtype)
    # three products of at most `width` terms forward, two back, and one of B
    bound = (5 * (width + 2) + B + 2) * u
    assert found == pytest.approx(loss, rel=bound)
    for W, before, expected in zip(model.split(params)[0], weights, dW, strict=True):
        assert_within(W, before - 0.5 * expected, bound * (np.abs(before) + 1))


def test_dropout_of_a_fit_is_reproducible_and_helps_nobody_at_prediction():
    X, y = fastmlp.data.load_digits()
    fits = []
    for seed in (0, 0, 1):
        model = fastmlp.MLP([64, 40, 10], seed=0)
        trainer = fastmlp.SGD(model, dropout=0.5, seed=seed, batch_size=50)
        history = trainer.fit(X[:500] / 16, y[:500], epochs=3)
        fits.append(model.params.copy())
        # without dropout the same model does better than it did while it was trained
        assert model.loss(X[:500] / 16, y[:500]) < history.loss[-1]
    np.testing.assert_array_equal(fits[0], fits[1])
    assert not np.array_equal(fits[0], fits[2])


# -- decay and clipping ----------------------------------------------------------------------------


@engines
@dtypes
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("max_norm", [None, 0.1, 1e6])
def test_l2_decoupled_decay_and_clipping(engine, dtype, optimizer, max_norm):
    """One step, from the gradient that the engine gives, by the formulas."""
    rng = np.random.default_rng(1)
    B, l2, decay, rate = 30, 3.0, 0.25, 0.125
    model = fastmlp.MLP([11, 35, 5], dtype=dtype, seed=2)
    for b in model.biases:
        b[:] = rng.normal(size=b.shape)
    X, y = rng.normal(size=(B, 11)).astype(dtype), rng.integers(0, 5, B)
    weights = rng.uniform(0.5, 2, B).astype(dtype)
    total = weights.sum(dtype=float)
    before, W = model.params.astype(float), model.params.copy()
    is_weight = np.zeros_like(before)
    for view in model.split(is_weight)[0]:
        view[:] = 1
    dW = np.full_like(W, np.nan)
    core_of(engine, model, B).gradients(dW, X, y, W, weights)
    g = dW + l2 / total * before * is_weight
    norm = np.linalg.norm(g)
    g *= 1 if max_norm is None else min(1, max_norm / norm)
    assert max_norm is None or (max_norm < norm) == (max_norm == 0.1)
    shrunk = before * (1 - rate * decay * is_weight)
    if optimizer == "sgd":
        expected = shrunk - rate * g
    else:
        expected = shrunk - rate * g / (np.abs(g) + 0.5)  # the first step of Adam

    network = core_of(engine, model, B, optimizer)
    moments = [np.zeros_like(W) for _ in range(1 + (optimizer == "adam"))]
    network.load(W, *moments)
    rule = {} if max_norm is None else {"max_norm": max_norm}
    # epsilon is scaled like the step: sqrt(1 - beta2) of the moment
    _, penalty, steps, done = network.epoch(
        X, y, np.arange(B), B, sample_weight=weights, learning_rate=rate, l2=l2,
        decoupled_decay=decay, beta1=0.875, beta2=0.75, epsilon=0.5 * 0.5, **rule,
    )  # fmt: skip
    assert (steps, done) == (1, True)
    network.store(W, *moments)
    u = roundoff(dtype)
    # the norm of some 600 numbers, each with a rounding; a dozen more
    assert_within(W, expected, 20 * u * (np.abs(before) + np.abs(g) + rate))
    squares = np.square(before * is_weight).sum()
    assert penalty == pytest.approx(0.5 * l2 * squares / total * B, rel=30 * u)


@engines
@dtypes
@pytest.mark.parametrize("activation", ["relu", "logistic", *ACTIVATIONS])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_penalty_is_that_of_the_weights_alone(engine, dtype, loss, activation):
    """Whatever pads the weights is no part of it, after steps as before them."""
    rng = np.random.default_rng(1)
    model = fastmlp.MLP([6, 5, 3], activation=activation, loss=loss, dtype=dtype, seed=2)
    X, y = rng.normal(size=(20, 6)).astype(dtype), rng.integers(0, 2, 20)
    if not model.classifies:
        y = rng.integers(0, 2, (20, 3)).astype(dtype)
    network = core_of(engine, model, 20)
    network.load(model.params, np.zeros_like(model.params))
    for _ in range(3):
        squares = sum(np.square(W.astype(float)).sum() for W in model.weights)
        penalty = network.epoch(X, y, np.arange(20), 20, learning_rate=0.5, l2=0.125)[1]
        assert penalty == pytest.approx(0.0625 * squares, rel=10 * roundoff(dtype))
        network.store(model.params)


@engines
def test_a_batch_without_weight_is_passed_over(engine):
    rng = np.random.default_rng(0)
    model = fastmlp.MLP([300, 7, 3], seed=0)  # wide rows, which are gathered ahead
    X, y = rng.normal(size=(30, 300)).astype("float32"), rng.integers(0, 3, 30)
    weights = np.repeat([1, 0, 2], 10).astype("float32")
    params = []
    for order in (np.arange(30), np.r_[:10, 20:30]):
        network, W = core_of(engine, model, 10), model.params.copy()
        network.load(W, np.zeros_like(W))
        done = network.epoch(
            X, y, order, 10, sample_weight=weights, learning_rate=0.1, momentum=0.5
        )
        assert done[2:] == (2, True)
        network.store(W)
        params.append(W)
    np.testing.assert_array_equal(*params)


@engines
@pytest.mark.parametrize(
    "options", [{"max_norm": 0.5}, {"dropout": 0.5}, {"weighted": True}], ids=str
)
def test_an_epoch_is_its_steps_one_by_one(engine, options):
    """Of rows so wide that a step may gather those of the next."""
    rng = np.random.default_rng(0)
    model = fastmlp.MLP([300, 17, 3], seed=0)
    X, y = rng.normal(size=(50, 300)).astype("float32"), rng.integers(0, 3, 50)
    weights = rng.uniform(0.5, 2, 50).astype("float32") if "weighted" in options else None
    dropout, rule = options.get("dropout", 0.0), {"learning_rate": 0.1, "momentum": 0.5}
    rule |= {"max_norm": options.get("max_norm", np.inf), "dropout_key": 99}
    results = []
    for parts in ([np.arange(50)], [np.arange(20), np.arange(20, 40), np.arange(40, 50)]):
        network, W = core_of(engine, model, 20, dropout=dropout), model.params.copy()
        network.load(W, np.zeros_like(W))
        loss, t = 0.0, 0
        for order in parts:
            done = network.epoch(X, y, order, 20, t=t, sample_weight=weights, **rule)
            loss, t = loss + done[0], t + done[2]
        network.store(W)
        results.append((W, loss))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-12)
    if weights is not None:
        share = [weights[rows] / weights[rows].sum() * len(rows) for rows in parts]
        Z = reference.forward(model.weights, model.biases, X[:20].astype(float), "relu")[-1]
        losses = row_losses(Z, y[:20], "softmax_cross_entropy")
        network.load(model.params, np.zeros_like(W))
        found = network.epoch(X, y, parts[0], 20, sample_weight=weights, **rule)[0]
        # No sum is of more terms than the rows are wide, and a logit moves a loss twice at most.
        size = np.abs(X[:20]).astype(float)
        for V, b in zip(model.weights, model.biases, strict=True):
            size = size @ np.abs(V) + np.abs(b)
        bound = (300 + 17 + 4) * roundoff("float32") * (2 * size.max(axis=1) + losses)
        assert_within(found, losses @ share[0], bound @ share[0])


# -- sessions --------------------------------------------------------------------------------------


def fitted(steps, engine="auto", **options):
    """The parameters after what `steps` does with a session and its data."""
    X, y = fastmlp.data.load_digits()
    X = np.ascontiguousarray(X / 16)
    model = fastmlp.MLP([64, 30, 10], seed=1)
    session = Session(model, "adam", engine=engine)

    def epoch(first=0, last=400):
        return session.epoch(X, y, np.arange(first, last), 50, learning_rate=0.01, **options)

    steps(session, epoch)
    session.store()
    return model.params, session


@pytest.mark.parametrize("engine", ["fused", "blas"])
def test_a_session_goes_on_as_if_stored_and_loaded(engine):
    def on(session, epoch):
        for _ in range(3):
            epoch()

    def stored(session, epoch):
        for _ in range(3):
            epoch()
            session.store()
            session.load()

    def larger_batches_in_between(session, epoch):
        epoch()
        session._ready(200)
        epoch()
        epoch()

    for other in (stored, larger_batches_in_between):
        a, b = fitted(on, engine)[0], fitted(other, engine)[0]
        np.testing.assert_array_equal(a, b, err_msg=other.__name__)


@pytest.mark.parametrize("engine", ["fused", "blas"])
def test_gradients_in_between_lose_nothing(engine):
    X, y = fastmlp.data.load_digits()
    X = np.ascontiguousarray(X / 16)

    def looked_at(session, epoch):
        epoch()
        few, labels = X[:40], y[:40]  # no more than a batch: in the same core
        _, found = session.gradients(few, labels)
        np.testing.assert_array_equal(found, session.gradients(few, labels)[1])
        twin = fastmlp.MLP([64, 30, 10], seed=1)
        twin.params[:] = session.model.params
        expected = Session(twin, "adam", engine=engine).gradients(few, labels)[1]
        np.testing.assert_array_equal(found, expected)
        epoch()

    def on(session, epoch):
        epoch()
        epoch()

    np.testing.assert_array_equal(fitted(looked_at, engine)[0], fitted(on, engine)[0])


@pytest.mark.parametrize("engine", ["fused", "blas"])
def test_undo_takes_back_one_epoch(engine):
    def one(session, epoch):
        epoch()

    def two_and_back(session, epoch):
        epoch()
        epoch(400, 800)
        session._undo()
        session._undo()  # only one

    params, session = fitted(two_and_back, engine)
    np.testing.assert_array_equal(params, fitted(one, engine)[0])
    assert (session.step, session.epochs) == (8, 1)


@pytest.mark.parametrize("engine", ["fused", "blas"])
def test_undo_after_divergence(engine):
    X, y = fastmlp.data.load_digits()
    model = fastmlp.MLP([64, 30, 10], seed=1)
    session, before = Session(model, "sgd", engine=engine), model.params.copy()
    # the third batch overflows
    X = np.ascontiguousarray(X[:200])
    X[120] = 3e38
    with pytest.raises(fastmlp.DivergedError, match="epoch 1, step 3"):
        session.epoch(X, y[:200], np.arange(200), 50, learning_rate=0.01)
    session.store()
    assert session.step == 2 and not np.array_equal(model.params, before)
    session, model.params[:] = Session(model, "sgd", engine=engine), before
    with pytest.raises(fastmlp.DivergedError, match="epoch 1, step 3"):
        session.epoch(X, y[:200], np.arange(200), 50, learning_rate=0.01, whole=True)
    session.store()
    np.testing.assert_array_equal(model.params, before)
    assert session.step == 0


@pytest.mark.parametrize("form", ["csr_matrix", "csr_array"])
def test_sparse_rows_give_the_bits_of_dense_ones(form):
    import scipy.sparse

    X, y = fastmlp.data.load_digits()
    X = np.ascontiguousarray(X / 16, np.float64)
    trained, totals, gradients = [], [], []
    weights = np.random.default_rng(0).uniform(0.5, 2, len(X))
    for rows in (X, getattr(scipy.sparse, form)(X)):
        model = fastmlp.MLP([64, 30, 10], dtype="float64", seed=1)
        session = Session(model, "sgd")
        gradients.append(session.gradients(rows, y, weights))
        # Of one row, |dW| is at most |A| |dZ|: the inputs are below 1, and |dZ| of softmax is.
        A = np.maximum(0, X @ model.weights[0])
        most = max(1, A.max(), np.abs(model.weights[1]).sum(axis=1).max())
        order = np.random.default_rng(2).permutation(len(X))
        totals.append(
            session.epoch(rows, y, order, 50, learning_rate=0.1, sample_weight=weights, l2=0.1)
        )
        session.store()
        trained.append(model.params)
    np.testing.assert_array_equal(*trained)
    assert totals[0] == totals[1]
    # Two weighted means over the rows, which are summed in another order.
    bound = 2 * (len(X) + 2) * np.finfo(np.float64).eps / 2
    assert abs(gradients[0][0] - gradients[1][0]) <= bound * gradients[0][0]
    np.testing.assert_allclose(gradients[0][1], gradients[1][1], rtol=0, atol=bound * most)


def test_input_gradients_are_those_of_differences():
    rng = np.random.default_rng(0)
    for activation in ("relu", "identity", "tanh", "logistic", "leaky_relu", "gelu", "silu"):
        model = fastmlp.MLP([4, 6, 5, 3], activation=activation, dtype="float64", seed=0)
        X, h = rng.normal(size=(7, 4)), 1e-6
        found = model.input_gradients(X)
        assert found.shape == (7, 3, 4)
        for i in range(4):
            step = h * np.eye(4)[i]
            expected = (model.forward(X + step) - model.forward(X - step)) / (2 * h)
            # rounding over h, and h² times the third derivative
            np.testing.assert_allclose(found[:, :, i], expected, rtol=0, atol=1e-8)


def test_activations_per_layer():
    X = np.random.default_rng(0).normal(size=(5, 3))
    model = fastmlp.MLP([3, 4, 2, 2], activation=["tanh", "relu"], dtype="float64", seed=0)
    (W0, W1, W2), (b0, b1, b2) = model.weights, model.biases
    expected = np.maximum(np.tanh(X @ W0 + b0) @ W1 + b1, 0) @ W2 + b2
    np.testing.assert_allclose(model.forward(X), expected, rtol=1e-13)
    with pytest.raises(ValueError, match="activation has 1 entries, expected 2"):
        fastmlp.MLP([3, 4, 2, 2], activation=["tanh"])
    with pytest.raises(ValueError, match=r"activation\[1\] is 'sin', expected one of"):
        fastmlp.MLP([3, 4, 2, 2], activation=["tanh", "sin"])


def test_options_of_trainers():
    X, y = fastmlp.data.load_digits()
    weights = (y < 5).astype(float)
    model = fastmlp.MLP([64, 20, 10], seed=0)
    history = fastmlp.Adam(model, max_norm=1.0, dropout=0.1).fit(
        X / 16, y, epochs=15, sample_weight=weights
    )
    assert history.loss[-1] < history.loss[0] / 4
    found = model.predict(X / 16)
    assert np.all(found < 5) and np.mean(found[y < 5] == y[y < 5]) > 0.9
    for bad, message in (
        ({"dropout": 1.0}, "dropout is 1, expected"),
        ({"dropout": -0.1}, "dropout is -0.1, expected"),
        ({"max_norm": -1}, "max_norm is -1, expected"),
    ):
        with pytest.raises(ValueError, match=message):
            fastmlp.SGD(model, **bad)
    with pytest.raises(ValueError, match="sample_weight is 0 for every row"):
        fastmlp.SGD(model).fit(X, y, sample_weight=0 * weights)
    small = np.ones(len(y))
    small[3] = 1e-40
    with pytest.raises(ValueError, match=r"sample_weight\[3\] is .*e-41, expected 0 or at least"):
        fastmlp.SGD(model).fit(X, y, sample_weight=small)
    with pytest.raises(ValueError, match=r"sample_weight\[3\] is -1"):
        fastmlp.SGD(model).fit(X, y, sample_weight=np.where(np.arange(len(y)) == 3, -1.0, 1))


def test_models_with_a_loss_parameter_are_saved(tmp_path):
    model = fastmlp.MLP(
        [3, 4, 4, 1], activation=["gelu", "silu"], loss="quantile", loss_parameter=0.9
    )
    model.save(tmp_path / "m.safetensors")
    again = fastmlp.MLP.load(tmp_path / "m.safetensors")
    assert again.loss_parameter == 0.9 and again.activations == ("gelu", "silu")
    np.testing.assert_array_equal(again.forward(np.ones((2, 3))), model.forward(np.ones((2, 3))))
    with pytest.raises(ValueError, match="loss_parameter is 1"):
        fastmlp.MLP([3, 1], loss="quantile", loss_parameter=1)
    with pytest.raises(ValueError, match="has no parameter"):
        fastmlp.MLP([3, 1], loss="poisson", loss_parameter=1)
