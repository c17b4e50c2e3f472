"""fastmlp train --checkpoint and --resume: what was interrupted ends as if it had not been."""

import json
import os
import shlex
import sys

import numpy as np
import pytest
from commandline import ctrl_c, held, predictions, refused, rents, run, train

import fastmlp
from fastmlp import MLP, SGD, FileFormatError, persist, runs, training
from fastmlp.trainer import Trainer

DIGITS = ["--data", "digits", "--hidden", "20", "--epochs", "6"]
TABLE = [
    *("--data", "t.csv", "--target", "rent", "--regression", "--ignore", "garden"),
    *("--optimizer", "adam", "--dtype", "float64", "--early-stopping", "--patience", "3"),
]
FIRST = ["--checkpoint", "run"]
SECOND = ["--checkpoint", "run", "--resume"]


@pytest.fixture
def stopped(monkeypatch):
    """Return what runs a command line that Ctrl-C ends in the n-th epoch after its beginning."""

    def run_until(n, *argv):
        epoch, begun = fastmlp.session.Session.epoch, 0

        def interrupted(self, *arguments, **options):
            nonlocal begun
            begun += 1
            if begun > n:
                raise KeyboardInterrupt
            return epoch(self, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(fastmlp.session.Session, "epoch", interrupted)
            return run("train", "--json", *argv)

    return run_until


def apart_from_time(result):
    return {
        name: value
        for name, value in result.items()
        if name not in ("seconds", "samples_per_second")
    }


@pytest.mark.parametrize("options", [DIGITS, TABLE], ids=["digits", "table"])
@pytest.mark.parametrize("after", [0, 1, 4])
def test_an_interrupted_run_goes_on(options, after, stopped, folder):
    expected = train(*options, "--out", "expected")
    result = stopped(after, *options, *FIRST, "--out", "model")
    refused(result, "interrupted; run holds the run, go on with: fastmlp train", code=130)
    assert "model" not in held(folder)
    command = shlex.split(result[2].split("go on with: ")[1])
    assert command[0] == "fastmlp" and command[-1] == "--resume"
    code, out, err = run(*command[1:])
    assert (code, err) == (0, "")
    actual = json.loads(out)
    assert apart_from_time(actual) == apart_from_time(expected) | {"model": "model"}
    assert (folder / "model").read_bytes() == (folder / "expected").read_bytes()


@pytest.mark.parametrize("options", [DIGITS, TABLE], ids=["digits", "table"])
def test_the_file_knows_what_was_asked_for(options, stopped, folder):
    expected = train(*options, "--out", "expected")
    stopped(2, *options, *FIRST)
    again = stopped(1, *SECOND)
    refused(again, "go on with: fastmlp train --json --checkpoint run --resume", code=130)
    actual = train(*SECOND, "--out", "model")
    assert apart_from_time(actual) == apart_from_time(expected) | {"model": "model"}
    assert (folder / "model").read_bytes() == (folder / "expected").read_bytes()
    train(*SECOND, "--out", "once more")  # nothing is left to do, but for the model
    assert (folder / "once more").read_bytes() == (folder / "expected").read_bytes()
    if options is TABLE:
        assert predictions("model", "--data", "t.csv")[0] == ["rent"]


def test_more_epochs(folder):
    expected = train("--data", "digits", "--epochs", "9", "--out", "expected")
    train("--data", "digits", "--epochs", "4", *FIRST)
    actual = train(*SECOND, "--epochs", "9", "--out", "model")
    assert actual["epochs"] == expected["epochs"] == 9
    assert (folder / "model").read_bytes() == (folder / "expected").read_bytes()


def test_every_so_many_epochs(folder, monkeypatch):
    written = []
    save = fastmlp.checkpoint.Place.save

    def noted(self, trainer, books):
        written.append(trainer.history.epochs)
        save(self, trainer, books)

    monkeypatch.setattr(fastmlp.checkpoint.Place, "save", noted)
    train(*DIGITS, *FIRST, "--every", "4")
    assert written == [4, 6]


@pytest.mark.skipif(sys.platform == "win32", reason="sends the signal that Ctrl-C sends on POSIX")
def test_ctrl_c_in_a_process(folder):
    code, out, err = ctrl_c(*DIGITS[:4], *FIRST, "--out", "a model")
    assert code == 130 and out == "" and "Traceback" not in err
    assert err.splitlines()[-1] == (
        "fastmlp: error: interrupted; run holds the run, go on with: fastmlp train "
        "--epochs 1000000 --data digits --hidden 20 --checkpoint run --out 'a model' --resume"
    )
    at = Trainer.resume("run").history.epochs
    assert at >= 1
    train(*SECOND, "--epochs", at + 5, "--out", "model")
    train(*DIGITS[:4], "--epochs", at + 5, "--out", "expected")
    assert (folder / "model").read_bytes() == (folder / "expected").read_bytes()


@pytest.mark.parametrize("every", ["1", "3"])
def test_another_run_that_has_begun_meanwhile(every, folder, monkeypatch):
    """Its file stays, whichever of the two was the first to begin."""
    epoch, others = fastmlp.session.Session.epoch, b""

    def meanwhile(self, *arguments, **options):
        nonlocal others
        if self.epochs == int(every) - 1:
            with monkeypatch.context() as patch:
                patch.setattr(fastmlp.session.Session, "epoch", epoch)
                train(*DIGITS, "--seed", "1", *FIRST)
            others = (folder / "run").read_bytes()
        return epoch(self, *arguments, **options)

    monkeypatch.setattr(fastmlp.session.Session, "epoch", meanwhile)
    result = run("train", "--json", *DIGITS, *FIRST, "--every", every, "--out", "m")
    refused(result, "run meanwhile: nothing more of this one goes there; name another file")
    assert others == (folder / "run").read_bytes() and "m" not in held(folder)


@pytest.mark.parametrize("begins", [True, False], ids=["new", "resumed"])
@pytest.mark.parametrize("what", [None, KeyboardInterrupt])
def test_a_run_beside_another(what, begins, folder, monkeypatch):
    """The file is of the one that wrote it last; the other one is told."""
    if not begins:
        train(*DIGITS[:4], "--epochs", "2", *FIRST)
    epoch, others = fastmlp.session.Session.epoch, b""

    def meanwhile(self, *arguments, **options):
        nonlocal others
        with monkeypatch.context() as patch:
            patch.setattr(fastmlp.session.Session, "epoch", epoch)
            train(*DIGITS[:4], "--epochs", "3", *(FIRST if begins else SECOND))
        others = (folder / "run").read_bytes()
        if what is not None:
            raise what
        return epoch(self, *arguments, **options)

    monkeypatch.setattr(fastmlp.session.Session, "epoch", meanwhile)
    mine = [*DIGITS[:4], *FIRST] if begins else SECOND
    result = run("train", "--json", *mine, "--epochs", "9", "--out", "m")
    refused(result, "another run has written")
    assert others == (folder / "run").read_bytes() and "m" not in held(folder)


@pytest.mark.skipif(os.name != "posix", reason="links are those of POSIX")
def test_a_link_to_a_file_that_is_not_there_yet(folder):
    (folder / "run").symlink_to("real")
    train(*DIGITS[:4], "--epochs", "2", *FIRST)
    train(*SECOND, "--epochs", "3")
    assert (folder / "run").is_symlink() and Trainer.resume("real").history.epochs == 3


@pytest.mark.parametrize("checkpoint", [[], FIRST], ids=["", "checkpoint"])
@pytest.mark.parametrize("out", [[], ["--out", "old"]], ids=["", "out"])
@pytest.mark.parametrize("where", ["drawing", "scoring"])
def test_ctrl_c_after_the_last_epoch(where, out, checkpoint, folder, monkeypatch):
    """What is said of the files is true: of the model, the chart and the run."""

    def interrupted(*arguments, **named):
        raise KeyboardInterrupt

    before = held(folder)
    with monkeypatch.context() as patch:
        if where == "drawing":
            patch.setattr(training.losschart, "draw", interrupted)
        else:
            patch.setattr(training, "_scores", interrupted)
        result = run("train", "--json", *DIGITS[:5], "1", *out, "--plot", "p.svg", *checkpoint)
    new = [name for name, content in held(folder).items() if before.get(name) != content]
    done = [] if where == "drawing" else [*out[1:], "p.svg"]
    assert sorted(new) == sorted([*done, *checkpoint[1:]])
    said = " and ".join(done) + (" are written" if len(done) > 1 else " is written" if done else "")
    if checkpoint:
        more = f"{said and said + ', and '}run holds the run, go on with: fastmlp train"
        refused(result, f"error: interrupted; {more}", code=130)
        train(*SECOND, "--out", "model")
        train(*DIGITS[:5], "1", "--out", "expected")
        assert (folder / "model").read_bytes() == (folder / "expected").read_bytes()
    elif done:
        refused(result, f"error: interrupted; {said}\n", code=130)
    else:
        refused(result, "error: interrupted, nothing was written; --checkpoint FILE", code=130)


def test_no_memory_after_the_model_is_written(folder, monkeypatch):
    def fails(*arguments):
        raise MemoryError("no room")

    monkeypatch.setattr(training, "_scores", fails)
    result = run("train", "--json", *DIGITS[:5], "1", "--out", "m")
    refused(result, "out of memory: no room. m is written\n", code=1)


def test_no_end_before_where_it_is(folder):
    """A run in the middle of its third epoch cannot end after the second."""
    train(*DIGITS[:5], "2", *FIRST)
    tensors, description = persist.load("run", "checkpoint")
    rows = {"n_samples": 1438, "rows": 320, "steps": 10, "loss": 1.0, "penalty": 0.0}
    description["trainer"]["interrupted"] = rows
    persist.save("run", tensors, description)
    before = held(folder)
    for argv in ([], ["--epochs", "1"], ["--epochs", "2"]):
        result = run("train", "--json", *SECOND, *argv, "--out", "m")
        refused(result, "but the run in run is in the middle of epoch 3")
        assert held(folder) == before
    assert train(*SECOND, "--epochs", "3")["epochs"] == 3


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--hidden", "100"], "--hidden is 100, but the run in run began with 20"),
        (["--optimizer", "adam"], "--optimizer is adam, but the run in run began with sgd"),
        (["--batch-size", "8"], "--batch-size is 8, but"),
        (["--learning-rate", "0.5"], "--learning-rate is 0.5, but"),
        (["--seed", "1"], "--seed is 1, but the run in run began with 0"),
        (["--regression"], "--regression is given, but the run in run began without it"),
        (["--ignore", "x"], "--ignore is x, but"),
        (["--dtype", "float64"], "--dtype is float64, but"),
        (["--data", "t.csv"], "."),
        (["--momentum", "0.5"], "--momentum is 0.5, but the run in run began with 0.9"),
        (["--scale", "standard"], "--scale is standard, but the run in run began with its default"),
        (["--out", "run"], "--out and --checkpoint both name run"),
        (["--epochs", "1" + "0" * 30], "expected below 2**62"),
    ],
)
def test_another_run_is_refused(options, what, stopped, folder):
    stopped(2, *DIGITS, *FIRST)
    before = held(folder)
    result = run("train", "--json", *SECOND, *options)
    refused(result, what)
    assert held(folder) == before
    again = [*SECOND, *DIGITS, "--momentum", "0.9"]  # what is the same may be said again
    assert train(*again)["epochs"] == 6


def test_other_rows_are_refused(stopped, folder):
    stopped(2, *TABLE, *FIRST)
    rents(folder / "t.csv", n=239)
    refused(run("train", "--json", *SECOND), "the rows of t.csv are not those that the run in run")
    rents(folder / "moved.csv")
    assert train(*SECOND, "--data", "moved.csv")["epochs"] > 2


def test_what_goes_together(folder):
    refused(run("train", *DIGITS, "--resume"), "--resume goes with --checkpoint")
    refused(run("train", *DIGITS, "--every", "2"), "--every goes with --checkpoint")
    refused(run("train", *DIGITS, *FIRST, "--every", "0"), "--every is 0")
    refused(run("train", *SECOND), "run: no such file")
    refused(run("train", *FIRST), "--data is needed")
    refused(run("train"), "--data is needed")
    refused(run("train", *DIGITS, "--checkpoint", "no/run"), "there is no folder")
    before = held(folder)
    refused(run("train", *DIGITS, "--checkpoint", "old"), "old is there already: --resume goes on")
    refused(run("train", "--checkpoint", "old", "--resume"), "old is not a fastmlp checkpoint")
    assert held(folder) == before


def test_a_run_that_diverges(folder, monkeypatch):
    result = run("train", "--json", *DIGITS, "--learning-rate", "1e30", *FIRST)
    refused(result, "the loss is not finite in epoch 1", code=1)
    assert result[2].endswith(". Nothing was written\n") and "run" not in held(folder)
    epoch = fastmlp.session.Session.epoch

    def diverges(self, *arguments, **options):
        if self.epochs == 2:
            options["learning_rate"] = 1e30
        return epoch(self, *arguments, **options)

    monkeypatch.setattr(fastmlp.session.Session, "epoch", diverges)
    result = run("train", "--json", *DIGITS, *FIRST)
    refused(result, "the loss is not finite in epoch 3", code=1)
    assert result[2].endswith(". run holds the run up to an epoch before\n")
    assert Trainer.resume("run").history.epochs == 2


def put(name, value):
    return lambda tensors, metadata: metadata["run"]["options"].__setitem__(name, value)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, metadata: metadata.pop("run"),
        lambda tensors, metadata: metadata["run"].pop("rows"),
        lambda tensors, metadata: metadata.update(run=[]),
        lambda tensors, metadata: metadata["run"].update(options=None),
        lambda tensors, metadata: metadata["run"]["options"].pop("seed"),
        put("out", "/etc/passwd"),
        put("seed", True),
        put("data", None),
        put("text", [1]),
        put("hidden", ["20"]),
        put("dtype", "object"),
        put("optimizer", ["sgd"]),
        put("scale", "far"),
        lambda tensors, metadata: tensors["history.seconds"].fill(-1),
        lambda tensors, metadata: tensors["history.loss"].fill(np.nan),
        lambda tensors, metadata: tensors.update({"history.validation_accuracy": np.zeros(9)}),
        lambda tensors, metadata: tensors.pop("kept.best"),
        lambda tensors, metadata: tensors.update({"kept.best": np.zeros(3)}),
        lambda tensors, metadata: tensors["kept.best"].fill(np.nan),
        lambda tensors, metadata: tensors.update({"history.validation_loss": np.zeros(1)}),
    ],
)
def test_files_of_no_run(change, stopped, folder):
    stopped(2, *TABLE, *FIRST)
    tensors, description = persist.load("run", "checkpoint")
    change(tensors, description["metadata"])
    persist.save("run", tensors, description)
    refused(run("train", "--json", *SECOND), "run is not a fastmlp checkpoint that can be read")


def test_a_checkpoint_of_python_is_not_of_a_run(folder):
    trainer = SGD(MLP([2, 2]))
    trainer.checkpoint("run")
    trainer.fit([[0, 1]], [1], epochs=1)
    refused(run("train", *SECOND), "it is not of a run of fastmlp train")


def test_the_model_says_nothing_of_the_run(stopped, folder):
    stopped(2, *DIGITS, *FIRST)
    train(*SECOND, "--out", "model")
    assert runs.KEY not in MLP.load("model").metadata
    with pytest.raises(FileFormatError, match="it is a checkpoint"):
        MLP.load("run")
