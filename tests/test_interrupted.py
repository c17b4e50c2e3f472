"""Ctrl-C in the middle of an epoch: the checkpoint it leaves goes on from the very step."""

import pickle
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from test_checkpoint import TRAINERS, bits

import fastmlp
from fastmlp import MLP, SGD, atomic, persist

pytestmark = [
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no alarm clock"),
    # An interrupt between the opening of a file and the `with` that closes it.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
ROWS = np.random.default_rng(3)
X = ROWS.normal(size=(4000, 40)).astype(np.float32)
Y = ROWS.integers(3, size=4000)
WEIGHTS = ROWS.uniform(0.1, 2, size=4000)
WEIGHTS[:1000] = 0
EPOCHS = 2


@pytest.fixture
def alarm():
    """Return what has Ctrl-C happen after some seconds of wall time."""

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    # And again after a second: one that meets a destructor or a callback of the collector is lost.
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def fit(trainer, epochs, weighted=False, times=1, callback=None):
    """Fit to the rows above, taken several times over."""
    X_, Y_, weights = (np.concatenate([array] * times) for array in (X, Y, WEIGHTS))
    return trainer.fit(
        X_, Y_, epochs=epochs, sample_weight=weights if weighted else None,
        validation_data=(X[:500], Y[:500]), callback=callback,
    )  # fmt: skip


def start(name, engine="fused", dropout=0.0):
    kind, options = TRAINERS[name]
    model = MLP([40, 200, 100, 3], seed=1)
    options = {"learning_rate": 0.01, "engine": engine, "n_threads": 1, **options}
    return kind(model, batch_size=12, seed=5, dropout=dropout, **options)


@pytest.mark.parametrize("engine", ["fused", "blas"])
@pytest.mark.parametrize(
    ("name", "dropout", "weighted"),
    [("momentum", 0.3, False), ("nesterov", 0.0, True), ("adam", 0.3, True), ("adamw", 0.0, False)],
)
def test_goes_on_from_the_step(name, dropout, weighted, engine, alarm, tmp_path):
    seconds = fit(start(name, engine, dropout), 1, weighted).seconds[0]
    times = 1 + int(0.2 / seconds)  # the engine looks for Ctrl-C every 20 ms
    expected = start(name, engine, dropout)
    fit(expected, EPOCHS, weighted, times)

    path = tmp_path / "run.ckpt"
    trainer = start(name, engine, dropout)
    within = 0
    while left := EPOCHS - trainer.history.epochs:
        trainer.checkpoint(path)
        try:
            alarm(0.03)
            fit(trainer, left, weighted, times)
            alarm(0)
        except KeyboardInterrupt:
            alarm(0)
            if not path.exists():  # before the fit had begun
                continue
            held = persist.load(path, "checkpoint")[1]["trainer"]["interrupted"]
            within += held is not None and 0 < held["rows"] < times * len(X)
        trainer = type(trainer).resume(path)
    assert within >= 2
    assert bits(trainer) == bits(expected)


def test_interrupted_wherever_it_is(alarm, tmp_path):
    """Epochs so short that Ctrl-C meets the bookkeeping between them as well."""
    path = tmp_path / "run.ckpt"
    data = {"X": X[:30], "y": Y[:30], "validation_data": (X[:20], Y[:20])}
    trainer = start("adam", dropout=0.2)
    interrupts = 0
    while interrupts < 12:
        trainer.checkpoint(path, every=50)
        try:
            alarm(0.001 + 0.0131 * (interrupts % 7))
            trainer.fit(epochs=10**6, callback=lambda history: False, **data)
        except KeyboardInterrupt:
            alarm(0)
            interrupts += 1
        if path.exists():
            trainer = fastmlp.Adam.resume(path)
    expected = start("adam", dropout=0.2)
    trainer.fit(epochs=1, **data)
    expected.fit(epochs=trainer.history.epochs, callback=lambda history: False, **data)
    assert bits(trainer) == bits(expected)


def interrupted(alarm, path):
    """Write a checkpoint in the middle of an epoch; return its description."""
    held = None
    while held is None:
        trainer = start("momentum")
        trainer.checkpoint(path)
        with pytest.raises(KeyboardInterrupt):
            alarm(0.03)
            fit(trainer, 10_000)
        alarm(0)
        if path.exists():
            held = persist.load(path, "checkpoint")[1]["trainer"]["interrupted"]


def test_other_data(alarm, tmp_path):
    interrupted(alarm, tmp_path / "run")
    trainer = SGD.resume(tmp_path / "run")
    before = bits(trainer)
    with pytest.raises(ValueError, match=r"X has 3999 rows.*in an epoch over 4000"):
        trainer.fit(X[1:], Y[1:])
    assert bits(trainer) == before
    fit(trainer, 1)  # and it still goes on


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"rows": 4008}, "4008 of 4000 rows"),
        ({"rows": -12}, "rows is -12"),
        ({"rows": 24, "steps": 25}, "24 of 4000 rows in 25 steps"),
        ({"loss": "nan"}, "loss is 'nan'"),
        ({"loss": []}, "loss is"),
        ({"n_samples": 2**64}, "n_samples is"),
        ({"penalty": ...}, "it lacks 'penalty'"),
    ],
)
def test_positions_that_cannot_be(changes, what, alarm, tmp_path):
    path = tmp_path / "run"
    interrupted(alarm, path)
    tensors, description = persist.load(path, "checkpoint")
    held = description["trainer"]["interrupted"] | changes
    description["trainer"]["interrupted"] = {k: v for k, v in held.items() if v is not ...}
    persist.save(path, tensors, description)
    with pytest.raises(fastmlp.FileFormatError, match=what):
        SGD.resume(path)


def test_a_file_that_knows_of_no_interruption(tmp_path):
    trainer = start("momentum")
    trainer.checkpoint(tmp_path / "run")
    fit(trainer, 1)
    tensors, description = persist.load(tmp_path / "run", "checkpoint")
    assert description["trainer"].pop("interrupted") is None
    persist.save(tmp_path / "run", tensors, {**description, "version": 1})
    assert bits(SGD.resume(tmp_path / "run")) == bits(trainer)


def test_a_second_interrupt_keeps_the_file_whole(alarm, tmp_path, monkeypatch):
    path = tmp_path / "run"
    trainer = start("momentum")
    trainer.checkpoint(path)
    fit(trainer, 1)
    before = path.read_bytes()

    def interrupted_again(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic.os, "fsync", interrupted_again)
    with pytest.raises(KeyboardInterrupt):
        alarm(0.03)
        fit(trainer, 10_000)
    alarm(0)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


# ---- what an interrupt, or an error, leaves behind -----------------------------------------------
def raises(error):
    """Return a schedule that raises: after the order is drawn, before the first step."""

    def schedule(epoch):
        raise error

    return schedule


def stopped_in_mid_epoch(alarm, trainer):
    while not (position := trainer._session.position(trainer._session.epochs)) or not position.rows:
        with pytest.raises(KeyboardInterrupt):
            alarm(0.03)
            fit(trainer, 10_000)
        alarm(0)


@pytest.mark.parametrize("n", [1000, 4000])
def test_an_interrupt_before_the_first_step_of_the_next_fit(n, alarm, tmp_path):
    """Where the fit before it was interrupted has nothing to do with it."""
    trainer = start("momentum")
    trainer.checkpoint(tmp_path / "run")
    stopped_in_mid_epoch(alarm, trainer)
    trainer.learning_rate = raises(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(X[:n], Y[:n])
    again = SGD.resume(tmp_path / "run", learning_rate=0.01)
    trainer.learning_rate = 0.01
    for either in again, trainer:
        either.fit(X[:n], Y[:n], epochs=2)
    assert again.model.params.tobytes() == trainer.model.params.tobytes()
    assert again.history.epochs == 2


def test_a_resumed_fit_that_fails_before_a_step_is_still_to_go_on(alarm, tmp_path):
    interrupted(alarm, tmp_path / "run")
    expected, trainer = (SGD.resume(tmp_path / "run") for _ in range(2))
    trainer.learning_rate = raises(TypeError("no rate"))
    with pytest.raises(TypeError, match="no rate"):
        fit(trainer, 1)
    trainer.learning_rate = expected.learning_rate
    assert fit(trainer, 0).epochs == expected.history.epochs
    fit(trainer, 1)
    fit(expected, 1)
    assert bits(trainer) == bits(expected)


def test_an_epoch_of_which_only_the_end_is_left(tmp_path):
    """One that was interrupted in its validation, say: it is ended once, without a step."""
    expected, trainer = start("momentum"), start("momentum")
    trainer.checkpoint(tmp_path / "run")
    fit(expected, 3)
    evaluate = trainer.model.evaluate

    def interrupted_while_judging(*data, **how):
        raise KeyboardInterrupt

    trainer.model.evaluate = interrupted_while_judging
    with pytest.raises(KeyboardInterrupt):
        fit(trainer, 1)
    trainer.model.evaluate = evaluate
    again = SGD.resume(tmp_path / "run")
    assert again._interrupted.position.rows == len(X) and not again.history.epochs
    fit(again, 1)
    assert again._interrupted is None
    again._resumed = True  # for the same history, to compare
    fit(again, 2)
    assert bits(again) == bits(expected)


def test_interrupted_in_a_callback(tmp_path):
    """It is called again, so that what it has changed must not be in the file."""

    def callback(trainer, interrupted=False):
        def change(history):
            noise = np.random.default_rng(history.epochs).normal(size=trainer.model.n_parameters)
            trainer.model.write(trainer.model.params + 0.01 * noise)
            trainer.learning_rate *= 0.5
            trainer.batch_size += 7
            if interrupted and history.epochs == 2:
                raise KeyboardInterrupt

        return change

    expected, trainer = start("momentum"), start("momentum")
    fit(expected, 4, callback=callback(expected))
    trainer.checkpoint(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        fit(trainer, 4, callback=callback(trainer, interrupted=True))
    again = SGD.resume(tmp_path / "run")
    assert again.history.epochs == 1
    fit(again, 3, callback=callback(again))
    assert bits(again) == bits(expected) and again.batch_size == expected.batch_size


def test_another_batch_size_for_the_rest_of_an_epoch(alarm, tmp_path):
    """Its positions are no multiples of that size."""
    path = tmp_path / "run"
    interrupted(alarm, path)
    trainer = SGD.resume(path)
    trainer.batch_size = 35
    trainer.checkpoint(path)
    epoch = trainer._session.epoch

    def interrupted_again(*data, **options):
        epoch(*data, **options)
        raise KeyboardInterrupt

    trainer._session.epoch = interrupted_again
    with pytest.raises(KeyboardInterrupt):
        fit(trainer, 1)
    assert SGD.resume(path)._interrupted.position.rows == len(X)


def test_an_order_that_was_drawn_by_a_fit_that_failed(tmp_path):
    """It is the order of the next one, and of whoever goes on with that."""
    expected, trainer = start("momentum"), start("momentum")
    for either in expected, trainer:
        either.learning_rate = raises(MemoryError("none left"))
        with pytest.raises(MemoryError):
            fit(either, 1)
        either.learning_rate = 0.01
    fit(expected, 1)
    trainer.checkpoint(tmp_path / "run")
    epoch = trainer._session.epoch

    def interrupted_at_its_end(*data, **options):
        epoch(*data, **options)
        raise KeyboardInterrupt

    trainer._session.epoch = interrupted_at_its_end
    with pytest.raises(KeyboardInterrupt):
        fit(trainer, 1)
    again = SGD.resume(tmp_path / "run")
    assert not again.history.epochs
    fit(again, 1)
    assert bits(again) == bits(expected)


def test_a_handler_that_pickles_the_trainer_takes_nothing_from_it():
    expected, trainer = start("adam"), start("adam")
    copies = []
    before = signal.signal(
        signal.SIGALRM, lambda *_: copies.append(pickle.loads(pickle.dumps(trainer)))
    )
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.05)
        fit(trainer, 6)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    fit(expected, 6)
    assert copies and bits(trainer) == bits(expected)
    n_steps = trainer._session.step // 6
    for copy in copies:
        assert copy._session.step % n_steps == 0  # of a completed epoch
        again = start("adam")
        fit(again, copy._session.step // n_steps)
        assert again.model.params.tobytes() == copy.model.params.tobytes()


def all_are_free(turns):
    return all(turn.acquire(False) and turn.release() is None for turn in turns)


def test_no_turn_stays_taken(alarm):
    """Whatever Ctrl-C meets, this thread and others may train afterwards."""
    trainer = SGD(MLP([3, 2, 2]), n_threads=1)
    data = np.zeros((4, 3), np.float32), np.zeros(4, int)
    interrupts = 0
    for i in range(600):
        try:
            alarm(1e-5 + 4e-4 * (i * 0.618 % 1))
            for _ in range(20):
                trainer.fit(*data, epochs=1)
            alarm(0)
        except KeyboardInterrupt:
            alarm(0)
            interrupts += 1
        turns = trainer._turn, trainer.model._turn, trainer._session._turn
        with ThreadPoolExecutor(1) as another:
            assert another.submit(all_are_free, turns).result()
        assert not trainer._session._turn.computes
    assert interrupts > 100
    trainer.fit(*data, epochs=1)
