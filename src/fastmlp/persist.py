"""Model files: safetensors with a checksum, written whole or not at all.

A file is read as what a stranger may have sent: its header has to account for every byte of it
before memory is taken for a tensor. It is not mapped, so that another program that cuts it short
meanwhile costs an error and not the process.
"""

import contextlib
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from fastmlp.atomic import Path_, writing
from fastmlp.errors import FileFormatError, cut, shown

__all__ = [
    "Stored",
    "as_text",
    "check_description",
    "checksum",
    "load",
    "not_a_model",
    "reading",
    "save",
]

# Version 1 knew of no interrupted epochs in checkpoints.
VERSION, READS = 2, (1, 2)
# The one key of the safetensors metadata. Its value is "<sha256> <JSON>", where the checksum is
# over the JSON as it stands and every tensor; one key, because safetensors keeps no order.
KEY = "fastmlp"
# Of a header: so many bytes, half of that where it is not ASCII, as its characters then take up to
# four each in memory; and so many values in its JSON, each of which costs a hundred bytes.
MOST_BYTES, MOST_VALUES = 2 << 20, 1 << 16
# What has to be left of both before a training, in which counters and offsets get longer.
SPARE_BYTES, SPARE_VALUES = MOST_BYTES >> 6, MOST_VALUES >> 6
# What stands before a value in JSON, and strings, in which that means nothing.
BEFORE_VALUES = re.compile(r'[,\[{]|"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
SURROGATES = re.compile("[\ud800-\udfff]")
# What code raises over contents that are not what it expects.
DAMAGE = (AttributeError, LookupError, TypeError, ValueError, OverflowError, RecursionError)
PART = 1 << 20  # of a tensor, where it is only looked at
MOST_DIMENSIONS, MOST_ELEMENTS = 8, 1 << 48  # of a tensor, dimensions of 0 left out
# NumPy's names of what safetensors holds, in the order in which it writes tensors.
DTYPES = {
    "U64": "<u8", "I64": "<i8", "F64": "<f8", "F32": "<f4", "U32": "<u4", "I32": "<i4",
    "F16": "<f2", "U16": "<u2", "I16": "<i2", "I8": "|i1", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
KINDS = {code[1:]: name for name, code in DTYPES.items()}
Array = NDArray[Any]


def save(path: Path_, tensors: Mapping[str, NDArray[Any]], description: dict[str, Any]) -> None:
    """Write `tensors` and `description` (anything JSON can hold) to a safetensors file.

    The file is that of the library, byte for byte, but made without a second copy of the tensors
    in memory: the library ends the program, or worse, where there is no room for one.
    """
    text = as_text(description)
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    head = _head(path, tensors, text, checksum(text, tensors))
    with writing(path) as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name in _ordered(tensors):
            tensor = tensors[name]
            file.write(tensor.astype(tensor.dtype.newbyteorder("<"), copy=False).data)


def check_description(
    path: Path_, tensors: Mapping[str, NDArray[Any]], description: dict[str, Any]
) -> None:
    """Raise what `save` would raise over a description, now or when a training has ended."""
    _head(path, tensors, as_text(description), "0" * 64, SPARE_BYTES, SPARE_VALUES)


def _head(
    path: Path_,
    tensors: Mapping[str, Array],
    text: str,
    checksum: str,
    spare_bytes: int = 0,
    spare_values: int = 0,
) -> bytes:
    """Return the header of a file, or raise ValueError where it is too large to be read."""
    header: dict[str, Any] = {"__metadata__": {KEY: f"{checksum} {text}"}}
    start = 0
    for name in _ordered(tensors):
        tensor = tensors[name]
        end = start + tensor.nbytes
        header[name] = {
            "dtype": KINDS[tensor.dtype.str[1:]],
            "shape": tensor.shape,
            "data_offsets": [start, end],
        }
        start = end
    written = json.dumps(header, ensure_ascii=False, separators=(",", ":"))
    head = written.encode()
    head += b" " * (-len(head) % 8)
    n_values = _values(written) + _values(text)
    most_bytes, most_values = _most_bytes(head) - spare_bytes, MOST_VALUES - spare_values
    if len(head) > most_bytes or n_values > most_values:
        raise ValueError(
            f"cannot write {path}: the description is too large, {len(head)} bytes with "
            f"{n_values} values, expected at most {most_bytes} and {most_values}"
        )
    try:
        _parsed(text)  # keys that are not text become it, and may then be there twice
    except (ValueError, RecursionError) as error:
        raise TypeError(f"the model's metadata cannot be written as JSON: {error}") from None
    return head


def _ordered(tensors: Mapping[str, Array]) -> list[str]:
    """Return the names of tensors in the order in which they stand in a file."""
    return sorted(tensors, key=lambda name: (_rank(name, tensors[name]), name))


def _rank(name: str, tensor: NDArray[Any]) -> int:
    """Return where tensors of this dtype stand in a file, or raise TypeError."""
    kind = tensor.dtype.str[1:]
    if kind not in KINDS:
        raise TypeError(f"{name} is {tensor.dtype}, which a safetensors file cannot hold")
    return list(KINDS).index(kind)


def as_text(description: dict[str, Any]) -> str:
    """Return the JSON that `save` writes, or raise TypeError."""
    try:
        text = json.dumps({"version": VERSION, **description}, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"the model's metadata cannot be written as JSON: {error}") from None
    # Half a pair, which UTF-8 has no bytes for.
    return SURROGATES.sub(lambda half: f"\\u{ord(half[0]):04x}", text)


class Stored:
    """A file of ours that is being read: its header holds true, its tensors are still to come.

    Attributes
    ----------
    description : dict
        What `save` was given, unless `read` finds that it has been altered.
    shapes : dict of str to (dtype, shape)
        Of the tensors. All of them together are as large as the file says.
    """

    def __init__(self, path: Path_, kind: str, file: BinaryIO) -> None:
        self.path, self.kind = path, kind
        self._file = file
        self._n_values = 0
        header, self._start = self._header()
        metadata = header.pop("__metadata__", None)
        self._places = self._check(header)
        self.shapes = {name: (dtype, shape) for name, (dtype, shape, _) in self._places.items()}
        value = metadata.get(KEY) if isinstance(metadata, dict) else None
        if not isinstance(value, str):
            self.refuse("it is a safetensors file of another program")
        if len(value) > _most_bytes(value):
            self.refuse(f"its description is of {len(value)} characters, not all of them ASCII")
        self._sum, _, self._text = value.partition(" ")
        del header, metadata, value
        try:
            self.description = self._parsed(self._text)
            version = self.description.pop("version")
        except FileFormatError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            self.refuse("it has no description")
        if version not in READS or isinstance(version, bool):
            self.refuse(f"it has format version {cut(str(version))}, this fastmlp reads {READS}")

    def refuse(self, reason: str) -> NoReturn:
        """Raise the error that says why this file is not read."""
        raise not_a_model(self.path, reason, self.kind)

    def read(self, into: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """Return all tensors, those that `into` has room for read into it, or refuse the file."""
        digest, tensors = self._digest(), {}
        for name in sorted(self._places):
            tensors[name] = self.take(name, (into or {}).get(name))
            _add(digest, name, tensors[name])
        self._compare(digest)
        return tensors

    def verify(self) -> None:
        """Refuse the file unless its checksum is right, without memory for its tensors."""
        digest = self._digest()
        for name, (dtype, shape, place) in sorted(self._places.items()):
            digest.update(_label(name, dtype, shape))
            left = math.prod(shape) * dtype.itemsize
            self._file.seek(self._start + place)
            while left:
                part = self._file.read(min(left, PART))
                if not part:
                    self.refuse("it has become shorter")
                digest.update(part)
                left -= len(part)
        self._compare(digest)

    def take(self, name: str, into: Array | None = None) -> Array:
        """Return a tensor, read into an array if one is given; each can be taken once."""
        dtype, shape, place = self._places.pop(name)
        tensor = np.empty(shape, dtype) if into is None else into
        if (tensor.dtype, tensor.shape) != (dtype, shape):
            self.refuse(
                f"{cut(name)} is {dtype} of shape {shape}, expected {tensor.dtype} of shape "
                f"{tensor.shape}"
            )
        octets = tensor.reshape(-1).view(np.uint8)
        self._file.seek(self._start + place)
        if octets.size and self._file.readinto(octets.data) != octets.size:  # type: ignore[attr-defined]
            self.refuse("it has become shorter")
        if dtype == np.bool_ and (octets > 1).any():
            self.refuse(f"{cut(name)} holds bytes that are neither true nor false")
        return tensor

    def _digest(self) -> Any:
        return hashlib.sha256(self._text.encode("utf-8", "surrogatepass"))

    def _compare(self, digest: Any) -> None:
        if self._sum != digest.hexdigest():
            self.refuse("its checksum does not match, so it has been altered or damaged")

    def _header(self) -> tuple[dict[str, Any], int]:
        """Return the header, and where the tensors begin."""
        first = self._file.read(8)
        size, whole = int.from_bytes(first, "little"), os.fstat(self._file.fileno()).st_size
        if len(first) < 8 or size > whole - 8:
            self.refuse(f"it is no safetensors file, or its {whole} bytes are not all of it")
        head = self._file.read(size) if size <= MOST_BYTES else b""
        if size > _most_bytes(head):
            most = _most_bytes(head)
            self.refuse(f"its header is of {size} bytes, expected at most {most}")
        try:
            text = head.decode()
            del head
            header = self._parsed(text)
        except FileFormatError:
            raise
        except (ValueError, RecursionError) as error:
            self.refuse(f"its header is not valid ({error})")
        if not isinstance(header, dict):
            self.refuse("its header is not a JSON object")
        self._data = whole - 8 - size
        return header, 8 + size

    def _parsed(self, text: str) -> Any:
        """Return what JSON says, unless it would take too much memory."""
        self._n_values += _values(text)
        if self._n_values > MOST_VALUES:
            self.refuse(f"its header holds more than {MOST_VALUES} values")
        return _parsed(text)

    def _check(self, header: dict[str, Any]) -> dict[str, tuple[np.dtype[Any], Any, int]]:
        """Return dtype, shape and place of every tensor; together they take all that is left."""
        places, spans = {}, []
        for name, entry in header.items():
            if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
                self.refuse(f"the entry of {shown(name)} in its header is not valid")
            dtype, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
            if not isinstance(dtype, str) or dtype not in DTYPES:
                self.refuse(
                    f"it holds tensors fastmlp cannot read ({shown(name)} is {cut(repr(dtype))})"
                )
            if not (_sizes(shape) and _sizes(span) and len(span) == 2) or (
                len(shape) > MOST_DIMENSIONS
            ):
                self.refuse(f"the sizes of {shown(name)} in its header are not valid")
            n_bytes = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
            if span[1] - span[0] != n_bytes or math.prod(n or 1 for n in shape) > MOST_ELEMENTS:
                self.refuse(
                    f"{shown(name)} of shape {cut(str(shape))} is not the "
                    f"{cut(str(span[1] - span[0]))} bytes said"
                )
            places[name] = (np.dtype(DTYPES[dtype]), tuple(shape), span[0])
            spans.append(span)
        end = 0
        for span in sorted(spans):
            if span[0] != end:
                self.refuse("its tensors overlap or leave bytes unused")
            end = span[1]
        if end != self._data:
            self.refuse(f"its header accounts for {end} of the {self._data} bytes that follow it")
        return places


@contextlib.contextmanager
def reading(path: Path_, kind: str = "model") -> Iterator[Stored]:
    """Open a file that `save` has written, which is to be a "model" or a "checkpoint".

    What the block raises over its contents becomes a FileFormatError.

    Raises
    ------
    OSError
        FileNotFoundError and IsADirectoryError among them.
    FileFormatError
        The file is not one of ours, is cut short or has been altered.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, expected a file")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with path.open("rb") as file:
        stored = Stored(path, kind, file)
        if kind == "model" and "trainer" in stored.description:
            stored.refuse("it is a checkpoint, which SGD.resume or Adam.resume reads")
        if kind == "checkpoint" and "trainer" not in stored.description:
            stored.refuse("it holds a model but no run to go on with")
        try:
            yield stored
        except FileFormatError:
            raise
        except KeyError as error:
            stored.refuse(f"it lacks {cut(str(error))}")
        except DAMAGE as error:
            stored.refuse(cut(str(error), 200))


def load(path: Path_, kind: str = "model") -> tuple[dict[str, Array], dict[str, Any]]:
    """Return tensors and description of a file, as `reading` takes it."""
    with reading(path, kind) as stored:
        return stored.read(), stored.description


def not_a_model(path: Path_, reason: str, kind: str = "model") -> FileFormatError:
    """Return the error to raise for a file that is not a model, or not a checkpoint."""
    return FileFormatError(f"{path} is not a fastmlp {kind} that can be read: {reason}")


def _most_bytes(text: str | bytes) -> int:
    """Return how long a header, or the description in it, may be."""
    return MOST_BYTES if text.isascii() else MOST_BYTES // 2


def _values(text: str) -> int:
    """Return a number that the values in a JSON text cannot exceed."""
    return 1 + sum(found[0][0] != '"' for found in BEFORE_VALUES.finditer(text))


def _parsed(text: str) -> Any:
    """Return what JSON says, where every key is there once and every number is finite."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        held = dict(pairs)
        if len(held) < len(pairs):
            for name, _ in pairs:  # each is taken out once
                if held.pop(name, held) is held:
                    raise ValueError(f"a key is repeated: {shown(name)}")
        return held

    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"{cut(text)} is no number that a file of ours holds")
        return value

    return json.loads(text, object_pairs_hook=unique, parse_float=number, parse_constant=number)


def _sizes(numbers: Any) -> bool:
    return isinstance(numbers, list) and all(type(n) is int and n >= 0 for n in numbers)


def checksum(text: str, tensors: Mapping[str, Array]) -> str:
    """Return a SHA-256 of a text and of contiguous tensors, with their names."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        _add(digest, name, tensors[name])
    return digest.hexdigest()


def _label(name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    return f"\n{name} {dtype.str} {shape}\n".encode()


def _add(digest: Any, name: str, tensor: Array) -> None:
    digest.update(_label(name, tensor.dtype, tensor.shape))
    digest.update(tensor.reshape(-1).view(np.uint8).data)
