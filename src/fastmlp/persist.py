"""Model files: safetensors with a checksum, written whole or not at all."""

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fastmlp.errors import FileFormatError

__all__ = ["as_text", "check_writable", "load", "not_a_model", "save", "write_atomically"]

VERSION = 1
# The one key of the safetensors metadata. Its value is "<sha256> <JSON>", where the checksum is
# over the JSON as it stands and every tensor; one key, because safetensors keeps no order.
KEY = "fastmlp"
# What safetensors calls NumPy's dtypes, in the order in which it writes tensors.
DTYPES = {
    "u8": "U64", "i8": "I64", "f8": "F64", "f4": "F32", "u4": "U32", "i4": "I32",
    "f2": "F16", "u2": "U16", "i2": "I16", "i1": "I8", "u1": "U8", "b1": "BOOL",
}  # fmt: skip
Path_ = str | os.PathLike[str]


@contextlib.contextmanager
def write_atomically(path: Path_) -> Iterator[BinaryIO]:
    """Open a temporary file that takes the place of `path` when the block ends without error.

    Whatever happens, `path` holds either what it held or all that was written: the temporary
    file lies in the same folder, is flushed to the disk, and then renamed. An OSError says which,
    and names `path`.
    """
    target = check_writable(path)
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    except OSError as error:
        raise _named(error, f"cannot write {path}") from None
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(_mode(target))
        temporary.replace(target)
    except BaseException as error:
        with contextlib.suppress(OSError):  # what went wrong first is what to tell
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and str(error.filename) in ("None", name):
            raise _named(error, f"cannot write {path}") from None
        raise
    try:
        _flush_folder(target.parent)
    except OSError as error:
        what = (
            f"{path} is written, but a loss of power may undo that, as its folder was not flushed"
        )
        raise _named(error, what) from None


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


def _mode(target: Path) -> int:
    """Permission bits for `target`: those it has, or those a new file would get."""
    if target.exists():
        return target.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def save(path: Path_, tensors: Mapping[str, NDArray[Any]], description: dict[str, Any]) -> None:
    """Write `tensors` and `description` (anything JSON can hold) to a safetensors file.

    The file is that of the library, byte for byte, but made without a second copy of the tensors
    in memory: the library ends the program, or worse, where there is no room for one.
    """
    text = as_text(description)
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    header: dict[str, Any] = {"__metadata__": {KEY: f"{_checksum(text, tensors)} {text}"}}
    ordered, start = sorted(tensors, key=lambda name: (_rank(name, tensors[name]), name)), 0
    for name in ordered:
        tensor = tensors[name]
        end = start + tensor.nbytes
        header[name] = {
            "dtype": DTYPES[tensor.dtype.str[1:]],
            "shape": tensor.shape,
            "data_offsets": [start, end],
        }
        start = end
    head = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with write_atomically(path) as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name in ordered:
            tensor = tensors[name]
            file.write(tensor.astype(tensor.dtype.newbyteorder("<"), copy=False).data)


def _rank(name: str, tensor: NDArray[Any]) -> int:
    """Return where tensors of this dtype stand in a file, or raise TypeError."""
    kind = tensor.dtype.str[1:]
    if kind not in DTYPES:
        raise TypeError(f"{name} is {tensor.dtype}, which a safetensors file cannot hold")
    return list(DTYPES).index(kind)


def as_text(description: dict[str, Any]) -> str:
    """Return the JSON that `save` writes, or raise TypeError."""
    try:
        return json.dumps({"version": VERSION, **description}, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"the model's metadata cannot be written as JSON: {error}") from None


def load(path: Path_, kind: str = "model") -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return what `save` has written to `path`, which is to be a "model" or a "checkpoint".

    Raises
    ------
    FileNotFoundError
    FileFormatError
        If the file is not one of ours, is cut short or has been altered.
    """
    import safetensors

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            value = (file.metadata() or {}).get(KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise not_a_model(path, str(error), kind) from None
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise not_a_model(path, f"it holds tensors fastmlp cannot read ({error})", kind) from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        # What the library does for want of memory. It is no Exception, so that few would catch it.
        raise MemoryError(f"no memory for the tensors of {path}") from None
    if value is None:
        raise not_a_model(path, "it is a safetensors file of another program", kind)
    checksum, _, text = value.partition(" ")
    if checksum != _checksum(text, tensors):
        raise not_a_model(
            path, "its checksum does not match, so it has been altered or damaged", kind
        )
    try:
        description = json.loads(text)
        version = description.pop("version")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise not_a_model(path, "it has no description", kind) from None
    if version != VERSION:
        raise not_a_model(
            path, f"it has format version {version}, this fastmlp reads {VERSION}", kind
        )
    if kind == "model" and "trainer" in description:
        raise not_a_model(path, "it is a checkpoint, which SGD.resume or Adam.resume reads")
    if kind == "checkpoint" and "trainer" not in description:
        raise not_a_model(path, "it holds a model but no run to go on with", kind)
    return tensors, description


def not_a_model(path: Path_, reason: str, kind: str = "model") -> FileFormatError:
    """Return the error to raise for a file that is not a model, or not a checkpoint."""
    return FileFormatError(f"{path} is not a fastmlp {kind} that can be read: {reason}")


def _checksum(text: str, tensors: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype.str} {tensor.shape}\n".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()
