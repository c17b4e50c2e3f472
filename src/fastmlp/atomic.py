"""Files written whole or not at all."""

import contextlib
import errno
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["Path_", "check_apart", "check_writable", "stamp", "writing"]

Path_ = str | os.PathLike[str]


@contextlib.contextmanager
def writing(path: Path_) -> Iterator[BinaryIO]:
    """Open a temporary file that takes the place of `path` when the block ends without error.

    Whatever happens, `path` holds either what it held or all that was written: the temporary
    file lies in the same folder, is flushed to the disk, and then renamed. An OSError says which,
    and names `path`.
    """
    target = check_writable(path)
    mode = target.stat().st_mode & 0o777 if target.exists() else None
    temporary = _unused_name(target)
    # Where an old file gives the permissions, nobody else may read the new one before it has them.
    # What opens is not Python, where Ctrl-C could come between the descriptor and the file.
    opener = functools.partial(os.open, mode=0o666 if mode is None else 0o600)
    try:
        with open(temporary, "xb", opener=opener) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            temporary.chmod(mode)
        temporary.replace(target)
    except BaseException as error:
        with contextlib.suppress(OSError):  # what went wrong first is what to tell
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and str(error.filename) in ("None", str(temporary)):
            raise _named(error, f"cannot write {path}") from None
        raise
    try:
        _flush_folder(target.parent)
    except OSError as error:
        what = (
            f"{path} is written, but a loss of power may undo that, as its folder was not flushed"
        )
        raise _named(error, what) from None


def _unused_name(target: Path) -> Path:
    """Return a hidden file beside `target` that is not there."""
    # The beginning of its name, for a name may be of 255 bytes and no more.
    name = target.name.encode("utf-8", "ignore")[:100].decode("utf-8", "ignore")
    while True:
        unused = target.with_name(f".{name}.{os.urandom(8).hex()}.tmp")
        if not os.path.lexists(unused):
            return unused


def _named(error: OSError, what: str) -> OSError:
    """Return an error to raise instead of one that names the temporary file, or none."""
    named = type(error)(f"{what}: {error.strerror or error}")
    named.errno = error.errno
    return named


def _flush_folder(folder: Path) -> None:
    """Make a rename last, where the system has a way to."""
    if os.name != "posix":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder that may be written, but not read
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # of file systems that need it not
            raise
    finally:
        os.close(handle)


def stamp(path: Path_) -> tuple[int, int] | None:
    """Return what changes when a file is written; None where there is no file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def check_apart(read: dict[str, Path_ | None], written: dict[str, Path_ | None]) -> None:
    """Raise ValueError where two options name one file of which at least one is written.

    Both map the names of options to their paths, None where one is not given. OSError where
    something that is to be written cannot be.
    """
    places: dict[str, tuple[str, Path_]] = {}
    for option, path in read.items():
        if path is not None and os.path.exists(path):
            places[os.path.realpath(path)] = option, path
    for option, path in written.items():
        if path is not None:
            other, named = places.setdefault(str(check_writable(path)), (option, path))
            if other != option:
                raise ValueError(f"{other} and {option} both name {named}")


def check_writable(path: Path_) -> Path:
    """Return the file that writing to `path` would replace, links followed, or raise OSError."""
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {target.parent}")
    if target.exists() and not target.is_file():
        raise OSError(f"cannot write {path}: it is not a regular file")
    if not all(os.access(place, os.W_OK) for place in (target, target.parent) if place.exists()):
        raise PermissionError(f"cannot write {path}: permission denied")
    return target
