"""The fused engine's kernels against the reference, at every instruction set."""

import itertools

import numpy as np
import pytest
import reference
from levels import DTYPES, LEVELS, capsule, core_of
from tolerances import assert_within, product, roundoff

import fastmlp
from fastmlp import engines
from fastmlp._core import OUTPUTS, Core

levels = pytest.mark.parametrize("level", LEVELS)
dtypes = pytest.mark.parametrize("dtype", DTYPES)

# Vectors have 2 to 16 lanes, panels up to three vectors, tiles 4 to 16 rows: both sides of all.
EDGES = [47, 48, 49, 59, 60, 61, 63, 64, 65, 95, 96, 97, 127, 128, 129, 143, 144, 145]
OTHERS = [(1, 1), (5, 17), (12, 16), (13, 33)]


def covering():
    """(B, I, O) with every size of 1..40 and every edge in every place, and random ones."""
    cases = []
    for n in [*range(1, 41), *EDGES]:
        for j, k in OTHERS:
            cases += [(n, j, k), (j, n, k), (j, k, n)]
    cases += np.random.default_rng(0).integers(1, 80, (150, 3)).tolist()
    # few outputs, of fewer rows than a vector has lanes, as many, and more
    for n in range(1, 13):
        cases += [(7, 33, n), (16, 40, n), (37, 15, n)]
    # few rows through a wide layer: every number of vectors that goes at once, and what is left
    for n in range(1, 6):
        cases += [(n, 70, O) for O in (32, 64, 96, 128, 195, 257, 400)]
    # sums of as much as a row tile does at a time, 192 or 576 (portable 1152 in float32), of one
    # more, and of three times that
    for n in (192, 193, 576, 577, 1153, 1729):
        cases += [(9, n, 5), (9, 5, n), (40, n, 50), (40, 50, n)]
    # the first batches that are summed in stretches of rows, a row more or less, and larger ones
    for n in (383, 384, 385, 577, 1151, 1152, 1153, 2305):
        cases += [(n, 5, 50), (n, 40, 17)]
    # more rows than pass through a network at once, more columns than one tile group
    return [*cases, (520, 1000, 20), (1000, 70, 130), (600, 500, 40), (2, 30, 1500)]


def normal(rng, dtype, *shape):
    return rng.normal(size=shape).astype(dtype)


def unset(dtype, *shape):
    return np.full(shape, np.nan, dtype)


def flat(*parts):
    return np.concatenate([np.ravel(part) for part in parts])


def core(level, sizes, dtype, B, loss="squared_error", activation="identity"):
    return Core(capsule(level), sizes, [activation] * (len(sizes) - 2), loss, dtype, B, "sgd")


def product_with(A, D, roundings):
    """Bound for A D where entries of D carry relative errors of so many roundings."""
    return product(A, D) * (1 + roundings / (A.shape[1] + 2))


@pytest.mark.parametrize("level", engines.LEVELS)
def test_this_machine_tests_the_level(level):
    if level not in LEVELS:
        pytest.skip(f"this CPU does not have {level}")


@levels
@dtypes
def test_linear_forward_and_its_gradients(level, dtype):
    for B, I, O in covering():
        rng = np.random.default_rng([B, I, O])
        X, W, b, T = (normal(rng, dtype, *s) for s in ((B, I), (I, O), (O,), (B, O)))
        params, gradients = flat(W, b), unset(dtype, I * O + O)
        network = core(level, (I, O), dtype, B)

        Z = network.infer(X, params, OUTPUTS)
        expected = reference.linear_forward(X.astype(float), W.astype(float), b)
        assert_within(Z, expected, product(X, W, b))

        loss = network.gradients(gradients, X, T, params)
        # from the Z above, whose bits training has as well; three roundings: Z - T, 1/B, product
        expected_loss, dZ = reference.squared_error(Z.astype(float), T.astype(float))
        _, dW, db = reference.linear_backward(dZ, X.astype(float), W.astype(float))
        actual = gradients[: I * O].reshape(I, O), gradients[I * O :]
        assert_within(actual[0], dW, product_with(X.T, dZ, 3))
        assert_within(actual[1], db, product_with(np.ones((1, B), dtype), dZ, 3)[0])
        # the difference counts twice; a product, an addition and at most O terms
        assert loss == pytest.approx(expected_loss, rel=(O + 4) * roundoff(dtype))


@levels
@dtypes
def test_errors_pass_back_through_a_layer(level, dtype):
    """With unit rows as X the first layer's dW is the second's dX."""
    for B, I, O in covering()[:-4]:
        rng = np.random.default_rng([B, I, O])
        W0, b0, W, b, T = (
            normal(rng, dtype, *s) for s in ((B, I), (I,), (I, O), (O,), (B, O))
        )  # fmt: skip
        params, X = flat(W0, b0, W, b), np.eye(B, dtype=dtype)
        gradients = unset(dtype, len(params))
        network = core(level, (B, I, O), dtype, B)
        Z = network.infer(X, params, OUTPUTS)
        assert_within(Z, (W0 + b0).astype(float) @ W + b, product(W0 + b0, W, b))
        network.gradients(gradients, X, T, params)
        dZ = reference.squared_error(Z.astype(float), T.astype(float))[1]
        bound = product_with(W, dZ.T, 3).T
        assert_within(gradients[: B * I].reshape(B, I), dZ @ W.T.astype(float), bound)


@levels
@dtypes
@pytest.mark.parametrize("O", [1, 2, 15, 16, 17, 33, 1000])
def test_losses_of_every_number_of_rows(level, dtype, O):
    """With unit rows as X the logits are W, and dW is dZ."""
    u = roundoff(dtype)
    for B in range(1, 71):
        rng = np.random.default_rng([B, O])
        Z, X = 5 * normal(rng, dtype, B, O), np.eye(B, dtype=dtype)
        params, gradients = flat(Z, np.zeros(O, dtype)), unset(dtype, (B + 1) * O)
        dZ = gradients[: B * O].reshape(B, O)

        y = rng.integers(0, O, B)
        y[0], y[-1] = O - 1, 0
        network = core(level, (B, O), dtype, B, "softmax_cross_entropy")
        loss = network.gradients(gradients, X, y, params)
        expected_loss, P = reference.softmax_cross_entropy_forward(Z.astype(float), y)
        expected = reference.softmax_cross_entropy_backward(P, y)
        # Z - max is in error by u |Z - max|, a relative error of exp; exp itself by 4u; the sum
        # by its terms in 16 lanes and a tree; 1/B, factor and product by u each
        shift = (Z.max(axis=1, keepdims=True) - Z).max(axis=1, keepdims=True)
        relative = (shift + 4 + O / 16 + 5 + 3) * u
        # the reference rounds as well: twice
        assert_within(dZ, expected, 2 * (relative * P + 2 * u * (P + np.eye(O)[y])) / B)
        # log passes the relative error of the sum on as an absolute one
        bound = 2 * (relative + 4 * u * np.log(O) + 2 * u * shift)
        assert_within(loss, expected_loss, bound.mean())

        T = normal(rng, dtype, B, O)
        loss = core(level, (B, O), dtype, B).gradients(gradients, X, T, params)
        expected_loss, expected = reference.squared_error(Z.astype(float), T.astype(float))
        assert_within(dZ, expected, 3 * u * np.abs(expected))
        assert_within(loss, expected_loss, (O / 16 + 9) * u * expected_loss)


@levels
@dtypes
def test_softmax_of_huge_logits(level, dtype):
    """The largest is found in every column; where all are equal, so are the probabilities."""
    for O in (3, 16, 20, 37):
        Z = np.full((O + 1, O), -1e30, dtype)
        Z[range(O), range(O)] = 1e30
        y, params = np.arange(O + 1) % O, flat(Z, np.zeros(O, dtype))
        gradients = unset(dtype, len(params))
        network = core(level, (O + 1, O), dtype, O + 1, "softmax_cross_entropy")
        loss = network.gradients(gradients, np.eye(O + 1, dtype=dtype), y, params)
        assert loss == pytest.approx(np.log(O) / (O + 1), rel=8 * roundoff(dtype))
        expected = np.zeros((O + 1, O))
        expected[O] = (1 / O - np.eye(O)[0]) / (O + 1)
        actual = gradients[:-O].reshape(O + 1, O)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=8 * roundoff(dtype))


@levels
@dtypes
@pytest.mark.parametrize("O", [1, 3, 16, 20])
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "squared_error"])
@pytest.mark.parametrize("bad", ["row of NaN", "column of NaN", "one infinity"])
def test_what_is_not_finite_is_not_lost(level, dtype, O, loss, bad):
    """Whichever row and column it is in, the loss shows it, and nothing is trained on it."""
    B, most = 19, np.finfo(dtype).max
    network = core(level, (B, O), dtype, B, loss)
    y = np.zeros(B, int) if loss == "softmax_cross_entropy" else np.zeros((B, O), dtype)
    for row, column in itertools.product((0, 1, 17, 18), sorted({0, O // 2, O - 1})):
        X, W, b = np.eye(B, dtype=dtype), np.zeros((B, O), dtype), np.zeros(O, dtype)
        if bad == "row of NaN":
            X[row, row] = np.nan
        elif bad == "column of NaN":
            b[column] = np.nan
        else:
            X[row, row] = W[row, column] = most
        params, moment = flat(W, b), np.zeros_like(flat(W, b))
        before = params.copy()
        network.load(params, moment)
        assert network.epoch(X, y, np.arange(B), B, learning_rate=1.0)[2] == 0
        network.store(params, moment)
        np.testing.assert_array_equal(params, before)
        assert not moment.any()


@levels
@dtypes
@pytest.mark.parametrize("layer", [0, 1])
def test_nan_passes_through_relu(level, dtype, layer):
    """In every column of the hidden layer, forward and, as its mask, back."""
    for H, column in itertools.product((1, 20, 40), (0, -1)):
        model = random_model((3, H, 5, 2), "relu", dtype)
        model.biases[layer][column] = np.nan
        network, gradients = core_of(level, model, 7), np.full_like(model.params, 7)
        X, T = np.ones((7, 3), dtype), np.ones((7, 2), dtype)
        assert np.isnan(network.gradients(gradients, X, T, model.params))
        assert np.isnan(network.infer(X, model.params, OUTPUTS)).all()
        assert np.isnan(network.infer(X[:1], model.params, OUTPUTS)).all()


@levels
@dtypes
def test_a_last_step_that_overflows_is_not_done(level, dtype):
    """The loss before it is finite, and so are all layers but the last."""
    network = core(level, (1, 1, 1), dtype, 1)
    params = np.array([1, 0, 0, 0], dtype)
    moment, one = np.zeros_like(params), np.ones((1, 1), dtype)
    network.load(params, moment)
    rate = float(np.finfo(dtype).max)
    assert network.epoch(one, -9 * one, np.zeros(1, int), 1, learning_rate=rate)[2] == 0
    network.store(params, moment)
    np.testing.assert_array_equal(params, [1, 0, 0, 0])
    assert not moment.any()


@dtypes
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "squared_error"])
@pytest.mark.parametrize("sizes", [(9, 1000), (9, 17), (30, 40, 33), (5, 16)], ids=str)
def test_every_level_has_the_same_loss_and_gradients(dtype, loss, sizes):
    model, rng = random_model(sizes, "tanh", dtype, loss), np.random.default_rng(0)
    X, T = normal(rng, dtype, 37, sizes[0]), normal(rng, dtype, 37, sizes[-1])
    y = rng.integers(0, sizes[-1], 37) if model.classifies else T
    found = set()
    for level in LEVELS:
        gradients = np.full_like(model.params, np.nan)
        value = core_of(level, model, 37).gradients(gradients, X, y, model.params)
        found.add((value, gradients.tobytes()))
    assert len(found) == 1


NETS = [  # wide ones have more outputs than one row takes at once
    (3, 5), (7, 31, 2), (130, 129, 10), (20, 257, 64, 33), (1, 1, 1, 1), (17, 300, 1), (9, 1000),
    (64, 128, 128, 10), (5, 127, 255, 7), (850, 450, 7), (3, 5, 1300, 2),
]  # fmt: skip


def random_model(sizes, activation, dtype, loss="squared_error"):
    model = fastmlp.MLP(sizes, activation=activation, loss=loss, dtype=dtype)
    rng = np.random.default_rng(sum(sizes))
    for b in model.biases:
        b[:] = rng.normal(size=b.shape)
    return model


@dtypes
@pytest.mark.parametrize("sizes", NETS, ids=str)
@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
def test_inference_has_the_bits_of_training(dtype, sizes, activation):
    """At all levels, for any number of rows at a time, and as training computes them.

    If the outputs are made the targets, training must find a loss and gradients of exactly 0.
    """
    model = random_model(sizes, activation, dtype)
    X, params = normal(np.random.default_rng(0), dtype, 29, sizes[0]), model.params
    whole = core_of(LEVELS[0], model, 29).infer(X, params, OUTPUTS)
    for level, n in itertools.product(LEVELS, (1, 2, 13, 29)):
        network = core_of(level, model, n)
        parts = [network.infer(X[i : i + n], params, OUTPUTS) for i in range(0, 29, n)]
        assert np.concatenate(parts).tobytes() == whole.tobytes(), f"{level}, {n} rows at a time"
        gradients = np.full_like(params, np.nan)
        assert network.gradients(gradients, X[:n], whole[:n], params) == 0
        assert not gradients.any(), f"{level}, {n} rows"


@levels
@dtypes
def test_more_rows_than_pass_at_a_time(level, dtype):
    model = random_model((7, 40, 3), "relu", dtype)
    X = normal(np.random.default_rng(0), dtype, 2100, 7)
    network = core_of(level, model, 1)
    whole = network.infer(X, model.params, OUTPUTS)
    parts = [network.infer(X[i : i + 300], model.params, OUTPUTS) for i in range(0, 2100, 300)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
