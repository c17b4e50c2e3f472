"""Inputs that are 0: the fused engine leaves them out where there are many, and nobody can tell."""

import numpy as np
import pytest
from levels import DTYPES, LEVELS, core_of, same_bits
from tolerances import FEW, assert_within, backpropagation, roundoff

from fastmlp import MLP
from fastmlp._core import OUTPUTS

RULES = {
    "momentum": {"optimizer": "sgd", "momentum": 0.9},
    "decay": {"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "adam": {"optimizer": "adam", "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8},
}


def sparse(rng, n, inputs, share):
    """Rows of which a share is not 0, some of them 0 altogether; as are some columns."""
    X = rng.normal(size=(n, inputs)) * (rng.random((n, inputs)) < share)
    X[rng.random(n) < 0.1] = 0
    X[:, rng.random(inputs) < 0.1] = 0
    X[:, 40:60] = 0
    X[rng.random((n, inputs)) < 0.2] *= -0.0  # a zero too
    return X


def trained(core, params, X, y, batch, t, rule, n_threads=1):
    """Parameters and moments after an epoch from step t on."""
    moments = [np.zeros_like(params), np.zeros_like(params)]
    core.load(params, *moments)
    options = {key: value for key, value in rule.items() if key != "optimizer"}
    core.epoch(
        X, y, np.arange(len(X))[::-1].copy(), batch, learning_rate=0.01, t=t, n_threads=n_threads,
        max_workers=4, any_size=True, **options,
    )  # fmt: skip
    after = np.empty_like(params)
    core.store(after, *moments)
    return [after, *moments]


# Steps look for zeros when 16 divides their number: those from 1 on do not, unless one before has.
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "inputs, outputs, batch, share, n_threads",
    [
        (65, 17, 16, 0.05, 1),
        (100, 48, 17, 0.05, 1),
        (96, 33, 33, 0.1, 2),
        (301, 130, 100, 0.02, 1),
        (301, 290, 64, 0.05, 3),
        (1100, 96, 20, 0.2, 4),  # by columns, where there are threads
        (128, 11, 20, 0.0, 1),
        (110, 64, 2500, 0.02, 1),  # in stretches, whatever the vectors
    ],
)
def test_leaving_them_out_changes_no_bit(
    level, dtype, rule, inputs, outputs, batch, share, n_threads
):
    rng = np.random.default_rng(inputs)
    model = MLP([inputs, outputs, 3], seed=0, dtype=dtype)
    X = sparse(rng, 5 * batch + batch // 2, inputs, share).astype(dtype)
    y = rng.integers(0, 3, len(X))
    core = core_of(level, model, batch, rule["optimizer"], n_threads=n_threads)
    dense = trained(core, model.params, X, y, batch, 1, rule, n_threads)
    assert not core.skips_zeros
    trained(core, model.params, X, y, batch, 0, rule)
    assert core.skips_zeros
    left_out = trained(core, model.params, X, y, batch, 1, rule, n_threads)
    assert core.skips_zeros
    for one, other in zip(dense, left_out, strict=True):
        assert same_bits(one, other)
    assert np.isfinite(dense[0]).all()
    assert not same_bits(dense[0], model.params)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("level", LEVELS)
def test_a_step_against_the_reference(level, dtype):
    rng, rate, u = np.random.default_rng(0), 0.01, roundoff(dtype)
    model = MLP([150, 70, 3], loss="squared_error", seed=0, dtype=dtype)
    X, T = sparse(rng, 90, 150, 0.05).astype(dtype), rng.normal(size=(90, 3)).astype(dtype)
    core = core_of(level, model, 90)
    trained(core, model.params, X, T, 90, 0, {})
    assert core.skips_zeros
    after, velocity, _ = trained(core, model.params, X, T, 90, 1, {})

    def dZ_of(Z, e_Z):
        return (Z - T) / len(X), (e_Z + FEW * u * (np.abs(Z) + np.abs(T) + e_Z)) / len(X)

    *_, gradients, bound = backpropagation(model, X, dZ_of)
    assert_within(velocity, -rate * gradients, rate * bound)
    # in float64 the sum expected here is rounded like that of the core
    assert_within(after, model.params - rate * gradients, rate * bound + 2 * u * np.abs(after))


@pytest.mark.parametrize("level", LEVELS)
def test_gradients_that_are_given_out_leave_out_nothing(level):
    """Infinite derivatives times inputs that are 0 are NaN, whatever the core did before."""
    model = MLP([200, 32, 10], loss="squared_error", activation="identity", seed=0)
    X, y = np.zeros((64, 200), "f"), np.zeros((64, 10), "f")
    X[:, 7], params = 1, model.params.copy()
    weights, biases = model.split(params)
    weights[0][7], weights[1][:], biases[1][:] = 0, 3e30, 1e18  # what comes back overflows, no loss
    core = core_of(level, model, 64)
    found = [np.empty_like(params) for _ in range(2)]
    assert np.isfinite(core.gradients(found[0], X, y, params))
    trained(core, model.params, X, y, 8, 0, RULES["momentum"])
    assert core.skips_zeros
    core.gradients(found[1], X, y, params)
    assert core.skips_zeros
    assert same_bits(*found)
    assert np.isnan(found[0]).any()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "sizes, batch, share, expected",
    [
        ([784, 32, 10], 32, 1.0, False),
        ([784, 32, 10], 32, 0.3, False),
        ([784, 32, 10], 32, 0.2, True),
        ([784, 32, 10], 16, 0.05, True),
        ([784, 32, 10], 15, 0.05, False),  # most of a step is the update
        ([64, 32, 10], 32, 0.05, False),  # too few of them to be worth looking
        ([70_000, 17, 3], 400, 0.001, False),  # lists would take more than 256 MB
    ],
)
def test_they_are_left_out_where_there_are_many(level, sizes, batch, share, expected):
    rng = np.random.default_rng(0)
    model = MLP(sizes, seed=0)
    X = (rng.random((batch, sizes[0]), "f") < share).astype("f")
    core = core_of(level, model, batch)
    trained(core, model.params, X, rng.integers(0, sizes[-1], batch), batch, 0, RULES["momentum"])
    assert core.skips_zeros == expected


@pytest.mark.parametrize("level", LEVELS)
def test_what_comes_is_looked_at_again(level):
    rng = np.random.default_rng(0)
    model = MLP([200, 32, 10], seed=0)
    core, y = core_of(level, model, 32), rng.integers(0, 10, 320)
    mostly_zero, dense = np.zeros((320, 200), "f"), np.ones((320, 200), "f")
    for X, expected in [(mostly_zero, True), (dense, False), (mostly_zero, True)]:
        trained(core, model.params, X, y, 32, 16, RULES["momentum"])
        assert core.skips_zeros == expected


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("n_threads", [1, 3])
def test_rows_without_zeros_that_come_before_the_next_look(level, dtype, n_threads):
    """The lists have room for them."""
    rng = np.random.default_rng(0)
    model = MLP([301, 40, 10], seed=0, dtype=dtype)
    X, y = rng.normal(size=(320, 301)).astype(dtype), rng.integers(0, 10, 320)
    X[-20:] = 0  # the first batch: rows are taken from the end
    core = core_of(level, model, 20, n_threads=n_threads)
    dense = trained(core, model.params, X, y, 20, 1, RULES["momentum"], n_threads)
    assert not core.skips_zeros
    listed = trained(core, model.params, X, y, 20, 0, RULES["momentum"], n_threads)
    assert core.skips_zeros
    for one, other in zip(dense, listed, strict=True):
        assert same_bits(one, other)


@pytest.mark.parametrize("level", LEVELS)
def test_nan_is_not_taken_for_zero(level):
    model = MLP([200, 32, 10], seed=0)
    core = core_of(level, model, 32)
    X, y = np.zeros((320, 200), "f"), np.zeros(320, int)
    trained(core, model.params, X, y, 32, 0, RULES["momentum"])
    assert core.skips_zeros
    X[100, 7] = np.nan
    core.load(model.params, np.zeros_like(model.params))
    _, _, steps, all_done = core.epoch(X, y, np.arange(320), 32, learning_rate=0.01, t=1)
    assert (steps, all_done) == (3, False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("outputs", [1, 11, 33, 100, 290])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.2])
def test_predictions_of_many_rows_have_the_bits_of_each(level, dtype, outputs, share):
    """Row by row, nothing is left out."""
    rng = np.random.default_rng(outputs)
    for sizes in ([101, outputs], [101, outputs, 4]):
        model = MLP(sizes, seed=0, dtype=dtype)
        model.params[:] = rng.normal(size=model.params.shape)
        X = sparse(rng, 150, 101, share).astype(dtype)
        core = core_of(level, model, 1)
        expected = [core.infer(row[np.newaxis].copy(), model.params, OUTPUTS)[0] for row in X]
        for n in (31, 32, 33, 100, 150):
            for n_threads in (1, 3):
                found = core.infer(X[:n].copy(), model.params, OUTPUTS, lambda n=n_threads: n)
                assert same_bits(found, np.array(expected[:n]))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("where", [0, 7777, -1])
def test_weights_that_are_not_finite_are_not_left_out(level, where):
    """Infinity times an input that is 0 is NaN, in predictions of one row and of many."""
    model = MLP([333, 65], loss="squared_error", seed=0)
    for value in (np.nan, np.inf):
        model.weights[0].flat[where] = value
        X = np.zeros((70, 333), "f")
        found = core_of(level, model, 1).infer(X, model.params, OUTPUTS)
        column = np.arange(333 * 65)[where] % 65
        assert np.isnan(found[:, column]).all()
        assert np.isfinite(np.delete(found, column, axis=1)).all()
