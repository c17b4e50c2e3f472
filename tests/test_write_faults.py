"""Files that cannot be written: the old one whole, nothing beside it, and an error that says so.

The cases are those of write_faults.py, which runs in a process of its own. The disks that are full
here are real ones.
"""

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import preload
import pytest

from fastmlp import MLP

PROGRAM = Path(__file__).with_name("write_faults.py")
MEMORY = Path("/dev/shm")  # where flushing costs no time


def test_the_nth_system_call_fails(long, tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    library = preload.build("write_faults.c", tmp_path)
    folder = str(MEMORY if os.access(MEMORY, os.W_OK) else tmp_path)
    output = preload.run(library, PROGRAM, 300 if long else 8, TMPDIR=folder, timeout=7200)
    cases = [json.loads(line) for line in output.splitlines()]
    assert {case["case"]: case["wrong"] for case in cases if case["wrong"]} == {}
    faults, errors = (sum(case[key] for case in cases) for key in ("faults", "errors"))
    assert len(cases) == 6 and errors > 0
    print(f"{faults} faults in {len(cases)} cases, {errors} errors, 0 lost files")


@pytest.mark.skipif(os.name != "posix", reason="folders are flushed on POSIX systems")
@pytest.mark.parametrize(
    ("call", "number"),
    [("open", errno.EACCES), ("fsync", errno.EINVAL)],
    ids=["may not be read", "knows no flushing"],
)
def test_a_folder_that_cannot_be_flushed_by_its_nature(call, number, tmp_path, monkeypatch):
    original = getattr(os, call)

    def refuse(place, *arguments, **named):
        is_folder = os.path.isdir(place) if call == "open" else stat.S_ISDIR(os.stat(place).st_mode)
        if is_folder:
            refused.append(place)
            raise OSError(number, os.strerror(number))
        return original(place, *arguments, **named)

    refused = []
    model = MLP([5, 3], seed=1)
    with monkeypatch.context() as patched:
        patched.setattr(os, call, refuse)
        model.save(tmp_path / "model")
    assert len(refused) == 1
    np.testing.assert_array_equal(MLP.load(tmp_path / "model").params, model.params)


def full_disk(script, n_kilobytes, *arguments):
    """Run a script that has a disk of so many kilobytes at /mnt; return what it prints.

    The disk is mounted where nobody else sees it, and goes with the process.
    """
    if sys.platform != "linux" or shutil.which("unshare") is None:
        pytest.skip("mounts a small disk, by unshare, under Linux")
    mount = f"mount -t tmpfs -o size={n_kilobytes}k tmpfs /mnt"
    as_root = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*as_root, mount], capture_output=True, check=False).returncode:
        pytest.skip("this system lets no one mount a disk")
    done = subprocess.run(
        [*as_root, f'{mount} && exec "$@"', "sh", sys.executable, "-c", textwrap.dedent(script),
         *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


FIT = """
    import errno, os
    import numpy as np
    from fastmlp import MLP, SGD

    X = np.random.default_rng(0).normal(size=(40, 50))
    Y = np.arange(40) % 3

    def start():
        return SGD(MLP([50, 60, 3]), batch_size=15)

    os.chdir("/mnt")
    trainer, undisturbed = start(), start()
    trainer.checkpoint("run")
    trainer.fit(X, Y, epochs=2)
    before = open("run", "rb").read()
    with open("ballast", "wb") as file:  # fills the disk
        try:
            while True:
                os.write(file.fileno(), bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC
    try:
        trainer.fit(X, Y, epochs=3)
    except OSError as error:
        print(error.errno == errno.ENOSPC, error)
    assert sorted(os.listdir()) == ["ballast", "run"]
    assert open("run", "rb").read() == before
    undisturbed.fit(X, Y, epochs=3)
    assert (trainer.model.params == undisturbed.model.params).all()
    os.remove("ballast")
    trainer.fit(X, Y, epochs=2)
    undisturbed.fit(X, Y, epochs=2)
    assert (SGD.resume("run").model.params == undisturbed.model.params).all()
    assert os.listdir() == ["run"]
"""


def test_a_fit_whose_checkpoints_fill_the_disk():
    """It ends with an error, keeps what it trained and, with room again, goes on."""
    assert full_disk(FIT, 100) == "True cannot write /mnt/run: No space left on device\n"


COMMAND = """
    import os, subprocess, sys

    os.chdir("/mnt")
    with open("model", "w") as file:
        file.write("what was there before")
    done = subprocess.run(
        [sys.executable, "-m", "fastmlp", "train", "--data", "digits", "--epochs", "1",
         "--hidden", "200", "--out", "model", "--json"],
        capture_output=True, text=True,
    )
    print(done.returncode, done.stdout, done.stderr, end="")
    print(os.listdir(), open("model").read())
"""


def test_the_command_line_on_a_full_disk():
    said = "2  fastmlp: error: cannot write model: No space left on device\n"
    assert full_disk(COMMAND, 16) == said + "['model'] what was there before\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["at the end", "at once"])
def test_standard_output_on_a_full_disk(unbuffered):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fastmlp", "info"], stdout=full, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered}, text=True, check=False,
        )  # fmt: skip
    what = "[Errno 28]" if unbuffered else "cannot write to standard output:"
    said = f"fastmlp: error: {what} No space left on device\n"
    assert (done.returncode, done.stderr) == (2, said)


def test_a_file_larger_than_a_process_may_write(tmp_path):
    resource = pytest.importorskip("resource", reason="this system sets no limits to files")
    (tmp_path / "model").write_bytes(b"what was there before")
    model = MLP([50, 60, 3])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match=f"cannot write {tmp_path / 'model'}: File too large"):
            model.save(tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model").read_bytes() == b"what was there before"
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(MLP.load(tmp_path / "model").params, model.params)
