"""Checkpoints: a run that was interrupted, or killed, ends in the bits of one that was not.

This file is also a program, for the tests that need a process of their own.
"""

import copy
import gc
import inspect
import itertools
import os
import pickle
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import fastmlp
from fastmlp import MLP, SGD, Adam, checkpoint, persist

KILLED_EPOCHS = 400  # of the run that is killed: enough to be killed in
ROWS = np.random.default_rng(3)
X = ROWS.normal(size=(50, 5))
Y = ROWS.integers(3, size=50)
WEIGHTS = ROWS.uniform(0.1, 2, size=50)

TRAINERS = {
    "momentum": (SGD, {}),
    "nesterov": (SGD, {"nesterov": True, "max_norm": 0.5, "momentum": 0.8}),
    "adam": (Adam, {"learning_rate": 0.01}),
    "adamw": (Adam, {"decoupled": True, "weight_decay": 0.01, "beta_1": 0.8, "epsilon": 1e-7}),
}
VARIANTS = list(itertools.product([0.0, 0.3], [True, False], [False, True], [False, True]))
GROUPS = list(itertools.product(TRAINERS, ["float32", "float64"], ["fused", "blas"]))
SCHEDULE = fastmlp.schedules.cosine(0.05, epochs=7)


def start(trainer, dtype, engine, dropout, shuffle, scheduled):
    """Return a new trainer of a case."""
    kind, options = TRAINERS[trainer]
    options = {"batch_size": 12, "seed": 5, "engine": engine, **options}
    if scheduled:
        options["learning_rate"] = SCHEDULE
    model = MLP([5, 7, 4, 3], dtype=dtype, seed=1)
    return kind(model, dropout=dropout, shuffle=shuffle, **options)


def fit(trainer, epochs, weighted=False, **options):
    return trainer.fit(X, Y, epochs=epochs, sample_weight=WEIGHTS if weighted else None, **options)


def bits(trainer):
    """Return what has to be the same, as bytes, by name."""
    session = trainer._session
    held = {"params": trainer.model.params, "step": session.step, "epochs": session.epochs}
    held |= {f"moment {i}": moment for i, moment in enumerate(session.moments)}
    held |= {name: entries for name, entries in vars(trainer.history).items() if name != "seconds"}
    held["generator"] = str(trainer._rng.bit_generator.state)
    return {name: np.asarray(value).tobytes() for name, value in held.items()}


def name_of(group, variant):
    return "_".join(map(str, (*group, *variant)))


def resume_all(folder):
    """Resume every case in `folder` and finish it, as the program that this file is."""
    for group, variant in itertools.product(GROUPS, VARIANTS):
        path = Path(folder, name_of(group, variant))
        scheduled, weighted = variant[2:]
        kind = TRAINERS[group[0]][0]
        trainer = kind.resume(path, learning_rate=SCHEDULE if scheduled else None)
        trainer.checkpoint(path)
        fit(trainer, 7 - trainer.history.epochs, weighted, validation_data=(X, Y))


def run_to_be_killed(path):
    """Begin a run, or go on with it, writing after every epoch; then say so."""
    if os.path.exists(path):
        trainer = SGD.resume(path)
    else:
        trainer = killed_run()
    trainer.checkpoint(path)
    print("ready", flush=True)
    fit(trainer, KILLED_EPOCHS - trainer.history.epochs)
    print("done", flush=True)


def killed_run():
    return start("momentum", "float32", "fused", 0.3, True, False)


def program(*arguments):
    return [sys.executable, __file__, *map(str, arguments)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder of runs, each three epochs in this process and four in another."""
    folder = tmp_path_factory.mktemp("runs")
    for group, variant in itertools.product(GROUPS, VARIANTS):
        dropout, shuffle, scheduled, weighted = variant
        trainer = start(*group, dropout, shuffle, scheduled)
        trainer.checkpoint(folder / name_of(group, variant), every=10)  # the end in any case
        fit(trainer, 3, weighted, validation_data=(X, Y))
    subprocess.run(program("resume", folder), check=True, timeout=120)
    return folder


@pytest.mark.parametrize("group", GROUPS, ids="-".join)
def test_a_run_resumed_in_a_new_process_ends_in_the_same_bits(group, finished):
    kind = TRAINERS[group[0]][0]
    for variant in VARIANTS:
        dropout, shuffle, scheduled, weighted = variant
        expected = start(*group, dropout, shuffle, scheduled)
        fit(expected, 7, weighted, validation_data=(X, Y))
        path = finished / name_of(group, variant)
        actual = kind.resume(path, learning_rate=SCHEDULE if scheduled else None)
        assert bits(actual) == bits(expected), variant
        assert actual.history.epochs == len(actual.history.validation_accuracy) == 7
        fit(actual, 2, weighted)  # and ever on: the trainers are the same
        fit(expected, 2, weighted)
        assert actual.model.params.tobytes() == expected.model.params.tobytes(), variant


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no kill -9")
def test_killed_at_any_moment(tmp_path, long):
    kills = 300 if long else 12
    whole = killed_run()
    fit(whole, KILLED_EPOCHS)
    expected = bits(whole)
    path = tmp_path / "run.ckpt"
    moments = random.Random(0)
    within = 0
    for _ in range(kills):
        process = subprocess.Popen(program("run", path), stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        before = path.exists()
        time.sleep(moments.uniform(0, 0.1))
        process.kill()
        done = "done" in process.communicate(timeout=60)[0]
        assert process.returncode in (-signal.SIGKILL, 0)
        if not path.exists():  # killed before the first was written
            assert not before and not done
            continue
        trainer = SGD.resume(path)
        at = trainer.history.epochs
        within += 0 < at < KILLED_EPOCHS
        assert trainer.history.loss == whole.history.loss[:at]
        fit(trainer, KILLED_EPOCHS - at)
        assert bits(trainer) == expected
        if at == KILLED_EPOCHS:
            path.unlink()
    assert within >= kills // 3  # the kills met a run on its way
    left = {file.name for file in tmp_path.iterdir()} - {path.name}
    assert all(name.startswith(".run.ckpt.") and name.endswith(".tmp") for name in left)
    print(f"{kills} kills, {within} on the way, {len(left)} of them while writing")


def tiny(tmp_path):
    """Return the path of a small checkpoint."""
    trainer = Adam(MLP([1, 1, 2]), batch_size=50, seed=None)
    trainer.checkpoint(tmp_path / "tiny")
    trainer.fit(X[:, :1], Y % 2, epochs=2)
    return tmp_path / "tiny"


def refused(path, what=".", kind=Adam):
    with pytest.raises(fastmlp.FileFormatError, match=what) as caught:
        kind.resume(path)
    assert str(caught.value).startswith(f"{path} is not a fastmlp checkpoint that can be read: ")


def test_files_of_the_other_kind(tmp_path):
    path = tiny(tmp_path)
    with pytest.raises(fastmlp.FileFormatError, match=r"a checkpoint, which SGD\.resume or Adam"):
        MLP.load(path)
    refused(path, r"it holds a run of Adam: go on with Adam\.resume", SGD)
    MLP([2, 2]).save(tmp_path / "model")
    refused(tmp_path / "model", "it holds a model but no run to go on with")
    with pytest.raises(FileNotFoundError, match="no such file"):
        SGD.resume(tmp_path / "gone")


def test_an_estimator_does_not_read_a_checkpoint(tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    with pytest.raises(fastmlp.FileFormatError, match=r"a checkpoint, which SGD\.resume or Adam"):
        fastmlp.MLPClassifier.load(tiny(tmp_path))


def without(name):
    return lambda tensors, held: held.pop(name)


def put(name, value):
    return lambda tensors, held: held.__setitem__(name, value)


def option(name, value):
    return lambda tensors, held: held["options"].__setitem__(name, value)


def tensor(name, value):
    return lambda tensors, held: tensors.__setitem__(name, value)


def generator(**changes):
    return lambda tensors, held: held["generator"].update(changes)


PHILOX = checkpoint._state(np.random.Philox(0).state)
MT = checkpoint._state(np.random.MT19937(0).state)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        *((without(name), f"it lacks '{name}'") for name in ("optimizer", "options", "step")),
        (without("generator"), "it lacks 'generator'"),
        (without("learning_rate"), "it lacks 'learning_rate'"),
        (put("optimizer", "rprop"), "it lacks 'rprop'"),
        (put("optimizer", "sgd"), "it holds a run of SGD"),
        (put("options", None), "."),
        (put("step", -1), "step is -1"),
        (put("step", 1.5), "step is 1.5"),
        (put("step", 2**62), r"expected below 2\*\*62"),
        (put("epochs", 2**62), r"expected below 2\*\*62"),
        (put("seed", "0"), "seed is '0'"),
        (put("dropout", 1), "dropout is 1"),
        (put("engine", "cuda"), "cuda"),
        (put("n_threads", 0.5), "n_threads is 0.5"),
        (put("learning_rate", [1]), "learning_rate is"),
        (put("probability_clip", 1), "probability_clip is 1"),
        (option("batch_size", 0), "batch_size is 0"),
        (option("shuffle", "no"), "shuffle is 'no'"),
        (option("momentum", 0.5), "its options are"),
        (
            tensor("moments.0", np.zeros(6)),
            r"moments\.0 is float64 of",
        ),
        (
            tensor("moments.1", np.zeros(5, np.float32)),
            r"moments\.1 is float32 of shape \(5,\)",
        ),
        (tensor("moments.1", np.full(6, np.nan, np.float32)), "moments that are not finite"),
        (tensor("moments.2", np.zeros(6, np.float32)), "it holds 3 moments, expected 2"),
        (tensor("history.loss", np.zeros(3)), r"its history is of \[2, 3\] epochs at once"),
        (tensor("history.loss", np.zeros(2, np.float32)), "history.loss is float32"),
        (tensor("weights.0", np.full((1, 1), np.nan, np.float32)), "not finite"),
        (tensor("more", np.zeros(1)), "do not go with 7 parameters"),
        (generator(bit_generator="PCG32"), "its random generator is 'PCG32'"),
        (generator(bit_generator="Generator"), "its random generator is 'Generator'"),
        (generator(bit_generator="SFC64"), "."),
        (generator(state={"state": -1, "inc": 1}), "."),
        (generator(state=None), "."),
        (put("generator", {**PHILOX, "buffer_pos": -9}), "Philox, is not valid"),
        (put("generator", {**PHILOX, "buffer_pos": 5}), "Philox, is not valid"),
        (put("generator", {**MT, "state": {**MT["state"], "pos": 625}}), "MT19937, is not valid"),
        (put("generator", {**MT, "state": {**MT["state"], "pos": -1}}), "MT19937, is not valid"),
        (put("generator", {**MT, "state": {"key": [1, 2], "pos": 0}}), "."),
        (
            put("generator", {**MT, "state": {"key": [1] * 700, "pos": 650}}),
            "MT19937, is not valid",
        ),
        (put("generator", {**PHILOX, "buffer": [1]}), "."),
    ],
)
def test_files_with_a_true_checksum_that_are_no_runs(change, what, tmp_path):
    path = tiny(tmp_path)
    tensors, description = persist.load(path, "checkpoint")
    change(tensors, description["trainer"])
    persist.save(path, tensors, description)
    refused(path, what)


def test_a_description_that_is_no_dict(tmp_path):
    path = tiny(tmp_path)
    tensors, description = persist.load(path, "checkpoint")
    for held in None, [], "adam", 3:
        persist.save(path, tensors, {**description, "trainer": held})
        refused(path)


def test_a_schedule_has_to_be_given_again(tmp_path):
    trainer = SGD(MLP([5, 3]), learning_rate=SCHEDULE)
    trainer.checkpoint(tmp_path / "run")
    fit(trainer, 1)
    with pytest.raises(TypeError, match=r"give it again: SGD\.resume\(path, learning_rate="):
        SGD.resume(tmp_path / "run")
    assert SGD.resume(tmp_path / "run", learning_rate=SCHEDULE).learning_rate is SCHEDULE


def test_what_resume_replaces(tmp_path):
    trainer = SGD(MLP([5, 3]), learning_rate=0.3, engine="fused", n_threads=1)
    trainer.checkpoint(tmp_path / "run")
    fit(trainer, 1)
    same = SGD.resume(tmp_path / "run")
    assert (same.learning_rate, same.engine, same.n_threads) == (0.3, "fused", 1)
    other = SGD.resume(tmp_path / "run", learning_rate=0.1, engine="blas", n_threads=2)
    assert (other.learning_rate, other.engine, other.n_threads) == (0.1, "blas", 2)
    for wrong in {"learning_rate": -1}, {"engine": "cuda"}, {"n_threads": 0}:
        with pytest.raises(ValueError, match=next(iter(wrong))) as caught:
            SGD.resume(tmp_path / "run", **wrong)
        assert not isinstance(caught.value, fastmlp.FileFormatError)


@pytest.mark.parametrize("kind", [SGD, Adam])
def test_every_option_is_written(kind):
    """An option that is added to a trainer has to be added to its checkpoints."""
    apart = {"self", "model", "learning_rate", "dropout", "engine", "n_threads", "seed"}
    options = checkpoint.OPTIONS[kind._optimizer]
    assert set(inspect.signature(kind.__init__).parameters) == apart | set(options)


def test_options_that_were_set_later(tmp_path):
    trainer = SGD(MLP([5, 3]))
    trainer.batch_size, trainer.shuffle, trainer.nesterov = np.int64(7), 0, np.True_
    trainer.learning_rate, trainer.max_norm = np.float32(0.25), np.float64(2)
    trainer.checkpoint(tmp_path / "run")
    fit(trainer, 1)
    again = SGD.resume(tmp_path / "run")
    assert (again.batch_size, again.shuffle, again.nesterov) == (7, False, True)
    assert (again.learning_rate, again.max_norm) == (0.25, 2)


@pytest.mark.parametrize("name", checkpoint.GENERATORS)
def test_generators(name, tmp_path):
    rng = np.random.Generator(getattr(np.random, name)(8))
    rng.integers(2**32, dtype=np.uint32)  # half of a draw is kept for the next one
    trainer = SGD(MLP([5, 3]), seed=rng)
    trainer.checkpoint(tmp_path / "run")
    fit(trainer, 1)
    again = SGD.resume(tmp_path / "run")
    assert again._rng is not rng
    assert again._rng.integers(2**63, size=999).tobytes() == rng.integers(2**63, size=999).tobytes()


def test_the_model_comes_back_whole(tmp_path):
    model = MLP([5, 4, 3], activation=["silu"], loss="huber", loss_parameter=2, dtype="float64")
    model.metadata = {"names": ["a", "b"]}
    model.probability_clip = 1e-9
    trainer = SGD(model)
    trainer.checkpoint(tmp_path / "run")
    trainer.fit(X, np.eye(3)[Y], epochs=1)
    again = SGD.resume(tmp_path / "run").model
    assert repr(again) == repr(model) and again.metadata == model.metadata
    assert (again.loss_parameter, again.probability_clip) == (2, 1e-9)


def epochs_in(path):
    return SGD.resume(path)._session.epochs


def test_when_it_is_written(tmp_path):
    path = tmp_path / "run"
    trainer = SGD(MLP([5, 3]))
    trainer.checkpoint(path, every=3)
    assert not path.exists()
    seen = []
    watch = {"callback": lambda history: seen.append(path.exists() and epochs_in(path))}
    fit(trainer, 8, **watch)  # the callback comes before the writing
    assert seen == [False, False, False, 3, 3, 3, 6, 6]
    assert epochs_in(path) == 8
    seen.clear()
    fit(trainer, 3, **watch)  # epochs 9 to 11
    assert seen == [8, 9, 9] and epochs_in(path) == 11
    fit(trainer, 5, callback=lambda history: history.epochs == 2)
    assert epochs_in(path) == 13
    trainer.checkpoint(None)
    fit(trainer, 1)
    assert epochs_in(path) == 13


def test_what_the_callback_changes_is_written(tmp_path):
    trainer = SGD(MLP([5, 3]))
    trainer.checkpoint(tmp_path / "run")

    def halve(history):
        trainer.model.params[:] /= 2

    fit(trainer, 2, callback=halve)
    assert bits(SGD.resume(tmp_path / "run")) == bits(trainer)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 2.5), ("batch_size", True), ("batch_size", 0), ("learning_rate", -1),
        ("learning_rate", np.inf), ("momentum", 1), ("weight_decay", -1), ("max_norm", -1),
        ("max_norm", np.inf), ("beta_2", 1), ("beta_1", -0.5), ("epsilon", 0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("when", ["before", "in a callback"])
def test_options_that_are_set_are_checked(name, value, when, tmp_path):
    """Nothing is written that could not be read."""
    trainer = (Adam if hasattr(Adam(MLP([1, 1])), name) else SGD)(MLP([5, 3]))
    trainer.checkpoint(tmp_path / "run")
    fit(trainer, 1)
    before = (tmp_path / "run").read_bytes()

    def change(history):
        setattr(trainer, name, value)

    if when == "before":
        change(None)
    with pytest.raises((TypeError, ValueError), match=f"{name} is {value}"):
        fit(trainer, 1, callback=change)
    assert (tmp_path / "run").read_bytes() == before


def test_what_a_callback_does_to_the_history(tmp_path):
    """It may add to it what is its own; what makes no sense is not written."""
    trainer = SGD(MLP([5, 3]))
    trainer.checkpoint(tmp_path / "run")

    def add(history):
        history.mine = [*getattr(history, "mine", []), 1]
        history.best = 3

    fit(trainer, 3, callback=add)
    assert SGD.resume(tmp_path / "run").history.loss == trainer.history.loss
    before = (tmp_path / "run").read_bytes()
    with pytest.raises(ValueError, match=r"history is of \[0, 1\] epochs at once"):
        fit(trainer, 3, callback=lambda history: history.loss.clear())
    assert (tmp_path / "run").read_bytes() == before


def test_copies_write_no_checkpoints(tmp_path):
    """Not into the file of the original, whose run it holds."""
    trainer = SGD(MLP([5, 3]))
    trainer.checkpoint(tmp_path / "run")
    fit(trainer, 1)
    before = (tmp_path / "run").read_bytes()
    for copied in copy.deepcopy(trainer), pickle.loads(pickle.dumps(trainer)):
        fit(copied, 1)
        assert (tmp_path / "run").read_bytes() == before
    fit(trainer, 1)
    assert (tmp_path / "run").read_bytes() != before


def test_an_interrupted_epoch_is_not_written(tmp_path):
    trainer = SGD(MLP([5, 3]), learning_rate=lambda epoch: 0.1 if epoch < 2 else 1e300)
    trainer.checkpoint(tmp_path / "run")
    with np.errstate(all="ignore"), pytest.raises(fastmlp.DivergedError):
        fit(trainer, 5)
    twin = SGD(MLP([5, 3]), learning_rate=0.1)
    fit(twin, 2)
    again = SGD.resume(tmp_path / "run", learning_rate=0.1)
    assert bits(again) == bits(twin)


def test_the_history_goes_on_once(tmp_path):
    trainer = SGD(MLP([5, 3]))
    trainer.checkpoint(tmp_path / "run")
    fit(trainer, 2)
    again = SGD.resume(tmp_path / "run")
    seen = []
    fit(again, 2, callback=lambda history: seen.append(history.epochs))
    assert seen == [3, 4] and again.history.epochs == 4
    assert fit(again, 1).epochs == 1  # another fit
    assert fit(SGD.resume(tmp_path / "run"), 0).epochs == 2


def test_what_cannot_be_written_is_said_before_training(tmp_path):
    trainer = SGD(MLP([5, 3]))
    before = trainer.model.params.copy()
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        trainer.checkpoint(tmp_path / "gone" / "run")
    with pytest.raises(IsADirectoryError, match="it is a folder"):
        trainer.checkpoint(tmp_path)
    with pytest.raises(ValueError, match="every is 0, expected at least 1"):
        trainer.checkpoint(tmp_path / "run", every=0)
    fit(trainer, 0)  # none of them has switched it on
    folder = tmp_path / "folder"
    folder.mkdir()
    trainer.checkpoint(folder / "run")
    folder.rmdir()
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        fit(trainer, 3)
    trainer.checkpoint(tmp_path / "run", every=2)
    trainer.model.metadata = {"array": np.ones(2)}
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        fit(trainer, 3)
    np.testing.assert_array_equal(trainer.model.params, before)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    trainer = SGD(MLP([5, 3]))
    trainer.checkpoint(tmp_path / "run")
    fit(trainer, 2)

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            fit(trainer, 2)
    assert [file.name for file in tmp_path.iterdir()] == ["run"]
    assert epochs_in(tmp_path / "run") == 2
    fit(trainer, 1)  # it goes on from the epoch that it has trained
    assert epochs_in(tmp_path / "run") == 4


if __name__ == "__main__":
    {"resume": resume_all, "run": run_to_be_killed}[sys.argv[1]](sys.argv[2])


@pytest.mark.parametrize("x", [list(range(65_000)), "x" * (2 << 20)], ids=["values", "bytes"])
def test_a_description_that_is_too_large_is_found_before_the_training(x, tmp_path):
    trainer = SGD(MLP([2, 2]))
    trainer.model.metadata = {"x": x}
    trainer.checkpoint(tmp_path / "run")
    before = trainer.model.params.copy()
    with pytest.raises(ValueError, match="the description is too large"):
        trainer.fit([[0, 1]], [1], epochs=1)
    assert (trainer.model.params == before).all() and trainer.history.epochs == 0
    assert list(tmp_path.iterdir()) == []


def test_a_class_of_ones_own_does_not_take_the_place_of_its_base(tmp_path):
    trainer = SGD(MLP([2, 2]))
    trainer.checkpoint(tmp_path / "run")
    trainer.fit([[0, 1]], [1], epochs=1)

    class Mine(SGD):
        pass

    assert type(SGD.resume(tmp_path / "run")) is SGD
    assert type(Mine.resume(tmp_path / "run")) is Mine


def test_memory_for_a_checkpoint(tmp_path):
    """It is read into parameters and moments, with no copy of them nor marks for each."""
    trainer = SGD(MLP([2000, 1000, 10]), momentum=0.9)
    trainer.checkpoint(tmp_path / "run")
    trainer.fit(np.ones((1, 2000)), [1], epochs=1)
    del trainer
    gc.collect()
    tracemalloc.start()
    try:
        SGD.resume(tmp_path / "run")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < (tmp_path / "run").stat().st_size + (1 << 20)
