"""Threads: fits side by side, forks, interrupts, and how many threads there may be."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import fastmlp
from fastmlp import engines

ACTIVATIONS = ["relu", "tanh", "logistic", "identity"]
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


def run(script, *arguments, timeout=100, **environment):
    """Run a script in a process of its own; give what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        env={**os.environ, **environment}, capture_output=True, text=True, check=False,
        timeout=timeout,
    )  # fmt: skip
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def small_fit(seed):
    """The parameters after a fit that is another for every seed, of one to three threads."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 40, rng.integers(2, 5)).tolist()
    loss = ["softmax_cross_entropy", "squared_error"][seed % 2]
    dtype = ["float32", "float64"][seed // 2 % 2]
    model = fastmlp.MLP(
        sizes, activation=ACTIVATIONS[seed // 4 % 4], loss=loss, dtype=dtype, seed=seed
    )
    X = rng.normal(size=(30, sizes[0]))
    y = rng.integers(0, sizes[-1], 30) if model.classifies else rng.normal(size=(30, sizes[-1]))
    trainer = [fastmlp.SGD, fastmlp.Adam][seed // 16 % 2](
        model, learning_rate=0.001, batch_size=int(rng.integers(1, 31)), seed=seed, engine="fused",
        n_threads=1 + seed % 3,
    )  # fmt: skip
    trainer.fit(X, y, epochs=2)
    return model.params


THOUSAND = """
    import os, sys
    from concurrent.futures import ThreadPoolExecutor
    sys.path.insert(0, sys.argv[1])
    from test_threads import small_fit

    expected = [small_fit(seed).tobytes() for seed in range(1000)]
    os.environ["FASTMLP_OVERSUBSCRIBE"] = "1"
    with ThreadPoolExecutor(8) as pool:
        actual = [params.tobytes() for params in pool.map(small_fit, range(1000))]
    print([seed for seed in range(1000) if actual[seed] != expected[seed]])
"""


def test_a_thousand_fits_in_eight_threads():
    """The bits are those of one fit after another, while workers go from one fit to the next."""
    assert run(THOUSAND, str(Path(__file__).parent), FASTMLP_OVERSUBSCRIBE="").strip() == "[]"


FORKS = """
    import os, random, signal, sys, threading, time
    import numpy as np
    import fastmlp

    X = np.random.default_rng(0).random((200, 10), "f")
    y = np.arange(200) % 3

    def fit(epochs, stop=lambda history: False):
        model = fastmlp.MLP([10, 20, 3])
        trainer = fastmlp.SGD(model, batch_size=20, engine="fused", n_threads=2)
        trainer.fit(X, y, epochs=epochs, callback=stop)
        return model.params.tobytes()

    expected, done = fit(2), threading.Event()
    other = threading.Thread(target=fit, args=(10**9, lambda history: done.is_set()))
    other.start()
    failed = []
    for i in range(200):
        time.sleep(random.Random(i).random() * 2e-3)
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # a child that hangs is killed
            os._exit(0 if fit(2) == expected else 1)
        status = os.waitpid(child, 0)[1]
        if status:
            failed.append((i, status))
            if len(failed) == 2:
                break
    done.set()
    other.join()
    print(failed)
"""


@linux
def test_forks_in_the_middle_of_another_fit():
    """The child has no workers and fits with new ones, to the same bits."""
    assert run(FORKS, FASTMLP_OVERSUBSCRIBE="1").strip() == "[]"


FORK_IN_CALLBACK = """
    import os, signal
    import numpy as np
    import fastmlp

    children = []
    def callback(history):
        if history.epochs == 2:
            children.append(os.fork())
            signal.alarm(20)

    X, y = np.random.default_rng(0).random((200, 10), "f"), np.arange(200) % 3
    model = fastmlp.MLP([10, 20, 3])
    trainer = fastmlp.SGD(model, batch_size=20, engine="fused", n_threads=3)
    trainer.fit(X, y, epochs=4, callback=callback)
    twin = fastmlp.MLP([10, 20, 3])
    fastmlp.SGD(twin, batch_size=20, engine="fused", n_threads=1).fit(X, y, epochs=4)
    same = model.params.tobytes() == twin.params.tobytes()
    if children[0] == 0:
        os._exit(0 if same else 1)
    print(same, os.waitpid(children[0], 0)[1])
"""


@linux
def test_a_fork_between_epochs_leaves_two_fits():
    assert run(FORK_IN_CALLBACK, FASTMLP_OVERSUBSCRIBE="1").strip() == "True 0"


INTERRUPTS = """
    import os, signal, threading, time
    import numpy as np
    import fastmlp

    # ignored in what a shell has put in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
    X, y = np.random.default_rng(0).random((5000, 64), "f"), np.arange(5000) % 10
    finite = []
    for i in range(5):
        model = fastmlp.MLP([64, 100, 10])
        trainer = fastmlp.SGD(
            model, learning_rate=0.001, batch_size=32, engine="fused", n_threads=2)
        started = threading.Event()
        def interrupt():
            started.wait()
            time.sleep(0.03 * i)
            os.kill(os.getpid(), signal.SIGINT)
        thread = threading.Thread(target=interrupt)
        thread.start()
        try:
            trainer.fit(X, y, epochs=10**9, callback=lambda history: started.set())
        except KeyboardInterrupt:
            before = model.params.copy()
            trainer.fit(X, y, epochs=1)
            finite.append(bool(np.isfinite(before).all() and np.any(model.params != before)))
        thread.join()
    print(finite)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_an_interrupted_fit_with_two_threads_can_go_on():
    assert run(INTERRUPTS, FASTMLP_OVERSUBSCRIBE="1").strip() == str([True] * 5)


@pytest.fixture
def limits(monkeypatch, tmp_path):
    """Pretend to be on a machine with so many CPUs and such a quota; no environment limits."""

    def pretend(n_cpus=64, quota="max 100000"):
        monkeypatch.setattr(engines, "_usable_cpus", lambda: n_cpus)
        monkeypatch.setattr(engines, "_usable_cores", lambda: n_cpus)
        (tmp_path / "cpu.max").write_text(quota)
        monkeypatch.setattr(engines, "Path", lambda path: tmp_path / Path(path).name)
        engines._cgroup_quota.cache_clear()

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("FASTMLP_OVERSUBSCRIBE", raising=False)
    yield pretend
    engines._cgroup_quota.cache_clear()


@pytest.mark.parametrize(
    "n_cpus, quota, omp, expected",
    [
        (64, "max 100000", None, 64),
        (64, "350000 100000", None, 4),
        (64, "50000 100000", None, 1),
        (2, "350000 100000", None, 2),
        (64, "max 100000", "3", 3),
        (64, "max 100000", "5,2", 5),
        (64, "max 100000", "nonsense", 64),
        (64, "max 100000", "0", 1),
        (64, "nonsense", None, 64),
    ],
)
def test_threads_are_no_more_than_the_machine_gives(
    n_cpus, quota, omp, expected, limits, monkeypatch
):
    limits(n_cpus, quota)
    if omp is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", omp)
    assert engines.usable_threads() == expected
    assert engines.fused_threads(None) == expected
    assert engines.fused_threads(1000) == expected
    assert engines.fused_threads(1) == 1


@linux
@pytest.mark.parametrize(
    "siblings, expected",
    [
        (["0,4", "1,5", "2,6", "3,7", "0,4", "1,5", "2,6", "3,7"], 4),
        (["0-1", "0-1", "2-3", "2-3"], 2),
        (["0-1", "0-1", "2", "3"], 3),  # two threads on some cores only
        (["0", "1"], 2),
        (["0,4", "1,5", None], 3),  # not told of one: all count
    ],
)
def test_by_itself_a_fit_takes_one_thread_a_core(siblings, expected, monkeypatch, tmp_path):
    for cpu, others in enumerate(siblings):
        if others is not None:
            (tmp_path / f"{cpu}").write_text(others + "\n")
    monkeypatch.setattr(engines, "SIBLINGS", f"{tmp_path}/{{}}")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(engines, "_usable_cpus", lambda: len(siblings))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(len(siblings))))
    engines._cores_of.cache_clear()
    try:
        assert engines._usable_cores() == expected
        assert engines.fused_threads(None) == min(expected, engines.usable_threads())
        assert engines.fused_threads(1000) == engines.usable_threads()
    finally:
        engines._cores_of.cache_clear()


@linux
def test_threads_are_no_more_than_the_affinity_mask_has(limits, monkeypatch):
    monkeypatch.undo()
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert engines.fused_threads(8) == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_layers_shared_out_by_columns_have_the_same_bits(activation, dtype, monkeypatch):
    monkeypatch.setenv("FASTMLP_OVERSUBSCRIBE", "1")
    X, y = np.random.default_rng(0).normal(size=(50, 300)), np.arange(50) % 10

    def train(n_threads):
        model = fastmlp.MLP([300, 1201, 700, 10], activation=activation, dtype=dtype, seed=0)
        trainer = fastmlp.SGD(model, batch_size=20, engine="fused", n_threads=n_threads)
        trainer.fit(X.astype(dtype), y, epochs=2)
        return model.params.tobytes()

    alone = train(1)
    for n_threads in (2, 3, 5):
        assert train(n_threads) == alone


@linux
@pytest.mark.parametrize("oversubscribe, expected", [("", 0), ("1", 3)])
def test_the_threads_that_a_fit_really_has(oversubscribe, expected):
    """Counted by the kernel: no worker where one CPU may be used, and all where it is lifted."""
    script = """
        import os
        import numpy as np
        import fastmlp
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        X, y = np.zeros((2000, 300), "f"), np.zeros(2000, int)
        model = fastmlp.MLP([300, 300, 10])
        count = lambda history=None: len(os.listdir("/proc/self/task"))
        before, during = count(), []
        fastmlp.SGD(model, batch_size=1000, engine="fused", n_threads=4).fit(
            X, y, epochs=1, callback=lambda history: during.append(count()))
        print(during[0] - before)
    """
    assert int(run(script, FASTMLP_OVERSUBSCRIBE=oversubscribe)) == expected


@linux
def test_fits_side_by_side_share_the_workers_of_the_process():
    """Four fits of three threads each: two workers in all, beside the callers."""
    script = """
        import os
        from concurrent.futures import ThreadPoolExecutor
        import numpy as np
        import fastmlp
        X, y = np.zeros((400, 64), "f"), np.zeros(400, int)
        count = lambda: len(os.listdir("/proc/self/task"))
        before, during = count(), []
        def fit(seed):
            trainer = fastmlp.SGD(fastmlp.MLP([64, 64, 10]), engine="fused", n_threads=3)
            trainer.fit(X, y, epochs=30, callback=lambda history: during.append(count()))
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(fit, range(4)))
        print(max(during) - before - 4)
    """
    assert int(run(script, FASTMLP_OVERSUBSCRIBE="1")) in (1, 2)


def fastmlp_command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "fastmlp", *arguments],
        env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip


@pytest.mark.parametrize("level", ["sse9", "AVX2", "neon", "avx2"])
def test_a_level_that_is_not_there_is_named_in_one_sentence(level):
    if level in engines.LEVELS and engines.fused_engine(level) is not None:
        pytest.skip(f"this CPU has {level}")
    done = fastmlp_command("train", "--data", "digits", "--epochs", "1", FASTMLP_SIMD=level)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and f"FASTMLP_SIMD is '{level}'" in done.stderr
    reason = "this CPU lacks" if level in engines.LEVELS else "expected one of avx512, avx2, neon"
    assert reason in done.stderr


def test_the_portable_level_learns_the_digits():
    done = fastmlp_command("train", "--data", "digits", "--json", FASTMLP_SIMD="portable")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["engine"] == "fused" and result["test_accuracy"] >= 0.97


SIGNAL_FORK = """
    import os, signal, sys
    import numpy as np
    import fastmlp
    X, y = np.random.default_rng(0).random((20_000, 64), "f"), np.zeros(20_000, int)
    children = []
    def fork(*_):
        signal.alarm(30)  # a child that hangs is killed, and its status says so
        child = os.fork()
        if child:
            children.append(child)
    signal.signal(signal.SIGUSR1, fork)
    new = lambda: fastmlp.SGD(fastmlp.MLP([64, 64, 10]), batch_size=64, n_threads=2)
    trainer = new()
    trainer.fit(X, y, epochs=1)
    import threading, time
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
    parent, stop = os.getpid(), time.monotonic() + 0.3
    trainer.fit(X, y, epochs=10_000, callback=lambda history: time.monotonic() > stop)
    again = new()
    again.fit(X, y, epochs=1 + trainer.history.epochs)
    same = again.model.params.tobytes() == trainer.model.params.tobytes()
    if os.getpid() != parent:
        os._exit(0 if same else 1)
    assert same
    print(*(os.waitpid(child, 0)[1] for child in children))
"""


@linux
def test_a_fork_in_a_signal_handler_in_the_middle_of_a_step():
    """The step has workers, which the child lacks; it does that step again, and goes on alone."""
    assert run(SIGNAL_FORK, FASTMLP_OVERSUBSCRIBE="1").split() == ["0"]


SIGNAL_FORK_IN_GRADIENTS = """
    import os, signal, threading, time
    import numpy as np
    import fastmlp
    from fastmlp.session import Session
    X, y = np.random.default_rng(0).random((200_000, 64), "f"), np.zeros(200_000, int)
    children = []
    def fork(*_):
        child = os.fork()
        if child:
            children.append(child)
        else:
            signal.alarm(60)
    signal.signal(signal.SIGUSR1, fork)
    session = Session(fastmlp.MLP([64, 256, 10]), "sgd", n_threads=2)
    expected = session.gradients(X, y)[1].tobytes()
    parent, end = os.getpid(), time.monotonic() + 60
    def send():
        for n in range(3):
            time.sleep(0.03)
            os.kill(parent, signal.SIGUSR1)
            while len(children) <= n:
                time.sleep(0.01)
    threading.Thread(target=send, daemon=True).start()
    same = True
    while os.getpid() == parent and len(children) < 3 and time.monotonic() < end:
        same &= session.gradients(X, y)[1].tobytes() == expected
    same &= session.gradients(X, y)[1].tobytes() == expected
    if os.getpid() != parent:
        os._exit(0 if same else 1)
    print(same, *(os.waitpid(child, 0)[1] for child in children))
"""


@linux
def test_a_fork_in_a_signal_handler_in_the_middle_of_gradients():
    done = run(SIGNAL_FORK_IN_GRADIENTS, FASTMLP_OVERSUBSCRIBE="1").split()
    assert done[0] == "True" and len(done) == 4 and set(done[1:]) == {"0"}
