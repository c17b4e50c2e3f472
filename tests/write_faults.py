"""A program: everything that writes a file, with the n-th system call failing, for every n.

After each failure the old file has to be whole, or the new one, and the error to say which; no
temporary file may be left; whoever wrote has to be what it was, and able to write again.

It needs the library of write_faults.c, preloaded. One argument: how many sizes of a full disk to
try at most. Prints one line of JSON for every case.
"""

import contextlib
import ctypes
import errno
import io
import json
import os
import pickle
import sys
import tempfile
from pathlib import Path

import numpy as np

from fastmlp import MLP, SGD, FileFormatError, MLPClassifier, cli, explain

KINDS = OPEN, WRITE, FSYNC, CHMOD, RENAME, UNLINK, CLOSE = range(7)  # as in write_faults.c
HALF = -1
FOR_EVER = 10**6
ERRORS = [errno.ENOSPC, errno.EIO]
EVERYTHING = sum(1 << kind for kind in KINDS)
OLD = b"what was there before"
EPOCHS = 3

faults = ctypes.CDLL(None)
faults.stop_failing.restype = ctypes.c_long
faults.fail_nth.argtypes = [ctypes.c_int, ctypes.c_long, ctypes.c_long, ctypes.c_int]
faults.leave_space.argtypes = [ctypes.c_long]

X = np.random.default_rng(0).normal(size=(40, 5))
Y = np.arange(40) % 3


class Writer:
    """What writes a file in one go, and changes nothing by it."""

    def __init__(self, act):
        self.act = act

    def begin(self):
        return None

    def write(self, subject, path):
        self.act(path)

    go_on = write

    states = ("new",)  # of a subject, from the beginning to the end

    def bits(self, subject):
        return "new"

    def read(self, path):
        """Return the state that a file holds, or OLD."""
        held = path.read_bytes()
        return "new" if held == self.new else held

    def learn(self, path):
        """Find out what the file is to be."""
        self.act(path)
        self.new = path.read_bytes()


class Run:
    """A fit that writes a checkpoint after every epoch."""

    def begin(self):
        return SGD(MLP([5, 4, 3], seed=1), batch_size=15)

    def write(self, trainer, path, epochs=EPOCHS):
        trainer.checkpoint(path)
        trainer.fit(X, Y, epochs=epochs - trainer._session.epochs)

    def go_on(self, trainer, path):
        self.write(trainer, path, EPOCHS + 1)

    def bits(self, trainer):
        session = trainer._session
        held = [trainer.model.params, *session.moments, session.epochs, session.step]
        return pickle.dumps([held, trainer._rng.bit_generator.state])

    def read(self, path):
        held = path.read_bytes()
        try:
            return OLD if held == OLD else self.bits(SGD.resume(path))
        except FileFormatError:
            return held

    def learn(self, path):
        trainer = self.begin()
        self.states = [self.bits(trainer)]
        for epochs in range(EPOCHS + 1):
            self.write(trainer, path, epochs + 1)
            self.states.append(self.bits(trainer))


def cases(folder):
    """Return every case by its name."""
    model = MLP([5, 4, 3], seed=1)
    estimator = MLPClassifier((4,), max_iter=2, random_state=0).partial_fit(X, Y, classes=[0, 1, 2])
    report = explain(model, X[:2], Y[:2])
    trained = str(folder / "trained")
    data, rows = str(folder / "data.npz"), str(folder / "rows.npy")
    np.savez(data, X=X, y=Y)
    np.save(rows, X)
    train = ("train", "--data", data, "--epochs", "1", "--hidden", "3", "--json", "--out")
    command_line(*train, trained)
    predict = ("predict", trained, "--data", rows, "--out")
    return {
        "model": Writer(model.save),
        "checkpoints of a fit": Run(),
        "estimator": Writer(estimator.save),
        "report": Writer(report.to_html),
        "fastmlp train": Writer(lambda path: command_line(*train, str(path))),
        "fastmlp predict": Writer(lambda path: command_line(*predict, str(path))),
    }


def command_line(*arguments):
    """Run the command line; raise the error that it reports."""
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(said):
        code = cli.main(arguments)
    if code:
        assert code == 2 and said.getvalue().count("\n") == 1, said.getvalue()
        raise OSError(said.getvalue())


def survey(case, path, sizes):
    """Run a case with the n-th call of every kind failing, for every n; return what was found."""
    case.learn(path)
    found = {"faults": 0, "errors": 0, "wrong": []}
    trials = [(1 << kind, 0, error) for kind in KINDS for error in ERRORS]
    trials += [(1 << kind, 2, errno.EINTR) for kind in (OPEN, WRITE, FSYNC)]
    trials += [(1 << WRITE, 0, HALF), (1 << WRITE, FOR_EVER, HALF)]
    trials += [(1 << kind | 1 << UNLINK, FOR_EVER, errno.EIO) for kind in KINDS if kind != UNLINK]
    trials += [(EVERYTHING, FOR_EVER, error) for error in ERRORS]
    for kinds, more, error in trials:
        n = calls = 0
        while calls >= n:  # the run before had an n-th to fail, so there may be another
            n += 1
            calls = attempt(case, path, kinds, n, more, error, -1, found)
    most = path.stat().st_size * EPOCHS
    for space in range(0, most, max(1, most // sizes)):
        attempt(case, path, 0, 1, 0, errno.ENOSPC, space, found)
    return found


def attempt(case, path, kinds, n, more, error, space, found):
    """Run a case once with a failure, and go on after it; return how many calls could fail."""
    path.write_bytes(OLD)
    subject, failed, wrong = case.begin(), None, []
    files = len(os.listdir("/proc/self/fd"))
    faults.leave_space(space)
    faults.fail_nth(kinds, n, more, error)
    try:
        case.write(subject, path)
    except Exception as exception:
        failed = exception
    calls = faults.stop_failing()
    found["faults"] += calls >= n or failed is not None
    if len(os.listdir("/proc/self/fd")) != files:
        wrong.append("a file is left open")
    left = {file.name for file in path.parent.iterdir()} - {path.name}
    if left and not (kinds >> UNLINK & 1 and more):  # with unlink failing too, it has to stay
        wrong.append(f"left behind: {left}")
    held, is_written = case.read(path), failed is None or "is written" in str(failed)
    if held not in (OLD, *case.states):
        wrong.append("the file is neither the old one nor a new one")
    if (held == case.bits(subject)) is not is_written:
        wrong.append(f"the error does not say which file is there: {failed!r}")
    if case.bits(subject) not in case.states:
        wrong.append("what it worked on is in a state between")
    if failed is not None:
        found["errors"] += 1
        if not isinstance(failed, OSError):
            wrong.append(repr(failed))
        elif str(path) not in str(failed) or os.strerror(error) not in str(failed):
            wrong.append(f"the error is not clear: {failed}")
        if error in (errno.EINTR, HALF):
            wrong.append(f"it did not try again: {failed}")
    case.go_on(subject, path)
    if case.read(path) != case.states[-1]:
        wrong.append("it goes on otherwise")
    for name in left:
        path.with_name(name).unlink()
    found["wrong"] += [f"{kinds:b} {n}+{more} {error} {space}: {what}" for what in wrong]
    return calls


def main(sizes):
    with tempfile.TemporaryDirectory() as folder:
        everything = cases(Path(folder))
        place = Path(folder, "watched")
        place.mkdir()
        faults.watch_folder(str(place).encode())
        for name, case in everything.items():
            found = survey(case, place / "file", sizes)
            print(json.dumps({"case": name, **found}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
