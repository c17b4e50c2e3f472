"""Whole steps and fits of both engines against the reference."""

import functools
import itertools

import numpy as np
import pytest
import reference
from levels import DTYPES, LEVELS, core_of
from test_gradients import by_complex_step, magnitudes, random_net
from tolerances import assert_within, roundoff

from fastmlp import MLP, SGD, Adam, engines

ENGINES = ["blas", *LEVELS]
both_engines = pytest.mark.parametrize("engine", ENGINES)
dtypes = pytest.mark.parametrize("dtype", DTYPES)

SGD_RULES = [
    {"momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
    for momentum, nesterov, weight_decay in itertools.product((0.0, 0.9), (False, True), (0.0, 0.1))
]
# 0.875, 0.9375 and what they lack to 1 are exact in both dtypes
ADAM_RULES = [
    {"weight_decay": weight_decay, "decoupled": decoupled, "epsilon": epsilon}
    for weight_decay, decoupled, epsilon in itertools.product(
        (0.0, 0.1), (False, True), (1e-8, 0.1)
    )
]


@functools.cache
def net_with_gradient(seed, dtype):
    """A random net, its data, and the gradient of float64 by complex step."""
    model, X, y = random_net(seed, dtype)
    X, y = model.as_data(X, y)
    twin = MLP(model.sizes, activation=model.activation, loss=model.loss_name, dtype="float64")
    twin.params[:] = model.params
    target = y if model.classifies else y.astype(float)
    return model, X, y, by_complex_step(twin, X.astype(float), target)


@both_engines
@dtypes
def test_gradients_of_random_nets(engine, dtype):
    for seed in range(80):
        model, X, y, expected = net_with_gradient(seed, dtype)
        actual = np.full_like(model.params, np.nan)
        core_of(engine, model, len(X)).gradients(actual, X, y, model.params)
        # one rounding a term of every sum on the way, forward and back, and ten a function
        terms = 2 * sum(model.sizes) + len(X) + 10 * len(model.sizes)
        assert_within(actual, expected, terms * roundoff(dtype) * magnitudes(model, X, y))


def step_problem(dtype, seed):
    """A wide or deep net with data of more rows than a batch has, and moments under way."""
    sizes = [(30, 37, 5), (13, 70, 33, 17), (3, 1, 2), (100, 20), (65, 8, 130, 3)][seed % 5]
    loss = ["softmax_cross_entropy", "squared_error"][seed % 2]
    activation = ["relu", "tanh", "logistic", "identity"][seed % 4]
    model = MLP(sizes, activation=activation, loss=loss, dtype=dtype, seed=seed)
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(50, sizes[0]))
    y = rng.integers(0, sizes[-1], 50) if model.classifies else rng.normal(size=(50, sizes[-1]))
    moments = [rng.normal(size=model.n_parameters), rng.uniform(size=model.n_parameters)]
    order = rng.permutation(50)[:37]
    return model, *model.as_data(X, y), order, [m.astype(dtype) for m in moments]


def decays(model):
    """1 for every weight, 0 for every bias."""
    flat = np.zeros(model.n_parameters)
    for W in model.split(flat)[0]:
        W[...] = 1
    return flat


@both_engines
@dtypes
@pytest.mark.parametrize("rule", SGD_RULES, ids=str)
def test_a_step_of_sgd(engine, dtype, rule):
    # a power of two: the sums of the fused engine, which have it in them, keep the bits of dW
    u, rate = roundoff(dtype), 0.125
    for seed in range(10):
        model, X, y, order, (v, _) = step_problem(dtype, seed)
        network, W = core_of(engine, model, 37), model.params.copy()
        dW = np.full_like(W, np.nan)
        network.gradients(dW, X[order], y[order], W)
        before = W.astype(float), v.astype(float)
        decay = rule["weight_decay"] * decays(model)
        expected_W, expected_v = reference.sgd_update(
            *before, dW.astype(float), rate, rule["momentum"], rule["nesterov"], decay
        )
        network.load(W, v)
        network.epoch(X, y, order, 37, learning_rate=rate, **rule)
        network.store(W, v)
        # the bits of dW may be others in the step (BLAS adds to the velocity at once): as many
        # roundings more as its sums have terms
        terms = 2 * sum(model.sizes) + 37 + 10 * len(model.sizes) if engine == "blas" else 0
        slack = 2 * rate * terms * u * magnitudes(model, X[order], y[order])
        magnitude = np.abs(before[0]) + np.abs(before[1]) + rate * np.abs(dW)
        # at most nine roundings, the options' own among them, of terms no larger
        assert_within(v, expected_v, 9 * u * magnitude + slack)
        assert_within(W, expected_W, 9 * u * magnitude + slack)


@both_engines
@dtypes
@pytest.mark.parametrize("rule", ADAM_RULES, ids=str)
def test_a_step_of_adam(engine, dtype, rule):
    u, rate, t = roundoff(dtype), 0.01, 3
    for seed in range(10):
        model, X, y, order, moments = step_problem(dtype, seed)
        network, W = core_of(engine, model, 37, "adam"), model.params.copy()
        dW = np.full_like(W, np.nan)
        network.gradients(dW, X[order], y[order], W)
        decay = rule["weight_decay"] * decays(model)
        before = W.astype(float), moments[0].astype(float), moments[1].astype(float)
        expected = reference.adam_update(
            *before, dW.astype(float), t, rate, 0.875, 0.9375, rule["epsilon"], decay,
            rule["decoupled"],
        )  # fmt: skip
        network.load(W, *moments)
        kind = "decoupled_decay" if rule["decoupled"] else "weight_decay"
        network.epoch(
            X, y, order, 37, learning_rate=rate, beta1=0.875, beta2=0.9375, t=t - 1,
            epsilon=rule["epsilon"], **{kind: rule["weight_decay"]},
        )  # fmt: skip
        network.store(W, *moments)
        g = np.abs(dW) + decay * np.abs(before[0])
        m, v = 0.875 * np.abs(before[1]) + g, expected[2]
        # g has two roundings, m and g² then three and five, v six; a square root halves them;
        # what the step divides by is positive; rate, quotient, product and difference
        assert_within(moments[0], expected[1], 6 * u * m)
        assert_within(moments[1], v, 10 * u * (0.9375 * before[2] + g**2))
        change = rate * m / (np.sqrt(v) + rule["epsilon"]) * (1 + g**2 / v)
        assert_within(W, expected[0], 20 * u * change + 4 * u * np.abs(before[0]))


@pytest.mark.parametrize("level", LEVELS)
@dtypes
@pytest.mark.parametrize("n_threads", [1, 2, 3, 5])
def test_a_step_uses_the_gradients_it_would_report(level, dtype, n_threads):
    """To the bit, step after step: with rate 1 and no momentum the velocity is -dW."""
    for seed in range(10):
        model, X, y, order, (v, _) = step_problem(dtype, seed)
        network, W = core_of(level, model, 37, n_threads=n_threads), model.params.copy()
        network.load(W, v)
        for _ in range(3):
            dW = np.full_like(W, np.nan)
            core_of(level, model, 37).gradients(dW, X[order], y[order], W)
            network.epoch(
                X, y, order, 37, learning_rate=1.0, n_threads=n_threads, max_workers=8,
                any_size=True,
            )  # fmt: skip
            expected = W - dW
            network.store(W, v)
            np.testing.assert_array_equal(v, -dW)
            np.testing.assert_array_equal(W, expected)


@pytest.mark.parametrize("level", LEVELS)
@dtypes
@pytest.mark.parametrize("n_threads", [1, 2, 5])
@pytest.mark.parametrize(
    "batch, sizes",
    [*((n, (290, 60, 5)) for n in (1, 5, 12, 385, 1200)), (70, (150, 60, 5)), (300, (290, 5))],
    ids=str,
)
def test_steps_of_few_and_many_rows(level, dtype, n_threads, batch, sizes):
    """The same while the next batch is gathered: in batches of fewer rows than a tile has vectors
    to update, and in batches that are summed in stretches.

    The rate, a power of two, is in every term without rounding, and so small that no relu dies.
    """
    rng = np.random.default_rng(batch)
    X, T = (rng.normal(size=(2600, n)).astype(dtype) for n in (sizes[0], sizes[-1]))
    model = MLP(sizes, loss="squared_error", dtype=dtype)
    order = rng.permutation(2600)[: 2 * batch + 30]
    network, W = core_of(level, model, batch, n_threads=n_threads), model.params.copy()
    v = np.zeros_like(W)
    network.load(W, v)
    rate = 2.0**-7
    network.epoch(
        X, T, order, batch, learning_rate=rate, n_threads=n_threads, max_workers=8, any_size=True
    )
    network.store(W, v)
    expected, dW = model.params.copy(), np.full_like(W, np.nan)
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        core_of(level, model, batch).gradients(dW, X[rows], T[rows], expected)
        expected -= rate * dW
        # a relu that is off for all rows has no gradient: of one row, half of them
        assert np.count_nonzero(dW) > (0.9 if len(rows) > 9 else 0.2) * len(dW)
    np.testing.assert_array_equal(v, -rate * dW)
    np.testing.assert_array_equal(W, expected)


@pytest.mark.parametrize("level", LEVELS)
@dtypes
@pytest.mark.parametrize("rule", [{}, {"max_norm": 0.5, "weight_decay": 0.01}], ids=str)
@pytest.mark.parametrize("hidden", [(256, 288, 301), ()], ids=str)
def test_layouts_for_any_number_of_threads(level, dtype, rule, hidden):
    """However many threads a core is laid out for, and however many there are: the same bits."""
    rng = np.random.default_rng(0)
    # so wide that threads share out the outputs, even or not; or with so few that W^T is updated
    model = MLP([280, *hidden, 5], dtype=dtype, seed=0)
    X, y = model.as_data(rng.normal(size=(70, 280)), rng.integers(0, 5, 70))
    order = rng.permutation(70)

    def fit(laid_out_for, n_threads):
        network = core_of(level, model, 30, "adam", n_threads=laid_out_for)
        state = [model.params.copy(), *np.full((2, model.n_parameters), 0.01, dtype)]
        network.load(*state)
        loss, penalty, *_ = network.epoch(
            X, y, order, 30, learning_rate=0.01, beta1=0.875, beta2=0.9375, epsilon=1e-8, l2=0.125,
            n_threads=n_threads, max_workers=8, any_size=True, **rule,
        )  # fmt: skip
        network.store(*state)
        dW = np.full_like(model.params, np.nan)
        network.gradients(dW, X[:30], y[:30], state[0], n_threads=n_threads, max_workers=8)
        return np.concatenate([*state, dW, np.array([loss, penalty], dtype)])

    expected = fit(1, 1)
    assert np.isfinite(expected).all()
    for laid_out_for, n_threads in [(2, 1), (2, 2), (3, 3), (4, 3), (5, 5), (6, 2), (8, 8)]:
        np.testing.assert_array_equal(fit(laid_out_for, n_threads), expected)


def rounding_and_growth(model, run, n_rows, n_steps):
    """What rounding may do to the results of run(params) -> (losses, params).

    A step rounds as often as its sums have terms. What becomes of an error in the parameters, the
    reference tells: all of them are changed by a relative 1e-9 up or down.
    """
    roundings = n_steps * (2 * sum(model.sizes) + n_rows + 10 * len(model.sizes))
    start, (losses, params) = model.params.astype(float), run(model.params)
    signs = np.random.default_rng(0).choice([-1e-9, 1e-9], len(start))
    moved_losses, moved = run(start + signs * np.maximum(np.abs(start), np.abs(start).mean()))
    growth = max(1, np.abs(moved - params).max() / 1e-9, np.abs(np.subtract(
        moved_losses, losses)).max() / 1e-9)  # fmt: skip
    return losses, params, roundings * roundoff("float64") * growth


def sgd(rule):
    def update(t, decay, W, v, _, dW):
        decay *= rule["weight_decay"]
        W, v = reference.sgd_update(W, v, dW, 0.05, rule["momentum"], rule["nesterov"], decay)
        return W, v, None

    return update


def adam(rule):
    def update(t, decay, W, m, v, dW):
        return reference.adam_update(
            W, m, v, dW, t, 0.01, 0.9, 0.999, rule["epsilon"], decay * rule["weight_decay"],
            rule["decoupled"],
        )  # fmt: skip

    return update


FITS = [
    *(pytest.param(SGD, 0.05, sgd(rule), rule, id=f"SGD {rule}") for rule in SGD_RULES),
    *(pytest.param(Adam, 0.01, adam(rule), rule, id=f"Adam {rule}") for rule in ADAM_RULES),
]


@both_engines
@pytest.mark.parametrize("trainer, rate, update, rule", FITS)
def test_fits_are_those_of_the_reference(engine, trainer, rate, update, rule, monkeypatch):
    """Losses of all epochs and the final parameters, with a short last batch."""
    monkeypatch.setattr(engines, "simd_level", lambda: engine)
    for seed in range(4):
        model, X, y, _, _ = step_problem("float64", seed)
        orders = reference.orders(len(X), epochs=3, seed=3)
        losses, params, tolerance = rounding_and_growth(
            model,
            lambda start, m=model, data=(X, y), o=orders: reference.descend(
                m, start, *data, o, 12, update
            ),
            12,
            15,
        )
        assert tolerance < 1e-8, "this fit tests nothing"
        history = trainer(
            model, learning_rate=rate, batch_size=12, seed=3,
            engine="blas" if engine == "blas" else "fused", **rule,
        ).fit(X, y, epochs=3)  # fmt: skip
        np.testing.assert_allclose(history.loss, losses, rtol=tolerance)
        assert_within(model.params, params, tolerance * (1 + np.abs(params)))
