"""Training that goes on: warm starts and `partial_fit`, with scikit-learn's arithmetic."""

import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn.neural_network as theirs
from samples import diabetes, digits
from scipy import sparse

from fastmlp import MLPClassifier, MLPRegressor
from fastmlp.estimators import steps

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("learning_rate", ["constant", "invscaling"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_warm_starts_are_one_long_fit(solver, learning_rate, early_stopping):
    X, y = digits()
    settings = {"solver": solver, "learning_rate": learning_rate, "random_state": 0}
    settings["shuffle"] = False  # every fit begins with the rows in their order
    # a rate so small that the last epoch is always the best: early stopping keeps that one
    settings |= {"early_stopping": early_stopping, "learning_rate_init": 1e-4, "scoring": "loss"}
    long = MLPClassifier(max_iter=6, **settings).fit(X, y)
    short = MLPClassifier(max_iter=2, warm_start=True, **settings)
    for _ in range(3):
        short.fit(X, y)
    assert short.loss_curve_ == long.loss_curve_
    assert short.t_ == long.t_
    assert short.n_iter_ == 2
    assert short.validation_scores_ == long.validation_scores_
    np.testing.assert_array_equal(short.coefs_[0], long.coefs_[0])


@pytest.mark.parametrize("power_t", [1e308, 400, 10**7, 10**400])
def test_a_learning_rate_that_falls_beyond_the_numbers_is_zero(power_t):
    X, y = digits(50)
    settings = {"solver": "sgd", "learning_rate": "invscaling", "power_t": power_t}
    model = MLPClassifier((3,), **settings, max_iter=3, momentum=0, shuffle=False).fit(X, y)
    assert model.loss_curve_[1] == model.loss_curve_[2] < model.loss_curve_[0]


def test_a_warm_start_goes_on_with_the_rows_held_out(tmp_path):
    """Rows that were held out are not trained on later, nor after a file in between."""
    X, y = digits()
    model = MLPClassifier(early_stopping=True, warm_start=True, max_iter=2, random_state=0)
    held = model.fit(X, y)._split[1]
    model.save(tmp_path / "m.safetensors")
    loaded = MLPClassifier.load(tmp_path / "m.safetensors")
    for other in (model, loaded, pickle.loads(pickle.dumps(loaded))):
        other.fit(X, y)
        np.testing.assert_array_equal(other._split[1], held)
    np.testing.assert_array_equal(loaded.coefs_[0], model.coefs_[0])
    assert not set(held) & set(model._split[0])
    model.fit(X[:100], y[:100])  # other data: other rows
    assert len(model._split[1]) == 10
    assert model.set_params(warm_start=False).fit(X, y)._split is None


def test_class_weights_count_in_the_score():
    X, y = digits()
    weight = {digit: 1.0 + digit for digit in range(10)}
    settings = {"early_stopping": True, "max_iter": 3, "random_state": 0}
    by_class = MLPClassifier(class_weight=weight, **settings).fit(X, y)
    by_row = MLPClassifier(**settings).fit(X, y, sample_weight=1.0 + y)
    np.testing.assert_allclose(by_class.validation_scores_, by_row.validation_scores_, rtol=1e-12)


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_partial_fits_are_one_long_fit(solver):
    X, y = digits()
    settings = {"solver": solver, "random_state": 0, "shuffle": False}
    long = MLPClassifier(max_iter=4, **settings).fit(X, y)
    short = MLPClassifier(**settings)
    for _ in range(4):
        short.partial_fit(X, y, classes=np.arange(10))
    assert short.loss_curve_ == long.loss_curve_
    assert short.n_iter_ == 1
    np.testing.assert_array_equal(short.predict_proba(X), long.predict_proba(X))


def test_partial_fit_with_a_stream_of_random_numbers_is_scikit_learns():
    X, y = digits()
    ours = MLPClassifier(random_state=np.random.RandomState(0), solver="sgd")
    their = theirs.MLPClassifier(random_state=np.random.RandomState(0), solver="sgd")
    for _ in range(3):
        for batch in (slice(0, 100), slice(100, 300)):
            ours.partial_fit(X[batch], y[batch], classes=np.arange(10))
            their.partial_fit(X[batch], y[batch], classes=np.arange(10))
    np.testing.assert_allclose(ours.loss_curve_, their.loss_curve_, rtol=1e-9)
    assert (ours.t_, ours.n_iter_) == (their.t_, their.n_iter_)


def test_the_random_stream_goes_on():
    X, y = digits()
    settings = {"solver": "sgd", "momentum": 0, "max_iter": 2, "warm_start": True}
    seeded = MLPClassifier(random_state=0, **settings)
    streamed = theirs.MLPClassifier(random_state=np.random.RandomState(0), **settings)
    for _ in range(3):
        seeded.fit(X, y)
        streamed.fit(X, y)
    np.testing.assert_allclose(seeded.loss_curve_, streamed.loss_curve_, rtol=1e-9)


@pytest.mark.parametrize("kind", [list, pd.DataFrame, sparse.csr_matrix, np.asfortranarray])
def test_partial_fit_takes_the_same_step_on_whatever_holds_the_rows(kind):
    X, y = digits(64)
    quick, checked = (MLPClassifier(random_state=0) for _ in range(2))
    for _ in range(3):
        quick.partial_fit(X, y, classes=np.arange(10))
        checked.partial_fit(kind(X), list(y), classes=list(range(10)))
    np.testing.assert_allclose(quick.loss_curve_, checked.loss_curve_, rtol=1e-12)


def test_partial_fit_takes_the_quick_way_only_where_nothing_needs_a_closer_look(monkeypatch):
    X, y = digits(64)
    model = MLPClassifier((20, 10), random_state=0).partial_fit(X, y, classes=np.arange(10))
    looks = []
    checked = steps.checked
    monkeypatch.setattr(steps, "checked", lambda *args: looks.append(checked(*args)))
    model.partial_fit(X, y).partial_fit(X, y, classes=np.arange(10))
    assert len(looks) == 0
    model.set_params(alpha=0.1).partial_fit(X, y)
    assert len(looks) == 1
    model.partial_fit(X, y).partial_fit(X, y)
    assert len(looks) == 1
    for _ in range(2):  # another array every time, of which nobody can say that it is the same
        model.set_params(hidden_layer_sizes=np.array([20, 10])).partial_fit(X, y).partial_fit(X, y)
    assert len(looks) == 3
    for bad_X, bad_y in [
        (np.where(X > 0.9, np.nan, X), y),
        (X[:, 1:], y),
        (X, y + 1),
        (X, y.astype(str)),
        (X, y[1:]),
    ]:
        before = model.predict_proba(X)
        with pytest.raises(ValueError):
            model.partial_fit(bad_X, bad_y)
        np.testing.assert_array_equal(model.predict_proba(X), before)


@pytest.mark.parametrize("y_kind", ["f8", "f4", "i8"])
@pytest.mark.parametrize("columns", [1, 2])
def test_partial_fit_of_a_regressor(columns, y_kind):
    X, y = diabetes()
    y = np.round(np.column_stack([10 * y, y])).astype(y_kind)[:, :columns]
    y = y[:, 0] if columns == 1 else y
    long = MLPRegressor(max_iter=3, random_state=0, shuffle=False).fit(X, y)
    short = MLPRegressor(random_state=0, shuffle=False)
    for _ in range(3):
        short.partial_fit(X, y)
    assert short.loss_curve_ == long.loss_curve_


def test_partial_fit_needs_a_solver_with_steps():
    for cls in (MLPClassifier, MLPRegressor):
        assert not hasattr(cls(solver="lbfgs"), "partial_fit")
        with pytest.raises(ValueError, match="does not support early_stopping=True"):
            cls(early_stopping=True).partial_fit([[1.0], [2.0]], [0, 1], **_classes(cls))


def _classes(cls):
    return {"classes": [0, 1]} if cls is MLPClassifier else {}
