"""Ctrl-C: answered within 0.1 s or one step, with the model at a completed step."""

import itertools
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from signals import until_stopped

from fastmlp import MLP, SGD, MLPClassifier, MLPRegressor
from fastmlp.session import Session

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "bench"))
import shapes  # noqa: E402

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends signals")

PROMISED = 0.1  # seconds
SMALL = {"64-100-10 b32": "fused", "784-512-512-10 b256": "blas", "301-173-59-7 b100": "fused"}
LARGE = "1024-2048-2048-1000 b1024"  # the same with both engines would take an hour
TRAINED = [s for s in shapes.SHAPES.values() if s.task == "train" and s.optimizer == "sgd"]
CASES = [
    (shape.name, optimizer, engine)
    for shape, optimizer, engine in itertools.product(TRAINED, ("sgd", "adam"), ("fused", "blas"))
    if shape.name != LARGE or engine == "fused"
]


@pytest.mark.parametrize(("name", "optimizer", "engine"), CASES)
def test_on_every_benchmark_shape(name, optimizer, engine, long):
    """The delay is measured in CPU time of the thread that fits, and in a long run by the wall."""
    if not long and (SMALL.get(name) != engine or optimizer != "sgd"):
        pytest.skip("with --long")
    count = 50 if long else 5
    command = [sys.executable, HERE / "interrupts.py", name, optimizer, engine, "1", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    wall, cpu, same = (np.array(column) for column in zip(*found["interrupts"], strict=True))
    print(
        f"{name} {optimizer} {engine}: {len(same)} interrupts, {same.sum()} at a completed step of "
        f"{found['steps']}; delay at most {1000 * wall.max():.1f} ms "
        f"({1000 * cpu.max():.1f} of CPU), "
        f"a step takes {1000 * found['wall']:.2f} ({1000 * found['cpu']:.2f})"
    )
    assert len(same) == count and same.all() and found["steps"] > 0
    assert cpu.max() <= max(PROMISED, found["cpu"])
    if long:  # on a machine that does nothing else
        assert wall.max() <= max(PROMISED, found["wall"])


def columns(n, n_in, dtype="float32"):
    X = np.random.default_rng(0).normal(size=(n, n_in)).astype(dtype)
    return X, (X[:, 0] > 0).astype(int)


@pytest.mark.parametrize("engine", ["fused", "blas"])
def test_parameters_are_those_of_whole_steps(engine):
    """Without knowing how many: one by one, until the parameters are the same."""
    n, batch_size = 200_000, 50
    X, y = columns(n, 20)
    stopped, again = MLP([20, 30, 2]), MLP([20, 30, 2])
    options = {"batch_size": batch_size, "shuffle": False, "engine": engine, "n_threads": 1}
    interrupted = SGD(stopped, **options)
    interrupted.fit(X[:50], y[:50], epochs=1)  # what is loaded at first use is loaded now
    start = stopped.params.copy()
    until_stopped(interrupted.fit, X, y, epochs=1000)
    assert not np.array_equal(stopped.params, start)

    trainer = SGD(again, **options)
    trainer.fit(X[:50], y[:50], epochs=1)
    np.testing.assert_array_equal(again.params, start)
    for step in range(100 * n // batch_size):  # far more than there can have been
        first = step * batch_size % n
        trainer.fit(X[first : first + batch_size], y[first : first + batch_size], epochs=1)
        if np.array_equal(again.params, stopped.params):
            assert interrupted._session.step == trainer._session.step
            return
    pytest.fail("the parameters are those of no completed step")


def test_a_step_may_be_left_undone():
    """A step that takes longer than promised is not waited for to its end."""
    X, y = columns(8192, 256)
    model = MLP([256, 1024, 1024, 2])
    trainer = SGD(model, batch_size=8192, n_threads=1, learning_rate=1e-3)
    began = time.process_time()
    trainer.fit(X, y, epochs=1)
    step = time.process_time() - began
    before = model.params.copy()
    delay = until_stopped(trainer.fit, X, y, epochs=100, after=0.1 * step)
    assert delay <= max(PROMISED, step)
    assert trainer._session.step == 1
    np.testing.assert_array_equal(model.params, before)


@pytest.mark.parametrize("engine", ["fused", "blas"])
def test_infinite_parameters_are_not_kept(engine):
    """relu hides a bias of minus infinity from the loss until the epoch ends; Ctrl-C is sooner."""
    X, y = np.ones((100_000, 1)), np.zeros(100_000)
    model = MLP([1, 4, 1], loss="squared_error")
    model.weights[0][:] = model.biases[0][:] = 0
    trainer = SGD(model, batch_size=10, momentum=0.999, learning_rate=1e-9, engine=engine)
    trainer.fit(X[:10], y[:10], epochs=1)
    trainer._session.moments[0][4:8] = -1e38  # the fourth step overflows
    before = model.params.copy()
    long = np.tile(np.arange(100_000), 200)
    trainer._order = lambda n: long
    until_stopped(trainer.fit, X, y, epochs=1)
    np.testing.assert_array_equal(model.params, before)
    assert trainer._session.step == 1


def test_twice_in_a_row(monkeypatch):
    """The second one comes just as the parameters are about to be brought back."""
    X, y = columns(400_000, 20)
    model, twin = MLP([20, 30, 2]), MLP([20, 30, 2])
    trainer = SGD(model, batch_size=50, shuffle=False)
    store, calls = Session.store, []

    def interrupted_store(session):
        if session._newer:
            calls.append(session)
            if len(calls) == 1:
                raise KeyboardInterrupt
        store(session)

    monkeypatch.setattr(Session, "store", interrupted_store)
    until_stopped(trainer.fit, X, y, epochs=10_000, error=KeyboardInterrupt)
    monkeypatch.undo()
    assert len(calls) == 2
    other, n_steps = SGD(twin, batch_size=50, shuffle=False), trainer._session.step
    other.fit(X, y, epochs=n_steps // 8000)
    rest = n_steps % 8000 * 50
    if rest:
        other.fit(X[:rest], y[:rest], epochs=1)
    np.testing.assert_array_equal(model.params, twin.params)


def test_while_evaluating():
    """Validation is interrupted between rows; the model is at the end of an epoch."""
    X, y = columns(20_000, 64)
    model, twin = MLP([64, 1000, 1000, 2]), MLP([64, 1000, 1000, 2])
    trainer = SGD(model, batch_size=64, shuffle=False, n_threads=1)
    delay = until_stopped(trainer.fit, X[:64], y[:64], epochs=100, validation_data=(X, y))
    assert delay <= PROMISED
    SGD(twin, batch_size=64, shuffle=False).fit(X[:64], y[:64], epochs=trainer._session.step)
    np.testing.assert_array_equal(model.params, twin.params)
    assert trainer.history.epochs == trainer._session.epochs


@pytest.mark.parametrize("method", ["forward", "predict", "predict_proba"])
def test_while_predicting(method):
    """Other threads run meanwhile, and the model is good for more."""
    X, _ = columns(200_000, 64)
    model = MLP([64, 500, 500, 10])
    expected = getattr(model, method)(X[:10])
    ticks, over = [], threading.Event()

    def tick():
        while not over.wait(0.001):
            ticks.append(time.perf_counter())

    thread = threading.Thread(target=tick)
    thread.start()
    assert until_stopped(getattr(model, method), X, after=0.15) <= PROMISED
    over.set()
    thread.join()
    assert len(ticks) > 5
    np.testing.assert_array_equal(getattr(model, method)(X[:10]), expected)


def test_in_lbfgs():
    """The estimator is as it was, as scikit-learn's is after Ctrl-C in its lbfgs."""
    X, _ = columns(20_000, 100, "float64")
    estimator = MLPRegressor(solver="lbfgs", n_threads=1, random_state=0, max_iter=10**6, tol=0)
    before = dict(vars(estimator))
    delay = until_stopped(estimator.fit, X, X[:, 0], error=KeyboardInterrupt, after=0.3)
    assert delay <= PROMISED and vars(estimator) == before


def test_in_an_estimator():
    """It warns, as scikit-learn does, and keeps what whole steps have made."""
    X, y = columns(20_000, 20)
    settings = {"random_state": 0, "shuffle": False, "batch_size": 100, "n_threads": 1}
    stopped, again = (MLPClassifier(max_iter=10**6, tol=0, **settings) for _ in range(2))
    stopped.n_iter_no_change = np.inf

    def fit():
        with pytest.warns(UserWarning, match=r"^Training interrupted by user\.$"):
            stopped.fit(X, y)
        raise KeyboardInterrupt  # for `until_stopped` to see

    assert until_stopped(fit, error=KeyboardInterrupt, after=0.3) <= PROMISED
    steps = stopped._network.session.step
    again.partial_fit(X[:100], y[:100], classes=[0, 1])
    for step in range(1, steps):
        rows = slice(step % 200 * 100, step % 200 * 100 + 100)
        again.partial_fit(X[rows], y[rows])
    np.testing.assert_array_equal(stopped.coefs_[0], again.coefs_[0])


def test_in_a_callback():
    X, y = columns(1000, 20)
    model, twin = MLP([20, 30, 2]), MLP([20, 30, 2])

    def interrupt(history):
        if history.epochs == 2:
            raise KeyboardInterrupt

    trainer = SGD(model)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(X, y, callback=interrupt)
    other = SGD(twin)
    other.fit(X, y, epochs=2)
    np.testing.assert_array_equal(model.params, twin.params)
    for each in trainer, other:
        each.fit(X, y, epochs=1)
    np.testing.assert_array_equal(model.params, twin.params)
