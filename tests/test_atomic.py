"""Files written whole or not at all, whatever happens on the way."""

import contextlib
import gc
import os
import stat
import sys
import tempfile
from pathlib import Path

import pytest

from fastmlp import MLP, atomic

OLD = b"what was there before"


def content(folder):
    """Return the names and bytes of all that lies in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def old(tmp_path):
    """A file that holds OLD, alone in its folder."""
    (tmp_path / "old").write_bytes(OLD)
    return tmp_path / "old"


def fail(*arguments, **named):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, MemoryError])
def test_failing_while_writing(error, old):
    with pytest.raises(error), atomic.writing(old) as file:
        file.write(b"half of the new")
        file.flush()
        raise error
    assert content(old.parent) == {"old": OLD}


@pytest.mark.parametrize(("owner", "name"), [(os, "fsync"), (Path, "replace"), (Path, "chmod")])
def test_failing_system_calls(owner, name, old, monkeypatch):
    monkeypatch.setattr(owner, name, fail)
    with pytest.raises(OSError, match="No space left"), atomic.writing(old) as file:
        file.write(b"new")
    assert content(old.parent) == {"old": OLD}
    if name == "chmod":  # a new file is made with its permissions
        return
    with pytest.raises(OSError, match="No space left"):
        MLP([2, 2]).save(old.parent / "new")
    assert content(old.parent) == {"old": OLD}


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("name", ["old", "new"])
def test_an_interrupt_at_every_instruction(name, old):
    """Ctrl-C leaves the old file or the new one, nothing beside it, and no file open.

    A descriptor of the folder may stay open: it is a number, which no object closes as it goes.
    """
    target, n, last = old.with_name(name), 0, False
    modules = {atomic.__file__, contextlib.__file__, tempfile.__file__}

    def trace(frame, event, argument):
        nonlocal left
        if frame.f_code.co_filename not in modules:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
        return trace

    while not last:
        old.write_bytes(OLD)
        old.with_name("new").unlink(missing_ok=True)
        left, interrupted = n, False
        sys.settrace(trace)
        try:
            with atomic.writing(target) as file:
                file.write(b"new")
        except KeyboardInterrupt:
            interrupted = True
        finally:
            sys.settrace(None)
            file = None
        last = left >= 0
        assert interrupted is not last
        if open_files(old.parent):
            gc.collect()  # as a cycle through the traceback may hold one for a while
        assert open_files(old.parent) == [], n
        assert content(old.parent) in ({"old": OLD}, {"old": OLD, name: b"new"}), n
        n += 1
    assert n > 100 and content(old.parent)[name] == b"new"


def open_files(folder):
    """Return the files in a folder that this process has open, where the system says."""
    links = Path("/proc/self/fd").glob("*")
    return [path for link in links if (path := os.path.realpath(link)).startswith(f"{folder}/")]


def test_a_name_as_long_as_may_be(tmp_path):
    for name in ("m" * 255, "é" * 127, "🎈" * 63):
        MLP([2, 2]).save(tmp_path / name)
        MLP.load(tmp_path / name)
        assert list(content(tmp_path)) == [name]
        (tmp_path / name).unlink()


def test_the_old_file_stays_until_the_end(old):
    with atomic.writing(old) as file:
        file.write(b"new")
        file.flush()
        assert old.read_bytes() == OLD
    assert content(old.parent) == {"old": b"new"}


def test_a_link_is_followed(old):
    link = old.with_name("link")
    link.symlink_to("old")
    MLP([2, 2]).save(link)
    assert link.is_symlink() and not old.is_symlink()
    assert repr(MLP.load(old)) == repr(MLP([2, 2])) == repr(MLP.load(link))
    assert sorted(content(old.parent)) == ["link", "old"]


@pytest.mark.skipif(os.name != "posix", reason="permission bits are those of POSIX")
def test_permissions(old, monkeypatch):
    for mode in 0o600, 0o640, 0o755:
        old.chmod(mode)
        with atomic.writing(old) as file:
            assert {path.stat().st_mode & 0o077 for path in old.parent.glob(".*.tmp")} == {0}
            file.write(b"new")
        assert stat.S_IMODE(old.stat().st_mode) == mode
    mask = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:  # others would make files by it meanwhile
            patch.setattr(os, "umask", fail)
            MLP([2, 2]).save(old.with_name("new"))
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(mask)
    assert stat.S_IMODE(old.with_name("new").stat().st_mode) == 0o640


def test_places_that_cannot_be_written(tmp_path):
    model = MLP([2, 2])
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*gone"):
        model.save(tmp_path / "gone" / "m")
    with pytest.raises(IsADirectoryError, match="it is a folder"):
        model.save(tmp_path)
    (tmp_path / "file").write_bytes(OLD)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*file"):
        model.save(tmp_path / "file" / "m")
    assert content(tmp_path) == {"file": OLD}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_is_no_regular_file_is_not_replaced(tmp_path):
    """Renaming over /dev/null would be a bad surprise."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="it is not a regular file"):
        MLP([2, 2]).save(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo() and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("read_only", ["file", "folder"])
def test_read_only(read_only, old):
    place = old if read_only == "file" else old.parent
    mode = place.stat().st_mode
    place.chmod(mode & ~0o222)
    try:
        if os.access(place, os.W_OK):
            pytest.skip("this user may write everywhere (root)")
        with pytest.raises(PermissionError, match=f"cannot write {old}: permission denied"):
            MLP([2, 2]).save(old)
    finally:
        place.chmod(mode)
    assert content(old.parent) == {"old": OLD}
