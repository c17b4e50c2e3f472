"""Processes: forks at any moment, other ways to start them, and the end of one."""

import multiprocessing
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from samples import digits
from test_threads import run

import fastmlp

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
X = np.random.default_rng(0).normal(size=(120, 10))
Y = np.arange(120) % 3

FORKS = """
    import os, random, signal, sys, threading, time
    import numpy as np
    import fastmlp

    engine, n_forks = sys.argv[1], int(sys.argv[2])
    X = np.random.default_rng(0).random((200, 10), "f")
    y = np.arange(200) % 3
    n_threads = {"fused": 2, "blas": 1}[engine]
    model = fastmlp.MLP([10, 100, 3])
    trainer = fastmlp.SGD(model, batch_size=20, engine=engine, n_threads=n_threads)
    estimator = fastmlp.MLPClassifier(
        (100,), random_state=0, engine=engine, n_threads=n_threads, dtype="float32", batch_size=20)
    estimator.partial_fit(X, y, classes=[0, 1, 2])

    def fit(model):
        fastmlp.SGD(model, batch_size=20, engine=engine, n_threads=n_threads).fit(X, y, epochs=2)
        return model.params.tobytes()

    def train():
        trainer.fit(X, y, epochs=10**9, callback=lambda history: done.is_set())

    def train_more():
        while not done.is_set():
            estimator.partial_fit(X, y)

    def train_in_long_steps():  # which look for signals in their middle, and between two
        wide = fastmlp.SGD(
            fastmlp.MLP([10, 400, 400, 3]), batch_size=200, engine=engine, n_threads=n_threads)
        wide.fit(X, y, epochs=10**9, callback=lambda history: done.is_set())

    def child():
        # Nothing in it but this thread: what the others hold is free, and whole.
        if fit(fastmlp.MLP([10, 20, 3])) != expected:
            return 1
        if not np.array_equal(model.predict(X), model.copy().predict(X)):
            return 2
        twin = model.copy()
        if fit(model) != fit(twin):  # the other thread of the parent is in a fit of this one
            return 3
        trainer.fit(X, y, epochs=1)
        if not np.isfinite(estimator.predict_proba(X)).all():
            return 4
        estimator.partial_fit(X, y).fit(X, y)
        return 0 if np.array_equal(estimator.predict_proba(X), fitted) else 5

    def settings(estimator):
        return estimator.set_params(max_iter=2, tol=0)

    import warnings
    warnings.simplefilter("ignore")
    expected, done = fit(fastmlp.MLP([10, 20, 3])), threading.Event()
    settings(estimator)
    fitted = fastmlp.MLPClassifier(**estimator.get_params()).fit(X, y).predict_proba(X)
    others = [
        threading.Thread(target=work) for work in (train, train_more, train_in_long_steps)]
    for other in others:
        other.start()
    failed = []
    for i in range(n_forks):
        time.sleep(random.Random(i).random() * 2e-3)
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)  # a child that hangs is killed
            code = 100
            try:
                code = child()
            finally:
                os._exit(code)
        status = os.waitpid(pid, 0)[1]
        if status:
            failed.append((i, status))
            if len(failed) == 3:
                break
    done.set()
    for other in others:
        other.join()
    print(failed)
"""


@linux
@pytest.mark.parametrize("engine", ["fused", "blas"])
def test_forks_while_other_threads_are_in_fits(engine, long):
    """The child fits, predicts, and goes on with the very objects of the threads it lacks."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    n_forks = 500 if long else 10
    failed = run(
        FORKS, engine, str(n_forks), timeout=3000, FASTMLP_OVERSUBSCRIBE="1",
        PYTHONWARNINGS="ignore",
    ).strip()  # fmt: skip
    if long:
        print(f"\n{n_forks} forks during fits of the {engine} engine: hangs or failures {failed}")
    assert failed == "[]"


FORK_WITH_EVERYTHING_HELD = """
    import os, signal, threading
    import numpy as np
    import fastmlp
    from fastmlp import engines

    X, y = np.random.default_rng(0).random((200, 10)), np.arange(200) % 3
    model = fastmlp.MLP([10, 20, 3])
    trainer = fastmlp.SGD(model, n_threads=1, engine="blas")
    held, over = threading.Event(), threading.Event()
    before = engines.blas_threads(None).__enter__()

    def hold():
        turns = trainer._turn, model._turn, trainer._session._turn
        with engines.blas_threads(1):
            for turn in turns:
                turn.acquire()
            held.set()
            over.wait()
            for turn in turns:
                turn.release()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        trainer.fit(X, y, epochs=1)
        os._exit(0 if engines.blas_threads(None).__enter__() == before else 1)
    try:
        trainer.fit(X, y, epochs=1)
    except RuntimeError as error:
        refused = "in the middle of a fit" in str(error)
    status = os.waitpid(child, 0)[1]
    over.set()
    thread.join()
    print(refused, status)
"""


@linux
def test_what_a_thread_holds_is_free_in_a_child_that_lacks_it():
    assert run(FORK_WITH_EVERYTHING_HELD, PYTHONWARNINGS="ignore").strip() == "True 0"


LEFT_IN_MID_EPOCH = """
    import os, signal, threading
    import numpy as np
    import fastmlp

    X, y = np.random.default_rng(0).random((2000, 10)), np.arange(2000) % 3
    new = lambda: fastmlp.Adam(fastmlp.MLP([10, 200, 3]), shuffle=False, batch_size=20, n_threads=1)
    trainer, reached, over = new(), threading.Event(), threading.Event()

    def callback(history):
        if history.epochs == 3:
            reached.set()
        return over.is_set()

    thread = threading.Thread(target=lambda: trainer.fit(X, y, epochs=10**6, callback=callback))
    thread.start()
    reached.wait()
    status = 7 << 8
    while status == 7 << 8:  # the fork came between two epochs
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            session = trainer._session
            session.store()
            if session._core is not None:
                os._exit(7)
            again = new()
            again.fit(X, y, epochs=session.step // 100)
            same = (again.model.params == trainer.model.params).all()
            same &= (again._session.moments[1] == session.moments[1]).all()
            os._exit(0 if same and session.step >= 300 and session.step % 100 == 0 else 1)
        status = os.waitpid(child, 0)[1]
    over.set()
    thread.join()
    print(status)
"""


@linux
def test_steps_of_a_session_that_a_fork_has_left_behind():
    """They are counted up to the parameters it has left, which Adam goes by."""
    assert run(LEFT_IN_MID_EPOCH, PYTHONWARNINGS="ignore").strip() == "0"


HELD_BY_THE_FORK = """
    import os, signal, threading
    import numpy as np
    import fastmlp

    X, y = np.random.default_rng(0).random((200, 10)), np.arange(200) % 3
    model, answers = fastmlp.MLP([10, 20, 3]), []

    def second():
        try:
            fastmlp.SGD(model).fit(X, y)
        except RuntimeError:
            answers.append("refused")

    def callback(history):
        answers.append(os.fork())
        signal.alarm(60)
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()

    fastmlp.SGD(model).fit(X, y, epochs=1, callback=callback)
    fastmlp.SGD(model).fit(X, y, epochs=1)
    child, refused = answers
    if child == 0:
        os._exit(0 if refused == "refused" else 1)
    print(refused, os.waitpid(child, 0)[1])
"""


@linux
def test_a_fit_whose_callback_forks_is_still_one_in_the_child():
    assert run(HELD_BY_THE_FORK, PYTHONWARNINGS="ignore").strip() == "refused 0"


# ---- other ways to start a process --------------------------------------------------------------
def train_on(trainer):
    """Go on with a trainer that came from another process; give its model's bits and itself."""
    trainer.fit(X, Y, epochs=2)
    return trainer, trainer.model.forward(X).tobytes()


def fit_on(estimator):
    """Go on with an estimator that came from another process."""
    estimator.partial_fit(*digits())
    return estimator, estimator.predict_proba(digits()[0]).tobytes()


def trainers():
    return [
        kind(fastmlp.MLP([10, 20, 3], dtype=dtype), engine=engine, n_threads=2)
        for kind in (fastmlp.SGD, fastmlp.Adam)
        for dtype in ("float32", "float64")
        for engine in ("fused", "blas")
    ]


def sent(pool):
    """What comes back from a pool, and what the same does here: bits after one and two fits."""
    here, there = trainers(), trainers()
    for trainer in here + there:
        trainer.fit(X, Y, epochs=1)
    expected = [train_on(trainer)[1] for trainer in here]
    expected += [train_on(trainer)[1] for trainer in here]
    answers = list(pool.map(train_on, there))
    actual = [bits for _, bits in answers]
    actual += [train_on(trainer)[1] for trainer, _ in answers]
    return actual, expected


@linux
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_trainers_go_to_other_processes_and_come_back(method):
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        actual, expected = sent(pool)
    assert actual == expected


class Loky:
    """joblib's processes, as a pool."""

    def map(self, function, values):
        joblib = pytest.importorskip("joblib")
        return joblib.Parallel(n_jobs=2)(joblib.delayed(function)(value) for value in values)


def test_trainers_go_to_processes_of_joblib():
    actual, expected = sent(Loky())
    assert actual == expected


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_estimators_go_to_processes_of_joblib(solver):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    here, there = (
        fastmlp.MLPClassifier((20,), solver=solver, random_state=0).partial_fit(
            *digits(), classes=range(10)
        )
        for _ in range(2)
    )
    expected = [fit_on(here)[1], fit_on(here)[1]]
    [(back, first)] = Loky().map(fit_on, [there])
    assert [first, fit_on(back)[1]] == expected


@pytest.mark.parametrize("engine", ["fused", "blas"])
def test_the_interpreter_ends_while_a_daemon_thread_fits(engine):
    script = """
        import sys, threading
        import numpy as np
        import fastmlp
        X, y, begun = np.zeros((5000, 100), "f"), np.zeros(5000, int), threading.Event()
        def fit():
            trainer = fastmlp.SGD(fastmlp.MLP([100, 200, 10]), engine=sys.argv[1], n_threads=2)
            trainer.fit(X, y, epochs=10**9, callback=lambda _: begun.set())
        threading.Thread(target=fit, daemon=True).start()
        begun.wait()
        print("ends")
    """
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), engine],
            env={**os.environ, "FASTMLP_OVERSUBSCRIBE": "1"}, capture_output=True, text=True,
            check=False, timeout=100,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (0, "ends\n", "")
