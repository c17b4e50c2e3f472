"""Subnormal numbers, which make arithmetic slow, end as zero where they would go on for long."""

import numpy as np
import pytest
from levels import DTYPES, LEVELS, core_of

from fastmlp import MLP, SGD, Adam, engines

# 0.7 of the smallest number there is is that number again: this is where rounding keeps a moment
TRAINERS = {
    "momentum": (SGD, {"momentum": 0.7}),
    "nesterov": (SGD, {"momentum": 0.7, "nesterov": True}),
    "clipped": (SGD, {"momentum": 0.7, "max_norm": 100.0}),
    "adam": (Adam, {"beta_1": 0.7, "beta_2": 0.7}),
    "tiny epsilon": (Adam, {"beta_1": 0.7, "beta_2": 0.7, "epsilon": 1e-300}),
}
STEPS = {"float32": 9 * 64, "float64": 48 * 64}  # as many as it takes to get there, and 64 more


def fit_with_a_dead_unit(trainer, dtype, level, monkeypatch):
    """Model, moments before and after, of a fit whose third hidden unit dies after an epoch."""
    monkeypatch.setattr(engines, "simd_level", lambda: level)
    kind, options = TRAINERS[trainer]
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(64, 5)), rng.integers(0, 3, 64)
    model = MLP([5, 8, 3], dtype=dtype, seed=1)
    of = kind(model, learning_rate=0.01, batch_size=1, engine="fused", **options)
    of.fit(X, y, epochs=1)
    fed = [moment.copy() for moment in of._session.moments]
    model.biases[0][2] = -1e3
    of.fit(X, y, epochs=STEPS[dtype] // len(X) - 1)
    return model, fed, of._session.moments


def of_the_dead_unit(model, moment):
    """What a flat array holds for the weights into the third hidden unit, and out of it."""
    W, V = moment[:40].reshape(5, 8), moment[48:72].reshape(8, 3)
    assert len(moment) == len(model.params) == 75
    return np.concatenate([W[:, 2], V[2]])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("trainer", [name for name in TRAINERS if name != "tiny epsilon"])
def test_moments_without_gradient_become_zero(trainer, dtype, level, monkeypatch):
    model, fed, moments = fit_with_a_dead_unit(trainer, dtype, level, monkeypatch)
    assert len(moments) == len(fed) == (2 if trainer == "adam" else 1)
    for before, after in zip(fed, moments, strict=True):
        assert np.all(of_the_dead_unit(model, before) != 0), "it was not alive"
        np.testing.assert_array_equal(of_the_dead_unit(model, after), 0)
        assert np.count_nonzero(after) > len(after) / 2
        assert np.all(np.abs(after[after != 0]) >= np.finfo(dtype).tiny)


@pytest.mark.parametrize("level", LEVELS)
def test_mean_squares_that_a_tiny_epsilon_lets_count_are_kept(level, monkeypatch):
    """Without them a step would divide what is left of the mean by next to nothing."""
    model, _, (mean, square) = fit_with_a_dead_unit("tiny epsilon", "float64", level, monkeypatch)
    np.testing.assert_array_equal(of_the_dead_unit(model, mean), 0)
    assert np.all(of_the_dead_unit(model, square) > 0)
    assert np.all(of_the_dead_unit(model, square) < np.finfo("float64").tiny)


LOSSES = {  # with a target for which the derivative is exp(-x) to the last bit, x being large
    "softmax_cross_entropy": np.array([0]),
    "binary_cross_entropy": np.array([[1.0, 0.0]]),
    "poisson": np.array([[0.0, 0.0]]),
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("n_outputs", [2, 17])
def test_derivatives_are_normal_or_zero(loss, n_outputs, dtype, level):
    tiny = float(np.finfo(dtype).tiny)
    model = MLP([1, n_outputs], loss=loss, dtype=dtype)
    y = LOSSES[loss]
    if y.ndim == 2:
        y = np.hstack([y, np.zeros((1, n_outputs - 2))])
    for expected, is_zero in [(1.1 * tiny, False), (0.9 * tiny, True), (0.01 * tiny, True)]:
        model.params[:] = 0
        model.biases[0][1:] = np.log(expected)
        X, target = model.as_data(np.zeros((1, 1)), y)
        dW = np.full_like(model.params, np.nan)
        core_of(level, model, 1).gradients(dW, X, target, model.params)
        actual = dW[n_outputs + 1 :]  # of the biases, but for the first
        if is_zero:
            np.testing.assert_array_equal(actual, 0)
        else:  # the logarithm is rounded, in float64 and to the dtype; exp 2 ulp, 3 operations
            rtol = (abs(np.log(tiny)) + 5) * np.finfo(dtype).eps
            np.testing.assert_allclose(actual, expected, rtol=rtol)
