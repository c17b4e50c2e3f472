"""Arrays in files: NPY and NPZ, which NumPy writes, and IDX, in which MNIST comes.

Nothing in a file is believed before it is checked. What a header promises is held against the
bytes that are there, and while compressed data comes out, memory grows with it. So no reader takes
more memory than the array that it returns and 16 MB.
"""

import contextlib
import gzip
import io
import math
import os
import re
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.errors import FileFormatError, cut, listed, shown

__all__ = ["existing", "read_idx", "read_npy", "read_npz"]

Array = NDArray[Any]
PathLike = str | os.PathLike[str]
Stream = IO[bytes] | gzip.GzipFile

# Type codes of the IDX format, as http://yann.lecun.com/exdb/mnist/ gives them; big-endian.
IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: "i2", 0x0C: "i4", 0x0D: "f4", 0x0E: "f8"}

NPY_MAGIC = b"\x93NUMPY"
ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")  # of an archive, and of an empty one
SIZE = r"(?:0|[1-9]\d{0,17})"
# The parts of a NPY header, a dict of Python written out, in any order.
NPY_PARTS = (
    re.compile(r"'descr': *'([<>|=]?)([biufcSU])([1-9]\d{0,8})'"),
    re.compile(r"'fortran_order': *(True|False)"),
    re.compile(rf"'shape': *\(((?:(?:{SIZE}, *)+(?:{SIZE})?)?)\)"),
)
NPY_DICT = re.compile(r"\{ *@, *@, *@,? *\} *\n?")  # with its parts left out
LONGEST_HEADER = 10_000  # of a NPY file, in bytes: NumPy's own limit
MOST_DIMENSIONS = 64  # NumPy's own limit too, which was 32 before its version 2
LARGEST_READ = 2**18  # of an archive: bounds the memory that its list of members takes

CHUNK = 2**18  # what is decompressed at a time
STEP = 2**23  # what an array grows by while its bytes come in


def read_npz(path: PathLike) -> tuple[Array, Array | None]:
    """Read X and, if there is one, y from a NumPy archive.

    Raises
    ------
    FileNotFoundError
    FileFormatError
        Not an archive, damaged, without an array named X, or holding other things than numbers
        and text; Python objects are never loaded.
    """
    import zipfile

    path = existing(path)
    with _Sparing(path) as file, _named(path):
        if _start(path, file) == NPY_MAGIC:
            raise FileFormatError(f"{path} is one array, not an archive; name it .npy")
        archive = zipfile.ZipFile(file)
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        if "X" not in members:
            held = listed(list(members)) or "nothing"
            raise FileFormatError(f"{path} has no array named X; it holds {held}")
        if len(members) < len(archive.infolist()):
            raise ValueError("it names a member twice")
        arrays: list[Array | None] = [None, None]
        for i, name in enumerate("Xy"):
            if name in members:
                member = members[name]
                # NumPy writes no other; those may take gigabytes for a window of the past.
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise ValueError(f"{name} is compressed in a way that NumPy does not write")
                with archive.open(member) as stream:
                    arrays[i] = _npy(stream, member.file_size)
        X, y = arrays
        assert X is not None
        return X, y


def read_npy(path: PathLike) -> Array:
    """Read one array from a NumPy file.

    Raises
    ------
    FileNotFoundError
    FileFormatError
        Not an array, fewer or more bytes than its header promises, or other things than numbers
        and text; Python objects are never loaded.
    """
    path = existing(path)
    with path.open("rb") as file, _named(path):
        if _start(path, file) != NPY_MAGIC:
            raise FileFormatError(f"{path} is an archive of arrays, not one; name it .npz")
        return _npy(file, os.fstat(file.fileno()).st_size)


class _Sparing(io.BufferedReader):
    """A file that takes no memory for a large read, which an archive may ask for by mistake."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.open("rb", buffering=0))

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > LARGEST_READ:
            raise ValueError(f"its list of members is longer than {LARGEST_READ} bytes")
        return super().read(size)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn what is raised over damage into a FileFormatError that names the file."""
    try:
        yield
    except (FileFormatError, MemoryError):
        raise
    except Exception as error:  # zipfile and zlib have a dozen kinds
        reason = cut(str(error), 300)  # zipfile may show half of the file
        raise FileFormatError(f"{path} cannot be read as NumPy data: {reason}") from None


def _start(path: Path, file: Stream) -> bytes:
    """Return the first bytes of a NumPy file, or raise if it is something else."""
    start = file.read(6)
    if start != NPY_MAGIC and start[:4] not in ZIP_MAGICS:
        raise FileFormatError(f"{path} is not a NumPy file: {_starts_with(start)}")
    file.seek(0)
    return start


def _npy(stream: Stream, size: int) -> Array:
    """Return the array of a NPY stream, which is said to have `size` bytes."""
    start = stream.read(8)
    width = {b"\1\0": 2, b"\2\0": 4, b"\3\0": 4}.get(start[6:])  # of the length
    if start[:6] != NPY_MAGIC or width is None:
        raise ValueError("it does not start as an array of format 1, 2 or 3 does")
    length = int.from_bytes(stream.read(width), "little")
    if length > LONGEST_HEADER:
        raise ValueError(f"its header has {length} bytes, more than {LONGEST_HEADER}")
    text = stream.read(length).decode("latin-1")
    dtype, shape, is_fortran = _npy_header(text)
    n_bytes = math.prod(shape) * dtype.itemsize
    expected = 8 + width + length + n_bytes
    if size != expected:
        raise ValueError(
            f"its header promises {_product(shape)} values, {expected} bytes in all, and it has "
            f"{size}"
        )
    array = _taken(stream, n_bytes).view(dtype)
    _check_values(array)
    return array.reshape(shape[::-1]).T if is_fortran else array.reshape(shape)


def _npy_header(text: str) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    """Return what the header of a NPY file says: type, shape, and whether columns come first."""
    rest, found = text, []
    for part in NPY_PARTS:
        match = part.search(rest)
        if match is None:
            break
        found.append(match.groups())
        rest = f"{rest[: match.start()]}@{rest[match.end() :]}"
    if len(found) < len(NPY_PARTS) or not NPY_DICT.fullmatch(rest):
        if "'|O'" in text:
            raise ValueError("Object arrays cannot be loaded: they are programs as much as data")
        raise ValueError(
            f"its header is {shown(text)}, expected the type, order and shape of numbers or text"
        )
    (order, kind, width), (is_fortran,), (sizes,) = found
    shape = tuple(int(size) for size in sizes.split(",") if size.strip())
    if len(shape) > MOST_DIMENSIONS:
        raise ValueError(f"it has {len(shape)} dimensions, more than {MOST_DIMENSIONS}")
    return np.dtype(f"{order}{kind}{width}"), shape, is_fortran == "True"


def _check_values(array: Array) -> None:
    """Raise if there are bytes which their type does not allow."""
    if array.dtype.kind == "b" and array.view(np.uint8).max(initial=0) > 1:
        raise ValueError("a truth value in it is neither 0 nor 1")
    if array.dtype.kind == "U":
        codes = array.view(array.dtype.byteorder.replace("|", "=") + "u4")
        for start in range(0, codes.size, CHUNK):  # a surrogate is no character either
            codes[start : start + CHUNK].astype("<u4").tobytes().decode("utf-32-le")


def _taken(stream: Stream, n_bytes: int) -> NDArray[np.uint8]:
    """Return the next bytes of a stream; memory is taken only as they come."""
    held = np.empty(min(n_bytes, STEP), np.uint8)
    done = 0
    while done < n_bytes:
        chunk = stream.read(min(CHUNK, n_bytes - done))
        if not chunk:
            raise ValueError(f"it ends {n_bytes - done} bytes before it should")
        if done + len(chunk) > held.size:
            held.resize(min(n_bytes, held.size + STEP), refcheck=False)
        held[done : done + len(chunk)] = np.frombuffer(chunk, np.uint8)
        done += len(chunk)
    return held


def read_idx(path: PathLike) -> Array:
    """Read an array in the IDX format, in which MNIST comes, plain or compressed (.gz).

    Returns
    -------
    ndarray of the shape and type the file states, in this machine's byte order

    Raises
    ------
    FileNotFoundError
    FileFormatError
        Wrong magic number, or more or fewer bytes than the header promises.
    """
    path = existing(path)
    with path.open("rb") as file:
        is_packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not is_packed:
            return _idx(path, file, os.fstat(file.fileno()).st_size)
        try:
            with gzip.GzipFile(fileobj=file) as stream:
                return _idx(path, stream, None)
        except (EOFError, OSError, zlib.error) as error:
            raise FileFormatError(f"{path} is damaged: {error}") from None


def _idx(path: Path, stream: Stream, size: int | None) -> Array:
    """Return the array of an IDX stream; its `size` in bytes is not known if it is packed."""
    start = stream.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in IDX_TYPES or start[3] == 0:
        raise FileFormatError(f"{path} is not an IDX file: {_starts_with(start)}")
    dtype, n_dims = np.dtype(IDX_TYPES[start[2]]), start[3]
    if n_dims > MOST_DIMENSIONS:
        raise FileFormatError(
            f"{path}: its array has {n_dims} dimensions, expected at most {MOST_DIMENSIONS}"
        )
    sizes = stream.read(4 * n_dims)
    begin = 4 + 4 * n_dims
    if len(sizes) < 4 * n_dims:
        raise FileFormatError(f"{path} is cut short: its header of {begin} bytes is incomplete")
    shape = struct.unpack(f">{n_dims}I", sizes)
    n_bytes = math.prod(shape) * dtype.itemsize
    promised = f"its header promises {_product(shape)} values, {begin + n_bytes} bytes in all"
    if size is not None and size != begin + n_bytes:
        problem = "is cut short" if size < begin + n_bytes else "is too long"
        raise FileFormatError(f"{path} {problem}: {promised}, and it has {size}")
    try:
        array = _taken(stream, n_bytes).view(dtype)
    except ValueError as error:
        raise FileFormatError(f"{path} is cut short: {promised}, and {error}") from None
    if stream.read(1):
        raise FileFormatError(f"{path} is too long: {promised}, and it has more")
    if sys.byteorder == "little":
        array.byteswap(inplace=True)
    try:
        return array.reshape(shape)
    except ValueError as error:  # 0 times too much
        raise FileFormatError(f"{path}: {error}") from None


def _product(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "1"


def _starts_with(data: bytes) -> str:
    return f"it starts with {data.hex(' ')}" if data else "it is empty"


def existing(path: PathLike) -> Path:
    """Return the path of a file, or raise if there is none."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.is_dir():
        raise FileFormatError(f"{path} is a folder, expected a file")
    return path
