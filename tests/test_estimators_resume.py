"""Estimators with checkpoints: a fit that was killed ends in the bits of one that was not.

This file is also a program, which goes on with such a fit in a process of its own.
"""

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from samples import diabetes, digits
from sklearn.base import clone

import fastmlp
from fastmlp import FileFormatError, MLPClassifier, MLPRegressor, persist
from fastmlp.estimators import files, values

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SETTINGS = {"hidden_layer_sizes": (12, 5), "max_iter": 9, "random_state": 4, "batch_size": 32}
CASES = {
    "adam": (MLPClassifier, {}),
    "sgd": (MLPClassifier, {"solver": "sgd", "learning_rate": "invscaling", "batch_size": 50}),
    "adaptive": (
        MLPClassifier,
        {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.1, "n_iter_no_change": 1},
    ),
    "early": (MLPClassifier, {"early_stopping": True, "learning_rate_init": 0.01}),
    "warm": (MLPClassifier, {"early_stopping": True, "warm_start": True}),
    "ends": (MLPClassifier, {"early_stopping": True, "n_iter_no_change": 1, "tol": 1}),
    "plateau": (MLPClassifier, {"n_iter_no_change": 1, "tol": 10}),
    "dropout": (MLPRegressor, {"dropout": 0.2, "max_norm": 1.0, "weight_decay": 0.01}),
    "huber": (MLPRegressor, {"loss": "huber", "huber_delta": 0.3, "early_stopping": True}),
    "float32": (MLPRegressor, {"dtype": "float32", "engine": "blas", "n_threads": 1}),
    "weights": (MLPClassifier, {"class_weight": {0: 2.0}, "activation": ["tanh", "relu"]}),
    "numpy": (MLPClassifier, {"random_state": None}),
    "own": (MLPClassifier, {"random_state": "own", "early_stopping": True}),
}


def new(name):
    kind, settings = CASES[name]
    settings = {**SETTINGS, **settings}
    if settings["random_state"] == "own":
        settings["random_state"] = np.random.RandomState(3)
    np.random.seed(1)  # noqa: NPY002
    return kind(**settings)


def data(estimator):
    return digits(300) if isinstance(estimator, MLPClassifier) else diabetes()


def bits(estimator):
    """Return what has to be the same, as bytes, by name."""
    network = estimator._network
    network.settle()
    network.session.store()
    held = {"params": network.model.params, "step": network.session.step}
    held |= {f"moment {i}": moment for i, moment in enumerate(network.session.moments)}
    held |= {name: vars(estimator).get(name) for name in files.ATTRIBUTES if name != "_split"}
    held["stream"] = estimator._random_state.get_state()[1:3]
    return {name: repr(np.asarray(value, dtype=object).tolist()) for name, value in held.items()}


class Killed(BaseException):
    """What ends a fit here."""


@pytest.fixture
def killed(monkeypatch):
    """Return what fits an estimator with checkpoints until the n-th of them is written."""

    def until(n, estimator, path, every=1):
        save, written = files.save, 0

        def saved(*arguments):
            nonlocal written
            save(*arguments)
            written += 1
            if written == n:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(files, "save", saved)
            with pytest.raises(Killed):
                estimator.checkpoint(path, every=every).fit(*data(estimator))

    return until


@pytest.mark.parametrize("name", CASES)
def test_a_fit_goes_on_to_the_same_bits(name, killed, tmp_path):
    expected = new(name)
    ended = bits(expected.fit(*data(expected)))
    for n in 1, 2, min(5, expected.n_iter_), expected.n_iter_:
        killed(n, new(name), tmp_path / "run")
        actual = type(expected).resume(tmp_path / "run")
        assert actual.n_iter_ == n
        actual.fit(*data(actual))
        assert bits(actual) == ended, n
        assert actual.n_iter_ == expected.n_iter_
    # And ever on: the next fit is the same as well, warm or from the beginning.
    if name not in ("numpy", "own"):
        for estimator in actual, expected:
            estimator.fit(*data(estimator))
        assert bits(actual) == bits(expected)


@pytest.mark.parametrize("name", ["early", "dropout", "own", "numpy"])
def test_in_a_process_of_its_own(name, killed, tmp_path):
    expected = new(name)
    expected.fit(*data(expected))
    expected._network.settle()
    killed(2, new(name), tmp_path / "run", every=2)
    kind = type(expected).__name__
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, kind, tmp_path / "run", tmp_path / "done"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "done.npy"), expected._network.model.params)


def test_validation_data_of_the_user(killed, tmp_path):
    X, y = digits(300)
    options = {**SETTINGS, "early_stopping": True, "learning_rate_init": 0.01}
    held = {"X_val": X[200:], "y_val": y[200:]}
    expected = MLPClassifier(**options).fit(X[:200], y[:200], **held)
    trained = MLPClassifier(**options, progress=False).checkpoint(tmp_path / "run", every=4)
    trained.set_params(max_iter=4).fit(X[:200], y[:200], **held)
    resumed = MLPClassifier.resume(tmp_path / "run").set_params(max_iter=9)
    assert bits(resumed.fit(X[:200], y[:200], **held)) == bits(expected)


def test_how_often(tmp_path, monkeypatch):
    written = []
    save = files.save
    monkeypatch.setattr(files, "save", lambda *a: (written.append(a[0].n_iter_), save(*a)))
    X, y = digits(100)
    model = MLPClassifier(**SETTINGS).checkpoint(tmp_path / "run", every=4)
    model.fit(X, y)
    assert written == [4, 8, 9]
    clone(model).fit(X, y)  # a clone has no checkpoints
    model.checkpoint(None).fit(X, y)
    assert written == [4, 8, 9]


def test_a_file_of_a_run_is_an_estimator_too(killed, tmp_path):
    killed(3, new("adam"), tmp_path / "run")
    loaded = MLPClassifier.load(tmp_path / "run")
    assert loaded.n_iter_ == 3
    assert loaded.predict(digits(300)[0]).shape == (300,)
    loaded.fit(*digits(300))  # from the beginning
    assert loaded.n_iter_ == 9


def test_what_is_no_run(tmp_path):
    X, y = digits(100)
    model = MLPClassifier(**SETTINGS).fit(X, y)
    model.save(tmp_path / "m")
    with pytest.raises(FileFormatError, match="a fitted estimator but no run to go on with"):
        MLPClassifier.resume(tmp_path / "m")
    with pytest.raises(FileNotFoundError):
        MLPClassifier.resume(tmp_path / "gone")
    with pytest.raises(FileFormatError, match="checkpoint"):
        trainer = fastmlp.SGD(fastmlp.MLP([64, 10]))
        trainer.checkpoint(tmp_path / "t")
        trainer.fit(X, y, epochs=1)
        MLPClassifier.resume(tmp_path / "t")


def test_refused_before_anything_is_trained(tmp_path):
    X, y = digits(100)
    for settings, error, what in (
        ({"solver": "lbfgs"}, ValueError, "lbfgs has no state to keep"),
        ({"callbacks": print}, TypeError, "callbacks is <built-in function print>"),
    ):
        model = MLPClassifier(**SETTINGS | settings).checkpoint(tmp_path / "run")
        with pytest.raises(error, match=what):
            model.fit(X, y)
        assert not hasattr(model, "coefs_") and not list(tmp_path.iterdir())
    for path, every in ((tmp_path / "no" / "run", 1), (tmp_path, 1)):
        with pytest.raises(OSError, match="cannot write"):
            MLPClassifier().checkpoint(path, every=every)
    with pytest.raises(ValueError, match="every is 0"):
        MLPClassifier().checkpoint(tmp_path / "run", every=0)


def test_other_data(killed, tmp_path):
    X, y = digits(300)
    killed(2, new("early"), tmp_path / "run")
    resumed = MLPClassifier.resume(tmp_path / "run")
    with pytest.raises(ValueError, match="X has 299 rows, but the run to go on with has 300"):
        resumed.fit(X[1:], y[1:])
    with pytest.raises(ValueError, match="features"):
        resumed.fit(X[:, 1:], y)
    expected = new("early").fit(X, y)
    assert bits(resumed.fit(X, y)) == bits(expected)  # it is still where it was


@pytest.mark.parametrize("name", ["adam", "early"])
def test_a_resumed_fit_that_fails_is_as_it_was(name, killed, tmp_path):
    expected = new(name).fit(*data(new(name)))
    killed(2, new(name), tmp_path / "run")
    resumed = type(expected).resume(tmp_path / "run")

    def fails(estimator):
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        resumed.set_params(callbacks=fails).fit(*data(resumed))
    resumed.set_params(callbacks=None).fit(*data(resumed))
    assert bits(resumed) == bits(expected)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"early_stopping": False}, "early_stopping is False, but the run to go on with began"),
        ({"solver": "lbfgs"}, "not one of lbfgs"),
    ],
)
def test_what_a_run_goes_by_stays(changes, what, killed, tmp_path):
    killed(2, new("early"), tmp_path / "run")
    resumed = MLPClassifier.resume(tmp_path / "run").set_params(**changes)
    with pytest.raises(ValueError, match=what):
        resumed.fit(*data(resumed))


def test_rows_of_the_user_have_to_be_given_again(tmp_path):
    X, y = digits(300)
    model = MLPClassifier(**SETTINGS, early_stopping=True).checkpoint(tmp_path / "run")
    model.fit(X[:200], y[:200], X_val=X[200:], y_val=y[200:])
    with pytest.raises(ValueError, match="give X_val and y_val again"):
        MLPClassifier.resume(tmp_path / "run").fit(X[:200], y[:200])


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"n_samples": 299}, "its rows are not those of 299"),
        ({"n_samples": True}, "n_samples=True"),
        ({"over": 1}, "over=1"),
        ({"order": np.zeros(270, np.intp)}, "its rows are not those of 300"),
        ({"order": np.zeros(270)}, "its rows are not valid"),
        ({"held": None}, "its rows are not those of 300"),
        ({"best": None}, "best parameters"),
        ({"best": np.zeros(3)}, "its best parameters are not"),
        ({"more": 1}, "more"),
    ],
)
def test_runs_that_cannot_be(changes, what, killed, tmp_path):
    killed(2, new("early"), tmp_path / "run")
    tensors, description = persist.load(tmp_path / "run")
    held = values.Reader(dict(tensors).pop).read(description["run"]) | changes
    description["run"] = values.Writer(tensors).write(held, "run")
    persist.save(tmp_path / "run", tensors, description)
    with pytest.raises(FileFormatError, match=what):
        MLPClassifier.resume(tmp_path / "run")


if __name__ == "__main__":
    estimator = getattr(fastmlp, sys.argv[1]).resume(sys.argv[2])
    estimator.fit(*data(estimator))
    estimator._network.settle()
    np.save(sys.argv[3] + ".npy", estimator._network.model.params)
