"""Mutated files for every reader: a few here, two million each with --long. `fuzz.py` has more."""

import subprocess
import sys
import time
from pathlib import Path

import fuzz
import numpy as np
import pytest
from fuzztargets import TARGETS, Refused

from fastmlp import MLP, FileFormatError, data, modelfile, persist

FILES = 3_000
FILES_LONG = 2_000_000


@pytest.mark.filterwarnings("ignore")  # what NumPy says of numbers that overflow
@pytest.mark.parametrize("reader", TARGETS)
def test_mutated_files(reader, tmp_path, long):
    if long:
        program = [sys.executable, Path(fuzz.__file__), reader, "--files", str(FILES_LONG)]
        done = subprocess.run(program, stdout=subprocess.PIPE, text=True)
        print(done.stdout, end="")
        assert done.returncode == 0, done.stdout
        return
    with fuzz.in_memory() as folder:
        found = fuzz.fuzz(reader, Path(folder), tmp_path / "found", seed=1, first=0, files=FILES)
    kept = [path.read_text() for path in (tmp_path / "found").rglob("*.txt")]
    assert not kept, f"{found}\n{kept[0]}"
    assert found.files == found.accepted + found.refused == FILES
    # mutations reach what lies behind the checks, and do change something
    assert found.accepted > FILES / 50 and found.refused > FILES / 5
    assert found.most_memory < fuzz.ALLOWANCE


@pytest.mark.parametrize("reader", TARGETS)
def test_files_depend_on_seed_and_number_alone(reader, tmp_path):
    (tmp_path / "again").mkdir()
    one, again = (fuzz.target(reader, folder) for folder in (tmp_path, tmp_path / "again"))
    for number in range(20):
        assert fuzz.content(one, 3, number)[1] == fuzz.content(again, 3, number)[1]
    assert {fuzz.content(one, 3, i)[1] for i in range(9)} != {
        fuzz.content(one, 4, i)[1] for i in range(9)
    }


def seen(tmp_path, read, **options):
    """Return what is counted where a reader does this."""
    good = fuzz.Seed(b"x", read)
    tally = fuzz.Tally()
    (tmp_path / "file").write_bytes(b"x")
    before = fuzz.signal.signal(fuzz.signal.SIGALRM, fuzz._alarm)
    try:
        fuzz._one(good, tmp_path / "file", b"x", 1, tally, tmp_path / "found", **options)
    finally:
        fuzz.signal.signal(fuzz.signal.SIGALRM, before)
    return {name: n for name, n in vars(tally).items() if n and name not in ("files", "slowest")}


def refuse_for_want_of_memory(path):
    try:
        try:
            raise MemoryError
        except Exception:
            raise FileFormatError("x") from None
    except FileFormatError as error:
        raise Refused from error


def test_findings_are_found(tmp_path, monkeypatch):
    """The program sees what it is to see."""
    assert seen(tmp_path, lambda path: None, limit=False) == {"accepted": 1}
    assert not (tmp_path / "found").exists()
    assert seen(tmp_path, lambda path: 1 / 0, limit=False) == {"crashes": 1}
    assert "ZeroDivisionError" in (tmp_path / "found" / "crashes-1.txt").read_text()
    assert seen(tmp_path, refuse_for_want_of_memory, limit=False) == {"memory": 1}
    if sys.platform == "linux":
        assert seen(tmp_path, lambda path: np.empty(2**27, np.uint8), limit=True) == {"memory": 1}
        assert seen(tmp_path, lambda path: np.empty(2**23, np.uint8), limit=True) == {"accepted": 1}
    monkeypatch.setattr(fuzz, "SECONDS", 0.05)
    assert seen(tmp_path, lambda path: time.sleep(9), limit=False) == {"hangs": 1}
    monkeypatch.setattr(fuzz, "MEASURED", 1)
    found = seen(tmp_path, lambda path: np.ones(2**22), limit=False)
    assert found == {"memory": 1, "most_memory": found["most_memory"]}
    assert found["most_memory"] >= 2**25 - 1


@pytest.mark.parametrize(
    "sizes", [[2**62, "x", 2], [2**70, [1], 2], [2**40, "x", 2], "ab", [2, 2.0]]
)
def test_sizes_that_are_no_numbers(sizes, tmp_path):
    """A text times a number is a text so many times as long."""
    tensors, description = modelfile.parts(MLP([2, 2]))
    persist.save(tmp_path / "m", tensors, description | {"sizes": sizes})
    with pytest.raises(FileFormatError, match=r"sizes\[\d\] is .*, expected an integer"):
        MLP.load(tmp_path / "m")


def test_many_columns_take_no_time(tmp_path):
    """What looks every name up among all others takes minutes."""
    names = [f"c{i}" for i in range(60_000)]
    path = tmp_path / "t.csv"
    path.write_text(",".join(names) + "\n" + "1," * (len(names) - 1) + "1\n")
    started = time.process_time()
    table = data.read_csv(path, columns=names[::-1])
    cells = data.read_cells(path, ignore=names[1:])
    path.write_text(",".join(names + names[:1]) + "\n")
    with pytest.raises(FileFormatError, match="line 1: repeats the column 'c0'"):
        data.read_csv(path)
    assert table.names == names[::-1] and table.X.shape == (1, 60_000)
    assert list(cells.columns) == ["c0"]
    assert time.process_time() - started < 5


def test_an_archive_that_does_not_begin_as_one(tmp_path):
    """The zipfile module finds the members from the end; NumPy takes it for a pickle."""
    path = tmp_path / "f.npz"
    np.savez(path, X=np.ones((2, 2)))
    assert data.read_npz(path)[0].shape == (2, 2)
    path.write_bytes(b"PK\3" + path.read_bytes())
    with pytest.raises(FileFormatError, match="is not a NumPy file: it starts with 50 4b 03 50"):
        data.read_npz(path)


def test_more_dimensions_than_there_are(tmp_path):
    """Their sizes are not repeated in the message, nor multiplied."""
    path = tmp_path / "f.idx"
    path.write_bytes(b"\0\0\x08\xff" + b"\xff" * 1020)
    with pytest.raises(FileFormatError, match="255 dimensions, expected at most 64") as caught:
        data.read_idx(path)
    assert len(str(caught.value)) < len(str(path)) + 80
