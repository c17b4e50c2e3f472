"""Many threads at one model, one trainer, one estimator; and many fits at once."""

import itertools
import pickle
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from samples import digits

import fastmlp
from fastmlp import engines, modelfile
from fastmlp._core import OUTPUTS
from fastmlp.session import Session

ENGINES = ("fused", "blas")
ACTIVATIONS = ("relu", "tanh", "logistic", "gelu")
IN_A_FIT = "is in the middle of a fit"


def at_once(*calls):
    """Make all calls in threads that begin together; give their results, or raise."""
    barrier = threading.Barrier(len(calls))

    def call(function):
        barrier.wait(60)
        return function()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(call, calls))


@pytest.fixture
def stopped():
    """Give `start(fit, stop)`: run `fit` in a thread up to where it calls `stop`, and leave it."""
    reached, go_on, threads = threading.Event(), threading.Event(), []

    def stop(*_):
        reached.set()
        assert go_on.wait(60)

    def start(fit):
        threads.append(threading.Thread(target=fit))
        threads[-1].start()
        assert reached.wait(60)

    def end():
        go_on.set()
        for thread in threads:
            thread.join(60)

    start.stop, start.end = stop, end
    yield start
    end()


# ---- one model in many threads ------------------------------------------------------------------
@pytest.mark.parametrize("engine", ENGINES)
def test_many_threads_predict_with_one_model(engine):
    model = fastmlp.MLP([20, 40, 30, 5], activation="tanh")
    core = model.inference(engine=engine)
    rng = np.random.default_rng(0)
    batches = [rng.normal(size=(n, 20)).astype("f") for n in (1, 2, 7, 100, 2500)]
    expected = [core.infer(X, model.params, OUTPUTS).tobytes() for X in batches]

    def predict():
        return [
            core.infer(X, model.params, OUTPUTS).tobytes() for _ in range(10) for X in batches
        ] == expected * 10

    assert at_once(*[predict] * 8) == [True] * 8


def readers(model, X, y):
    """Everything that reads the parameters of a model, as functions that give bytes."""
    blocks = np.tile(X, (3, 1))
    return [
        lambda: model.forward(X[:1]).tobytes(),
        lambda: model.forward(X).tobytes(),
        lambda: model.forward(blocks).tobytes(),
        lambda: model.forward(blocks, n_threads=3).tobytes(),
        lambda: np.array(model.evaluate(X, y)).tobytes(),
        lambda: np.concatenate([d.ravel() for d in model.gradients(X, y)[1]]).tobytes(),
        lambda: model.input_gradients(X[:3]).tobytes(),
        lambda: model.copy().params.tobytes(),
        lambda: pickle.loads(pickle.dumps(model)).params.tobytes(),
        lambda: b"".join(tensor.tobytes() for tensor in modelfile.parts(model)[0].values()),
    ]


@pytest.mark.parametrize("engine", ENGINES)
def test_whoever_reads_sees_one_store_and_no_mixture(engine, long, monkeypatch):
    """A thread stores two sets of parameters in turn; whatever others compute is of one of them."""
    monkeypatch.setenv("FASTMLP_OVERSUBSCRIBE", "1")  # some of them in several threads
    model = fastmlp.MLP([50, 400, 10], activation="tanh")
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(600, 50)).astype("f"), rng.integers(0, 10, 600)
    reads, cores, expected = readers(model, X, y), [], []
    for seed in (1, 2):
        model.params[:] = np.random.default_rng(seed).normal(size=model.n_parameters)
        cores.append(model.core(engine=engine, max_rows=1, optimizer="sgd"))
        cores[-1].load(model.params)
        expected.append([read() for read in reads])
    over = threading.Event()

    def store():
        for core in itertools.cycle(cores):
            core.store(model.params)
            if over.wait(1e-5):
                return 0

    def count(i):
        try:
            answers = [reads[i]() for _ in range(1000 if long else 40)]
            return sum(answer not in (expected[0][i], expected[1][i]) for answer in answers)
        finally:
            running.discard(i)
            if not running:
                over.set()

    running = set(range(len(reads)))
    mixed = at_once(store, *(lambda i=i: count(i) for i in range(len(reads))))
    assert mixed == [0] * (1 + len(reads))


@pytest.mark.parametrize("engine", ENGINES)
def test_predictions_beside_a_fit_are_of_an_epoch(engine):
    X, y = digits()
    X = X.astype("f")
    model = fastmlp.MLP([64, 300, 10], activation="tanh")
    trainer = fastmlp.SGD(model, engine=engine, batch_size=50, n_threads=1)
    stored, fitting = [model.params.copy()], threading.Event()
    fitting.set()

    def fit():
        try:
            trainer.fit(X, y, epochs=25, callback=lambda _: stored.append(model.params.copy()))
        finally:
            fitting.clear()

    def predict():
        seen = set()
        while fitting.is_set():
            seen.add(model.forward(X).tobytes())
        return seen

    seen = set().union(*at_once(*[predict] * 3, fit)[:3])
    twin, possible = model.copy(), set()
    for params in stored:
        twin.params[:] = params
        possible.add(twin.forward(X).tobytes())
    assert len(seen) > 1 and seen <= possible


def test_params_written_by_hand_beside_predictions_crash_nothing():
    model = fastmlp.MLP([30, 200, 10])
    X, over = np.ones((2000, 30), "f"), threading.Event()

    def write():
        for value in itertools.cycle([np.nan, np.inf, 1.0, 1e30]):
            model.params[:] = value
            if over.is_set():
                return

    def predict():
        try:
            return all(set(model.predict(X)) <= set(range(10)) for _ in range(20))
        finally:
            over.set()

    assert at_once(write, predict)[1]


# ---- two fits of one model ----------------------------------------------------------------------
def test_a_second_fit_of_a_model_is_refused_in_another_thread(stopped):
    X, y = digits()
    model = fastmlp.MLP([64, 10])
    first, second = fastmlp.SGD(model, seed=0), fastmlp.Adam(model)
    thread = threading.Thread(target=first.fit, args=(X, y))
    stopped(lambda: first.fit(X, y, epochs=2, callback=stopped.stop))
    before = model.params.copy()
    with pytest.raises(RuntimeError, match=f"the model of this trainer {IN_A_FIT}"):
        second.fit(X, y)
    with pytest.raises(RuntimeError, match=f"this trainer {IN_A_FIT}"):
        first.fit(X, y)
    assert (model.params == before).all() and second.history.epochs == 0
    assert pickle.loads(pickle.dumps(first)).history.epochs == 1  # during a callback
    stopped.end()
    twin = fastmlp.MLP([64, 10])
    fastmlp.SGD(twin, seed=0).fit(X, y, epochs=2)
    assert (model.params == twin.params).all()
    second.fit(X, y, epochs=1)
    assert thread.ident is None


def test_a_callback_may_train_the_model_in_another_way():
    X, y = digits()
    model = fastmlp.MLP([64, 10])
    other = fastmlp.Adam(model)
    fastmlp.SGD(model).fit(X, y, epochs=2, callback=lambda _: other.fit(X, y, epochs=1) and None)
    assert other._session.epochs == 2


def test_a_trainer_in_the_middle_of_a_fit_is_not_pickled(stopped):
    X, y = digits()
    trainer = fastmlp.SGD(fastmlp.MLP([64, 10]), learning_rate=lambda _: stopped.stop() or 0.1)
    stopped(lambda: trainer.fit(X, y, epochs=1))
    with pytest.raises(RuntimeError, match=f"this trainer {IN_A_FIT}"):
        pickle.dumps(trainer)
    assert pickle.loads(pickle.dumps(trainer.model)).sizes == (64, 10)


def test_epochs_of_a_session_take_turns():
    """Two threads call for epochs of one session, and a third one stores."""
    X, y = digits(60)
    X = X.astype("f")
    model, order = fastmlp.MLP([64, 30, 10]), np.arange(60)
    session = Session(model, "sgd")

    def train():
        for _ in range(50):
            session.epoch(X, y, order, 20, learning_rate=0.0)

    def store():
        for _ in range(500):
            session.store()

    before = model.params.copy()
    at_once(train, train, store)
    session.store()
    assert (session.epochs, session.step) == (100, 300)
    assert (model.params == before).all()  # at rate 0


def test_a_store_does_not_wait_for_an_epoch_and_comes_after_it():
    X, y = digits(60)
    X, order = X.astype("f"), np.tile(np.arange(60), 5000)
    model = fastmlp.MLP([64, 100, 10])
    session = Session(model, "sgd", n_threads=1)
    before = model.params.copy()
    thread = threading.Thread(
        target=session.epoch, args=(X, y, order, 10), kwargs={"learning_rate": 0.01}
    )
    thread.start()
    while not session._turn.computes:
        assert thread.is_alive()
    session.store()
    assert thread.is_alive() and (model.params == before).all()
    thread.join()
    assert (model.params != before).any() and not session._newer


def test_a_store_waits_where_the_model_lacks_a_completed_epoch():
    X, y = digits(60)
    X, model = X.astype("f"), fastmlp.MLP([64, 100, 10])
    session, before = Session(model, "sgd", n_threads=1), model.params.copy()

    def epoch(order):
        session.epoch(X, y, order, 10, learning_rate=0.01)

    epoch(np.arange(60))
    thread = threading.Thread(target=epoch, args=(np.tile(np.arange(60), 5000),))
    thread.start()
    while not session._turn.computes:
        assert thread.is_alive()
    session.store()
    assert (model.params != before).any()
    thread.join()


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGALRM")
def test_an_epoch_in_the_signal_handler_of_an_epoch_is_refused():
    X, y = digits(60)
    X, order = X.astype("f"), np.arange(60)
    session = Session(fastmlp.MLP([64, 30, 10]), "sgd")

    def epoch():
        session.epoch(X, y, order, 1, learning_rate=0.01)

    def handler(*_):
        epoch()
        signal.setitimer(signal.ITIMER_REAL, 0.01)  # the signal came between two epochs: again

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(RuntimeError, match="in the middle of an epoch, of this very thread"):
            while True:
                epoch()
    finally:
        signal.signal(signal.SIGALRM, before)


# ---- many fits at once --------------------------------------------------------------------------
def small_fit(seed):
    """The bits of a fit that is another for every seed: engine, sizes, dtype, rule, threads."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 60, rng.integers(2, 5)).tolist()
    engine = ENGINES[seed % 2]
    model = fastmlp.MLP(
        sizes,
        activation=ACTIVATIONS[seed // 2 % 4],
        loss=("softmax_cross_entropy", "squared_error")[seed // 8 % 2],
        dtype=("float32", "float64")[seed // 16 % 2],
        seed=seed,
    )
    X = rng.normal(size=(40, sizes[0]))
    y = rng.integers(0, sizes[-1], 40) if model.classifies else rng.normal(size=(40, sizes[-1]))
    kind = (fastmlp.SGD, fastmlp.Adam)[seed // 32 % 2]
    trainer = kind(
        model,
        learning_rate=0.001,
        batch_size=int(rng.integers(1, 41)),
        dropout=0.25 * (seed % 3 == 0),
        seed=seed,
        engine=engine,
        n_threads=1 + seed // 2 % 4 if engine == "fused" else 1,
    )
    history = trainer.fit(X, y, epochs=2)
    return model.params.tobytes() + np.array(history.loss).tobytes() + model.forward(X).tobytes()


def test_fits_in_eight_threads_give_the_bits_of_fits_in_one(long, monkeypatch):
    seeds = range(8 * (200 if long else 16))
    expected = [small_fit(seed) for seed in seeds]
    monkeypatch.setenv("FASTMLP_OVERSUBSCRIBE", "1")  # as many threads as were asked for
    actual = at_once(*(lambda i=i: [small_fit(seed) for seed in seeds[i::8]] for i in range(8)))
    wrong = [seed for seed in seeds if actual[seed % 8][seed // 8] != expected[seed]]
    if long:
        print(f"\n8 threads x 200 fits at once: {len(wrong)} of {len(seeds)} with other bits")
    assert wrong == []


def test_blas_has_the_threads_it_had_when_the_last_that_held_it_ends():
    def now():
        return max(pool["num_threads"] for pool in engines._thread_pools().info())

    before = now()
    first, second = engines.blas_threads(1), engines.blas_threads(1)
    assert first.__enter__() == second.__enter__() == 1
    first.__exit__(None, None, None)
    assert now() == 1
    second.__exit__(None, None, None)
    assert now() == before


@pytest.mark.parametrize("n", range(4))
def test_ctrl_c_while_blas_gets_its_threads_back(n, monkeypatch):
    """None of its limits stays behind."""

    def now():
        return max(pool["num_threads"] for pool in engines._thread_pools().info())

    before, limit, calls = now(), engines._limit, []

    def interrupted():
        calls.append(0)
        if n % 2:
            limit()
        if len(calls) == 1 + n // 2:
            raise KeyboardInterrupt
        limit()

    monkeypatch.setattr(engines, "_limit", interrupted)
    with pytest.raises(KeyboardInterrupt), engines.blas_threads(1):
        pass
    assert now() == before and not engines._limits
