"""One estimator in many threads: what is refused, and what is safe."""

import copy
import pickle
import threading

import numpy as np
import pytest
from samples import digits
from test_concurrency import IN_A_FIT, at_once, stopped

import fastmlp
from fastmlp import MLPClassifier

__all__ = ["stopped"]

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
REFUSED = f"this estimator {IN_A_FIT}"


def test_a_fit_is_not_disturbed_and_not_looked_into(stopped, tmp_path):
    X, y = digits()
    estimator = MLPClassifier((20,), max_iter=3, random_state=0, tol=0).fit(X, y > 4)
    estimator.set_params(early_stopping=True, scoring=lambda estimator, X, y: stopped.stop() or 0.5)
    stopped(lambda: estimator.fit(X, y))
    for forbidden in (
        lambda: estimator.fit(X, y),
        lambda: estimator.partial_fit(X, y),
        lambda: estimator.predict(X),
        lambda: estimator.predict_proba(X),
        lambda: estimator.input_gradients(X),
        lambda: estimator.coefs_,
        lambda: pickle.dumps(estimator),
        lambda: estimator.save(tmp_path / "e.safetensors"),
        lambda: estimator.to_mlp(),
    ):
        with pytest.raises(RuntimeError, match=REFUSED):
            forbidden()
    stopped.end()
    twin = MLPClassifier(
        (20,), max_iter=3, random_state=0, tol=0, early_stopping=True,
        scoring=lambda estimator, X, y: 0.5,
    ).fit(X, y)  # fmt: skip
    for actual, expected in zip(estimator.coefs_, twin.coefs_, strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_other_threads_may_look_during_a_callback():
    X, y = digits()
    seen = []

    def callback(estimator):
        here = estimator.predict(X)
        there, copied = at_once(lambda: estimator.predict(X), lambda: copy.deepcopy(estimator))
        seen.append((here == there).all() and (here == copied.predict(X)).all())

    MLPClassifier((20,), max_iter=3, callbacks=callback, random_state=0, tol=0).fit(X, y)
    assert seen == [True] * 3


@pytest.mark.parametrize("shown", [False, True])
def test_predictions_beside_partial_fit_are_of_a_completed_one(shown):
    """Their outputs are those of a twin after one of its steps, and training is not disturbed."""
    X, y = digits()
    X, n_steps = X.astype("f"), 60

    def new():
        estimator = MLPClassifier((200,), batch_size=100, random_state=0, dtype="float32")
        return estimator.partial_fit(X, y, classes=range(10))

    twin, possible = new(), set()
    possible.add(twin.predict_proba(X).tobytes())
    for _ in range(n_steps):
        possible.add(twin.partial_fit(X, y).predict_proba(X).tobytes())

    estimator, training = new(), threading.Event()
    training.set()

    def train():
        try:
            for i in range(n_steps):
                if shown and i == 5:
                    threading.Thread(target=lambda: estimator.coefs_).start()
                estimator.partial_fit(X, y)
        finally:
            training.clear()

    def predict():
        seen = set()
        while training.is_set():
            seen.add(estimator.predict_proba(X).tobytes())
        return seen

    seen = set().union(*at_once(predict, predict, train)[:2])
    assert len(seen) > 1 and seen <= possible
    np.testing.assert_array_equal(estimator.predict_proba(X), twin.predict_proba(X))


def test_a_second_partial_fit_is_refused_and_changes_nothing(stopped, monkeypatch):
    X, y = digits()
    estimator = MLPClassifier((20,), random_state=0).partial_fit(X, y, classes=range(10))
    epoch = fastmlp.session.Session.epoch
    monkeypatch.setattr(
        fastmlp.session.Session, "epoch", lambda *a, **k: stopped.stop() or epoch(*a, **k)
    )
    stopped(lambda: estimator.partial_fit(X, y))
    before = estimator.predict_proba(X)
    with pytest.raises(RuntimeError, match=REFUSED):
        estimator.partial_fit(X, y)
    with pytest.raises(RuntimeError, match=REFUSED):
        estimator.fit(X, y)
    np.testing.assert_array_equal(estimator.predict_proba(X), before)
    stopped.end()
    twin = (
        MLPClassifier((20,), random_state=0).partial_fit(X, y, classes=range(10)).partial_fit(X, y)
    )
    np.testing.assert_array_equal(estimator.predict_proba(X), twin.predict_proba(X))
