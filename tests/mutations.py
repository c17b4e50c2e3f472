"""Changes to good files: blind ones, and those that know the inside of a model file.

Every function takes a `random.Random`, from which all of its choices come.
"""

import copy
import hashlib
import json
import struct
from random import Random

import numpy as np

# Where lengths, offsets and counts go wrong.
INTEGERS = (
    *(0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 31, 32, 63, 64, 65, 127, 128, 255, 256, 1000, 4095, 65535),
    *(2**16, 2**20, 2**24, 2**28, 10**9, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**53, 2**61),
    *(2**62 - 1, 2**63 - 1, 2**63, 2**64 - 1, -1, -2, -(2**31), -(2**63)),
)
NAN = float("nan")
VALUES = (
    *(*INTEGERS, 0.5, -0.5, 1e-300, 1e308, NAN, float("inf"), -float("inf"), 10**30, -(10**400)),
    *(None, True, False, "", "x", "relu", "0", "\ud800", "\0", "é" * 50, "float64", "float16"),
    *([], {}, [[]], {"": {}}, [None], [1, [2, [3]]], [1] * 70, {"tensor": "params"}, {"dict": 1}),
)
# What `json.dumps` does not write.
RAW_JSON = (
    *("[" * n + "]" * n for n in (100, 200, 300, 400, 480, 700, 900, 950, 970, 985)),
    *("[" * 3000 + "]" * 3000, '{"a":' * 3000 + "1" + "}" * 3000, "[" * 100_000, "1e999", "-1e999"),
    *("9" * 5000, "0" + ".3" * 2, "1" * 400 + ".5", '"\\ud800"', "01", "+1", "'a'", "tru", "", ","),
    *(
        "{}{}",
        '{"a":1,"a":2}',
        "/**/1",
        "\ufeff1",
        "-",
        "-0",
        "1E5",
        "[1,]",
        '"\\x"',
        '"',
        "Infinity",
    ),
)
MARK = "\x01raw"

SAFETENSORS_TYPES = {
    "BOOL": "|b1", "U8": "|u1", "I8": "|i1", "I16": "<i2", "U16": "<u2", "I32": "<i4",
    "U32": "<u4", "I64": "<i8", "U64": "<u8", "F16": "<f2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip


def random_bytes(random: Random, content: bytes, others: tuple[bytes, ...] = ()) -> bytes:
    """Change a few bytes, or cut, repeat, insert or exchange a piece."""
    changed = bytearray(content)
    for _ in range(min(4, 1 + int(random.expovariate(1)))):
        size = len(changed)
        place = int(random.random() * (size + 1))
        length = min(int(random.expovariate(0.1)) + 1, size)
        what = int(random.random() * 10)
        if what < 2 and place < size:
            changed[place] ^= 1 << int(random.random() * 8)
        elif what == 2 and place < size:
            changed[place] = (0, 255, 127, 128, 10, 13, 32, 34, 44)[int(random.random() * 9)]
        elif what == 3:
            changed[place:place] = random.randbytes(length)
        elif what == 4:
            del changed[place : place + length]
        elif what == 5:
            changed[place:place] = changed[place : place + length] * random.choice((1, 1, 2, 50))
        elif what == 6:
            start = int(random.random() * (size + 1))
            changed[place : place + length] = changed[start : start + length]
        elif what == 7:
            if random.random() < 0.3:
                del changed[place:]
            else:
                del changed[max(0, size - length) :]
        elif what == 8:
            # mostly at the start, where headers are
            if random.random() < 0.5:
                place = min(place, int(random.random() * 40))
            kind = random.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
            width = struct.calcsize(kind)
            number = random.choice(INTEGERS) % 256**width
            changed[place : place + width] = struct.pack(kind, number)
        elif others:
            other = random.choice(others)
            start = int(random.random() * (len(other) + 1))
            changed[place:] = other[start:]
    return bytes(changed)


def json_value(random: Random, value: object) -> object:
    """Return a JSON value with something in it changed, added or missing."""
    path = []  # of a container and the key in it
    inner = value
    while isinstance(inner, dict | list) and inner and (not path or random.random() < 0.8):
        keys = list(inner) if isinstance(inner, dict) else range(len(inner))
        key = random.choice(keys)
        path.append((inner, key))
        inner = inner[key]
    if not path:
        return _another(random)
    container, key = path[-1]
    what = int(random.random() * 10)
    if what < 4:
        container[key] = _near(random, inner)
    elif what < 6:
        container[key] = _another(random)
    elif what == 6:
        container[key] = MARK
    elif what == 7:
        del container[key]
    elif isinstance(container, list):
        container.insert(key, inner if what == 8 else _another(random))
    elif what == 8:
        container[random.choice(list(container))] = inner
    else:
        name = random.choice(
            (key + "x", "", "x", "__metadata__", "params", "weights.0", "moments.0")
        )
        container[name] = random.choice((inner, _another(random)))
    return value


def _another(random: Random) -> object:
    """Return a value of any kind, for itself: it may be changed in turn."""
    return copy.deepcopy(random.choice(VALUES))


def _near(random: Random, value: object) -> object:
    """Return a value of the same kind, or nearly."""
    if isinstance(value, bool):
        return random.choice((not value, int(value), str(value)))
    if isinstance(value, int) and abs(value) < 2**64:
        return random.choice((value + 1, value - 1, -value, value * 2, float(value), str(value)))
    if isinstance(value, float):
        return random.choice((-value, value * 1e30, 0.0, NAN, round(value, 2)))
    if isinstance(value, str):
        return random.choice((value + "x", value[1:], value.upper(), value * 20, [value]))
    if isinstance(value, list):
        return random.choice((value * 2, value[1:], value[::-1], [value], tuple(value[:1])))
    return [value] if random.random() < 0.5 else value


def json_text(random: Random, value: object) -> str:
    """Return JSON for a value that `json_value` gave, now and then with what JSON forbids."""
    text = json.dumps(value)
    if MARK in str(value):
        text = text.replace(json.dumps(MARK), random.choice(RAW_JSON))
    if isinstance(value, dict) and value and random.random() < 0.05:
        name = json.dumps(random.choice(list(value)))
        text = text.replace(f"{name}:", f"{name}: {random.choice(RAW_JSON[13:])}, {name}:", 1)
    return text


def safetensors_file(random: Random, content: bytes, others: tuple[bytes, ...]) -> bytes:
    """Change a model file; in most cases its lengths and its checksum are right again."""
    if random.random() < 0.2:
        return random_bytes(random, content, others)
    header_size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + header_size])
    data = content[8 + header_size :]
    checksum, _, text = header["__metadata__"]["fastmlp"].partition(" ")
    what = random.random()
    if what < 0.6:
        description = json.loads(text)
        for _ in range(random.choice((1, 1, 2))):
            description = json_value(random, description)
        text = json_text(random, description)
    elif what < 0.65:
        text = random_bytes(random, text.encode()).decode("utf-8", "replace")
    elif what < 0.8:
        data = numbers(random, data)
    names = [name for name in header if name != "__metadata__"]
    if 0.8 <= what < 0.9:
        _reshape(random, header[random.choice(names)])
    elif 0.9 <= what < 0.93:
        _rename(random, header, names)
    seal = random.random() < 0.85
    header["__metadata__"]["fastmlp"] = f"{_checksum(text, header, data, checksum, seal)} {text}"
    if what >= 0.93:
        header = json_value(random, header)
    head = json_text(random, header).encode()
    if random.random() < 0.9:
        head += b" " * (-len(head) % 8)
    size = len(head) if random.random() < 0.95 else random.choice(INTEGERS) % 2**64
    return size.to_bytes(8, "little") + head + data


def _reshape(random: Random, entry: dict) -> None:
    """Give a tensor another type, shape or place, often one of as many bytes."""
    what = int(random.random() * 5)
    if what == 0:
        entry["dtype"] = random.choice(("F16", "BF16", "F8_E4M3", "C64", "X", *SAFETENSORS_TYPES))
    elif what == 1:
        entry["shape"] = random.choice((entry["shape"][::-1], [1, *entry["shape"]], [], [0]))
    elif what == 2:
        entry["shape"] = [random.choice(INTEGERS) for _ in range(random.choice((1, 2, 3, 40)))]
    elif what == 3:
        entry["data_offsets"][random.choice((0, 1))] = random.choice(INTEGERS)
    else:
        start, end = entry["data_offsets"]
        kinds = [kind for kind in SAFETENSORS_TYPES if (end - start) % _width(kind) == 0]
        entry["dtype"] = random.choice(kinds)
        entry["shape"] = [(end - start) // _width(entry["dtype"])]


def _width(kind: str) -> int:
    return np.dtype(SAFETENSORS_TYPES[kind]).itemsize


def _rename(random: Random, header: dict, names: list[str]) -> None:
    name = random.choice(names)
    entry = header.pop(name)
    new = random.choice(
        ("moments.1", "weights.9", "params", "array.7", "", "é", name + " ", "x" * 99)
    )
    header[new] = entry


def _checksum(text: str, header: dict, data: bytes, old: str, seal: bool) -> str:
    """Return the checksum that these parts should have, the old one where they cannot have one."""
    if not seal:
        return old
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    try:
        for name in sorted(set(header) - {"__metadata__"}):
            entry = header[name]
            start, end = entry["data_offsets"]
            kind = SAFETENSORS_TYPES[entry["dtype"]]
            digest.update(f"\n{name} {kind} {tuple(entry['shape'])}\n".encode())
            digest.update(data[start:end])
    except (KeyError, TypeError):
        return old
    return digest.hexdigest()


def numbers(random: Random, data: bytes) -> bytes:
    """Overwrite some aligned numbers with special ones."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8))):
        kind = random.choice("fdqi")
        width = struct.calcsize(kind)
        if len(changed) < width:
            break
        place = int(random.random() * (len(changed) // width)) * width
        special = (
            (NAN, float("inf"), -0.0, 3e38, 1e-45, 1.5) if kind in "fd" else (0, -1, 2**31 - 1)
        )
        changed[place : place + width] = struct.pack("<" + kind, random.choice(special))
    return bytes(changed)
