"""Rows of one call of `predict` in several threads: the same bits and errors, never too many."""

import os
import signal
import threading
import time
import warnings

import numpy as np
import pytest
from levels import DTYPES, LEVELS, capsule, same_bits
from test_threads import linux, run

import fastmlp
from fastmlp import engines, memory
from fastmlp._core import CLASSES, OUTPUTS, PROBABILITIES, Inference

WHAT = [OUTPUTS, CLASSES, PROBABILITIES]


def inference(level, model, any_size=True):
    return Inference(
        capsule(level), model.sizes, model.activations, model.loss_name, model.dtype,
        any_size=any_size,
    )  # fmt: skip


@pytest.fixture
def many_threads(monkeypatch):
    """As many threads as are asked for, however small the work."""
    monkeypatch.setenv("FASTMLP_OVERSUBSCRIBE", "1")


def rows(n, n_in, dtype="float32"):
    return np.random.default_rng(n).normal(size=(n, n_in)).astype(dtype)


# ---- results ------------------------------------------------------------------------------------
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("level", LEVELS)
def test_the_bits_do_not_depend_on_threads(level, dtype, activation):
    model = fastmlp.MLP([37, 50, 13, 5], activation=activation, dtype=dtype, seed=1)
    network = inference(level, model)
    for n in (1, 2, 3, 5, 16, 17, 31, 100, 127, 129, 500, 1025, 2500, 5000):
        X = rows(n, 37, dtype)
        for what in WHAT:
            alone = network.infer(X, model.params, what)
            for n_threads in (2, 3, 8):
                together = network.infer(X, model.params, what, lambda _, n=n_threads: n)
                assert together.dtype == alone.dtype and together.shape == alone.shape
                assert together.tobytes() == alone.tobytes(), (n, what, n_threads)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("level", LEVELS)
def test_the_outputs_of_layers_are_shared_out(level, dtype, activation):
    """Those of few rows: more blocks of 32 than threads, as many, fewer, the last not whole."""
    sizes = [21, 300, 64, 7, 97, 33]
    model = fastmlp.MLP(sizes, activation=activation, dtype=dtype, seed=1)
    network = inference(level, model)
    for n in (1, 2, 7, 16, 31):
        X = rows(n, 21, dtype)
        alone = network.infer(X, model.params, PROBABILITIES).tobytes()
        for n_threads in (2, 3, 5, 40):
            for _ in range(5):  # whoever comes first
                together = network.infer(X, model.params, PROBABILITIES, lambda _, k=n_threads: k)
                assert together.tobytes() == alone, (n, n_threads)


@pytest.mark.parametrize(
    "sizes",
    [  # inputs as many as a block has, too, whose rows lie as if they were one
        *[(1024, 256, 600, 512, 31), (301, 173, 59, 7, 70), (13, 37, 3), (600, 17)],
        *[(16, 40, 3), (32, 40, 3)],
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("level", LEVELS)
def test_many_rows_have_the_bits_of_each_alone(level, dtype, sizes):
    """Some instruction sets copy weights and inputs first: stretches, panels, what is left."""
    model = fastmlp.MLP(sizes, dtype=dtype, seed=2)
    model.params[:] = np.random.default_rng(3).standard_normal(model.params.size)  # biases, too
    network, X = inference(level, model), rows(113, sizes[0], dtype)
    one_by_one = [network.infer(X[i : i + 1], model.params, OUTPUTS) for i in range(len(X))]
    for n in (31, 32, 37, 113):
        outputs = network.infer(X[:n], model.params, OUTPUTS)
        assert outputs.tobytes() == np.vstack(one_by_one[:n]).tobytes(), n


def test_threads_reach_what_users_call(many_threads):
    model = fastmlp.MLP([20, 30, 4], seed=0)
    X, y = rows(700, 20), np.arange(700) % 4
    for call in (model.forward, model.predict, model.predict_proba):
        alone = call(X, n_threads=1).tobytes()
        assert [call(X, n_threads=n).tobytes() for n in (2, 5, None)] == [alone] * 3
    assert model.evaluate(X, y, n_threads=3) == model.evaluate(X, y, n_threads=1)
    assert model.loss(X, y, n_threads=3) == model.loss(X, y, n_threads=1)
    fitted = fastmlp.MLP([20, 1], loss="binary_cross_entropy", seed=0)
    alone = fitted.predict_proba(X, n_threads=1).tobytes()
    assert fitted.predict_proba(X, n_threads=4).tobytes() == alone


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("level", [*LEVELS, "blas"])
def test_probabilities_are_the_softmax_of_the_outputs(level, dtype):
    """Any number of classes and rows; and a row has the bits that it has among others."""
    u, tiny = np.finfo(dtype).eps / 2, np.finfo(dtype).smallest_subnormal
    for O in (*range(1, 41), 64, 100, 333):
        model = fastmlp.MLP([4, O], dtype=dtype, seed=O)
        model.params *= [1, 20, 400][O % 3]  # from flat to sure
        network, X = inference(level, model), rows(40, 4, dtype)
        for n in (1, 2, 7, 8, 9, 15, 16, 17, 40):
            Z = network.infer(X[:n], model.params, OUTPUTS).astype(np.longdouble)
            P = network.infer(X[:n], model.params, PROBABILITIES)
            below = Z.max(axis=1, keepdims=True) - Z
            expected = np.exp(-below)
            expected /= expected.sum(axis=1, keepdims=True)
            # a rounding of the difference, 2 ulp of exp for each of the sum, the sum, the quotient
            bound = (below + 4 + 4 + O + 1) * u * expected + tiny
            assert (np.abs(P - expected) <= bound).all(), (O, n)
            if level != "blas":
                reference = inference(LEVELS[0], model).infer(X, model.params, PROBABILITIES)
                assert same_bits(P, reference[:n]), (O, n)


@pytest.mark.parametrize("level", [*LEVELS, "blas"])
def test_probabilities_of_what_has_overflowed(level):
    """An infinite logit, or one that is no number, leaves no probabilities; huge ones do."""
    for O in (3, 16, 20):
        model = fastmlp.MLP([1, O])
        for logit, expected in ((np.inf, np.nan), (np.nan, np.nan), (3e38, 1), (-3e38, 0)):
            model.params[:] = 0
            model.biases[0][O - 1] = logit
            for n in (1, 20):
                P = inference(level, model).infer(np.ones((n, 1), "f"), model.params, PROBABILITIES)
                np.testing.assert_array_equal(P[:, O - 1], np.full(n, expected, "f"))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("row", [0, 399, 400, 799])
def test_what_is_not_finite_is_found_in_every_part(bad, row, many_threads):
    model = fastmlp.MLP([6, 8, 3], seed=0)
    X = rows(800, 6)
    X[row, 5] = bad
    for n_threads in (1, 2, 7):
        with pytest.raises(ValueError, match=rf"X\[{row}, 5\] is"):
            model.predict(X, n_threads=n_threads)


@pytest.mark.parametrize(
    ("n_threads", "error"), [(0, ValueError), (-2, ValueError), (1.5, TypeError)]
)
def test_n_threads_is_checked(n_threads, error):
    with pytest.raises(error, match="n_threads is"):
        fastmlp.MLP([2, 2]).predict([[1, 2]], n_threads=n_threads)


# ---- how many -----------------------------------------------------------------------------------
class Threads:
    """Two, and notes whether the work was little whenever it is asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, is_short):
        self.asked.append(is_short)
        return 2


def test_threads_are_asked_for_only_where_they_gain():
    for sizes, n, expected in (
        ([64, 100, 10], 1, []),
        ([64, 100, 10], 40, []),
        ([64, 100, 10], 500, [True]),
        ([64, 100, 10], 5000, [False]),
        ([784, 256, 128, 10], 1, [True]),  # the outputs are what is shared out
        ([1000, 1000, 1000], 2, [True]),
        ([1000, 1000, 1000], 15, [False]),
    ):
        model, threads = fastmlp.MLP(sizes), Threads()
        network = inference(LEVELS[0], model, any_size=False)
        network.infer(rows(n, sizes[0]), model.params, OUTPUTS, threads)
        assert threads.asked == expected, (sizes, n)


def test_what_short_predictions_know_of_threads_is_soon_forgotten(monkeypatch):
    found = 3
    monkeypatch.setattr(engines, "fused_threads", lambda n=None: found if n is None else -n)
    monkeypatch.setattr(engines, "_recent", (-np.inf, 1))
    assert engines.threads_to_infer(True) == 3
    found = 5
    assert engines.threads_to_infer(True) == 3
    assert engines.threads_to_infer(True, n_threads=2) == 2
    assert engines.threads_to_infer(True, n_threads=9) == 3
    assert engines.threads_to_infer(False) == 5
    assert engines.threads_to_infer(False, n_threads=9) == -9  # which fused_threads was asked for
    asked, _ = engines._recent
    monkeypatch.setattr(engines, "_recent", (asked - 0.2, 3))
    assert engines.threads_to_infer(True) == 5


def test_blas_is_left_to_its_own_threads():
    model, threads = fastmlp.MLP([1000, 1000, 10]), Threads()
    inference("blas", model).infer(rows(100, 1000), model.params, OUTPUTS, threads)
    assert threads.asked == []


@linux
def test_workers_are_no_more_than_asked_for(many_threads):
    script = """
        import os
        import numpy as np
        import fastmlp

        X = np.random.default_rng(0).random((3000, 30), "f")
        model = fastmlp.MLP([30, 50, 3])
        model.predict(X, n_threads=1)
        before = len(os.listdir("/proc/self/task"))
        for _ in range(100):
            model.predict(X, n_threads=4)
        print(len(os.listdir("/proc/self/task")) - before)
    """
    assert 1 <= int(run(script)) <= 3


def test_estimators_and_trainers_predict_with_their_threads(monkeypatch):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    asked = []
    monkeypatch.setattr(engines, "fused_threads", lambda n=None: asked.append(n) or 1)
    X, y = rows(6000, 30), np.arange(6000) % 3
    estimator = fastmlp.MLPClassifier((100,), max_iter=1, tol=0, n_threads=3, dtype="float32")
    with pytest.warns(Warning, match="did not converge|Maximum iterations"):
        estimator.fit(X, y)
    asked.clear()
    estimator.predict(X)
    assert asked == [3]
    trainer = fastmlp.SGD(fastmlp.MLP([30, 100, 3]), n_threads=3)
    trainer.fit(X[:10], y[:10], epochs=1, validation_data=(X, y))
    assert 3 in asked and None not in asked


def test_room_that_there_is_not_is_refused(monkeypatch):
    """Before any of it is taken: Linux would promise it, and end the process later."""
    model = fastmlp.MLP([1, 600_000, 1], loss="squared_error")
    monkeypatch.setattr(memory, "installed", lambda: 2**30)
    assert model.predict(rows(2, 1)).shape == (2,)
    with pytest.raises(MemoryError, match="working space of the network takes"):
        model.predict(rows(512, 1), n_threads=1)


@linux
@pytest.mark.parametrize("n_threads", [1, 2])
def test_working_space_is_kept_for_the_next_call(n_threads, many_threads):
    """Clearing new pages for it took a third of the time of such calls."""
    import resource

    model = fastmlp.MLP([10, 800, 100, 800, 2], dtype="float64")
    X = rows(256, 10, "float64")  # 3 MB for what the layers compute
    for _ in range(2):
        model.predict(X, n_threads=n_threads)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        model.predict(X, n_threads=n_threads)
    # else every call takes hundreds, those that large pages leave over
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 200


def test_working_space_of_another_size():
    """What is kept may be too small for the next, or larger than it needs."""
    small, large = fastmlp.MLP([5, 4, 3], seed=1), fastmlp.MLP([5, 900, 3], seed=2)
    X = rows(300, 5)
    expected = [model.forward(X[:n]).tobytes() for model in (small, large) for n in (300, 2)]
    for _ in range(3):
        found = [model.forward(X[:n]).tobytes() for model in (small, large) for n in (300, 2)]
        assert found == expected


# ---- beside other things ------------------------------------------------------------------------
INTERRUPT = """
    import os, signal, threading, time
    import numpy as np
    import fastmlp

    X = np.zeros((40_000, 500), "f")
    model = fastmlp.MLP([500, 1000, 1000, 10])
    start = time.perf_counter()
    expected = model.predict(X, n_threads=3).tobytes()
    whole = time.perf_counter() - start
    threading.Timer(whole / 10, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    start = time.perf_counter()
    try:
        model.predict(X, n_threads=3)
    except KeyboardInterrupt:
        early = time.perf_counter() - start < 0.75 * whole
        print(early, model.predict(X, n_threads=3).tobytes() == expected)
"""


@linux
def test_an_interrupt_ends_a_prediction_in_many_threads():
    assert run(INTERRUPT, FASTMLP_OVERSUBSCRIBE="1").strip() == "True True"


FORK_IN_HANDLER = """
    import os, signal, time
    import numpy as np
    import fastmlp

    children, forked_at = [], []
    def handler(*_):
        if not children:
            children.append(os.fork())
            forked_at.append(time.perf_counter())
            signal.alarm(20 if children[0] == 0 else 0)

    X = np.random.default_rng(0).random((200_000, 50), "f")
    model = fastmlp.MLP([50, 400, 400, 3])
    expected = model.forward(X, n_threads=1).tobytes()
    start = time.perf_counter()
    model.forward(X, n_threads=3)
    whole = time.perf_counter() - start
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, whole / 5)
    Z = model.forward(X, n_threads=3)
    in_the_middle = time.perf_counter() - forked_at[0] > whole / 10
    same = Z.tobytes() == expected
    if children[0] == 0:
        os._exit(0 if same and in_the_middle else 1)
    print(same, in_the_middle, os.waitpid(children[0], 0)[1])
"""


@linux
def test_a_fork_in_the_middle_of_a_prediction_leaves_two():
    """The child goes on with workers of its own."""
    assert run(FORK_IN_HANDLER, FASTMLP_OVERSUBSCRIBE="1").strip() == "True True 0"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_signals_go_to_the_caller(many_threads):
    """A handler runs while other threads have parts of the work, and the work is done."""
    model, seen = fastmlp.MLP([100, 300, 10]), []
    X = rows(20_000, 100)
    expected = model.predict(X, n_threads=1).tobytes()
    before = signal.signal(signal.SIGUSR1, lambda *_: seen.append(threading.get_ident()))
    try:
        timer = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        deadline = time.monotonic() + 60
        while not seen and time.monotonic() < deadline:
            assert model.predict(X, n_threads=4).tobytes() == expected
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [threading.main_thread().ident]


def test_predict_takes_what_fit_has_taken():
    """True is an integer to scikit-learn; and what is no number of threads only `fit` refuses."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    X, y = rows(40, 3), np.arange(40) % 2
    estimator = fastmlp.MLPClassifier((3,), max_iter=5, n_threads=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # five epochs are few
        estimator.fit(X, y)
    expected = estimator.predict_proba(X)
    for n_threads in (0, "two", np.int64(2)):
        estimator.set_params(n_threads=n_threads)
        assert np.array_equal(estimator.predict_proba(X), expected)
