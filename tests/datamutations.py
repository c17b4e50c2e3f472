"""Changes to files of data that know what lies where in them.

Every function takes a `random.Random`, from which all of its choices come.
"""

import gzip
import struct
import zlib
from random import Random

from mutations import INTEGERS, numbers, random_bytes

# Shapes, types and orders as they stand in the header of a NPY file.
NPY_TYPES = (
    *("'<f4'", "'<f8'", "'>f8'", "'|u1'", "'<i8'", "'>i2'", "'|b1'", "'<U3'", "'|S5'", "'<c16'"),
    *("'|O'", "'<U0'", "'<U500000000'", "'|V2000000000'", "'<M8[ns]'", "'<f2'", "'<f16'", "'<f3'"),
    *("[('a', '<f4'), ('b', '<i2')]", "[('a', '<f4', (1000000000,))]", "'f4,f4'", "'(2,)f4'", "{}"),
    *("'|S0'", "'<u4'", "'float64'", "'<f999999999'", "('<f4', (2,))", "None", "'\\x00'", "'='"),
)
NPY_SIZES = ("0", "1", "2", "3", "6", "12", "-1", "10**9", "1000000000", "4294967296", "True", "2L",
             "9223372036854775807", "18446744073709551616", "1.0", "None", "'3'", "")  # fmt: skip


def npy_file(random: Random, content: bytes, others: tuple[bytes, ...] = ()) -> bytes:
    """Change an array in NumPy's format 1."""
    if random.random() < 0.3:
        return random_bytes(random, content, others)
    start = 10 + int.from_bytes(content[8:10], "little")
    header, data = content[10:start].decode("latin-1"), content[start:]
    what = int(random.random() * 8)
    if what == 0:
        header = header.replace(header[header.index(":") + 2 : header.index(", 'f")],
                                random.choice(NPY_TYPES))  # fmt: skip
    elif what == 1:
        sizes = [random.choice(NPY_SIZES) for _ in range(random.choice((0, 1, 1, 2, 2, 3, 33, 65)))]
        before, _, rest = header.partition("(")
        header = (
            before + "(" + ", ".join(sizes) + random.choice((",", "")) + ")" + rest.split(")")[-1]
        )
    elif what == 2:
        header = header.replace("False", random.choice(("True", "None", "0", "[]", "false")))
    elif what == 3:
        header = random_bytes(random, header.encode("latin-1")).decode("latin-1")
    elif what == 4:
        header = random.choice((
            "(" * 9000, "-" * 9000, "{" * 300, "'" * 9999, header * 2, header.strip(), "1" * 9999,
            header + " " * random.choice((1, 100, 9900, 60_000)), header.replace("'", '"'),
            header.replace("}", "'x': 1}"), header.replace("'shape'", "'descr'"), "", "{}",
            "{'shape': (3, 2), 'fortran_order': False, 'descr': '<f4'}",
        ))  # fmt: skip
    elif what == 5:
        data = numbers(random, data)
    elif what == 6:
        data = random_bytes(random, data)
    version, kind = random.choice(
        ((1, "<H"), (1, "<H"), (1, "<H"), (2, "<I"), (3, "<I"), (4, "<I"))
    )
    length = len(header) if random.random() < 0.95 else random.choice(INTEGERS)
    length %= 256 ** struct.calcsize(kind)
    head = header.encode("latin-1", "replace")
    return content[:6] + bytes([version, 0]) + struct.pack(kind, length) + head + data


def npz_file(random: Random, content: bytes, others: tuple[bytes, ...]) -> bytes:
    """Change an archive: its bytes, its arrays, or what its directory says of them."""
    if random.random() < 0.2:
        return random_bytes(random, content, others)
    members = _members(content)
    what = int(random.random() * 6)
    i = int(random.random() * len(members))
    if what < 3:
        members[i]["data"] = npy_file(random, members[i]["data"])
    elif what == 3:
        members[i]["name"] = random.choice(
            ("X.npy", "y.npy", "X", "../X.npy", "x.npy", "", "X.npy\0", "é.npy", "X.npy" * 9000)
        )
    elif what == 4:
        members.insert(i, dict(random.choice(members)))
    changes = {}
    if random.random() < 0.4:
        changes[
            random.choice(("flags", "method", "crc", "packed", "size", "extra", "at", "version"))
        ] = (
            random.choice(INTEGERS)
            if random.random() < 0.5
            else random.choice((0, 1, 8, 9, 12, 14))
        )
    archive = zip_file(members, changes, i, random.choice((0, 8)))
    return archive if random.random() < 0.9 else random_bytes(random, archive)


def _members(content: bytes) -> list[dict]:
    """Return names and contents of a zip file of stored members that `zip_file` wrote."""
    members, place = [], 0
    while content[place : place + 4] == b"PK\3\4":
        size, n_name, n_extra = struct.unpack_from("<IHH", content, place + 22)
        start = place + 30 + n_name + n_extra
        name = content[place + 30 : place + 30 + n_name].decode()
        members.append({"name": name, "data": content[start : start + size]})
        place = start + size
    return members


def zip_file(members: list[dict], changes: dict[str, int], at: int, method: int = 0) -> bytes:
    """Return a zip file, in which member number `at` is described with `changes`."""
    body, directory = b"", b""
    for i, member in enumerate(members):
        data, name = member["data"], member["name"].encode()
        said = {"version": 20, "flags": 0, "method": method, "crc": zlib.crc32(data), "extra": 0}
        packed = data
        if method == 8:
            packer = zlib.compressobj(1, zlib.DEFLATED, -15)
            packed = packer.compress(data) + packer.flush()
        said |= {"packed": len(packed), "size": len(data), "at": len(body)}
        if i == at:
            said |= changes
        two = {key: said[key] % 2**16 for key in ("version", "flags", "method", "extra")}
        four = {key: said[key] % 2**32 for key in ("crc", "packed", "size", "at")}
        fields = struct.pack(
            "<HHHIIIIHH", two["version"], two["flags"], two["method"], 0, four["crc"],
            four["packed"], four["size"], len(name) % 2**16, two["extra"],
        )  # fmt: skip
        directory += b"PK\1\2\x14\0" + fields + bytes(10) + struct.pack("<I", four["at"]) + name
        body += b"PK\3\4" + fields + name + packed
    n = len(members)
    end = struct.pack("<HHHHIIH", 0, 0, n, n, len(directory), len(body), 0)
    return body + directory + b"PK\5\6" + end


def idx_file(random: Random, content: bytes, others: tuple[bytes, ...]) -> bytes:
    """Change an IDX file, plain or packed; a packed one is in most cases packed anew."""
    packed = content[:2] == b"\x1f\x8b"
    if random.random() < 0.3:
        return random_bytes(random, content, others)
    plain = gzip.decompress(content) if packed else content
    changed = bytearray(plain)
    what = int(random.random() * 5)
    if what == 0:
        changed[2] = random.choice((0x08, 0x09, 0x0B, 0x0C, 0x0D, 0x0E, 0x0A, 0, 255))
    elif what == 1:
        changed[3] = random.choice((0, 1, 2, 3, 4, 32, 33, 64, 65, 255))
    elif what == 2:
        place = 4 + 4 * int(random.random() * changed[3])
        changed[place : place + 4] = struct.pack(">I", random.choice(INTEGERS) % 2**32)
    elif what == 3:
        sizes = [
            random.choice((0, 1, 2, 3, 6, *INTEGERS)) for _ in range(random.choice((1, 2, 3, 64)))
        ]
        changed[3 : 4 + 4 * changed[3]] = bytes([len(sizes)]) + b"".join(
            struct.pack(">I", size % 2**32) for size in sizes
        )
    else:
        changed = bytearray(random_bytes(random, plain))
    if not packed:
        return bytes(changed)
    if random.random() < 0.1:
        changed += bytes(random.choice((1, 1000, 300_000)))
    parts = [bytes(changed)]
    if random.random() < 0.2:
        half = len(changed) // 2
        parts = [bytes(changed[:half]), bytes(changed[half:])]
    packed_again = b"".join(gzip.compress(part, 1, mtime=0) for part in parts)
    return packed_again if random.random() < 0.8 else random_bytes(random, packed_again)


LARGEST_TABLE = 2**20  # bytes: repeats of repeats take the time of thousands of others
CELLS = (
    *(
        "1e999",
        "-1e999",
        "nan",
        "NaN",
        "inf",
        "-Infinity",
        "1_0",
        "٣",
        "१२",
        "1e-400",
        "0x10",
        "1,5",
    ),
    *(
        "",
        " ",
        "\t",
        "\0",
        '"',
        '""',
        '"a,b"',
        '"a\nb"',
        "a\rb",
        "é",
        "\ufeff",
        "\u2028",
        "🎈",
        "NA",
    ),
    *(
        "9" * 400,
        "0." + "3" * 2000,
        "1e" + "9" * 300,
        "x" * 300,
        "-",
        "+",
        ".",
        "1.",
        ".5",
        "1e5",
        "½",
    ),
    *("true", "None", "[1]", "1 2", "=1+1", "'1'", "1;2", "\x1b[31m", "null", "0", "1", "2", "3.5"),
)


def csv_file(random: Random, content: bytes, others: tuple[bytes, ...]) -> bytes:
    """Change a table: its bytes, its cells, its rows, or how it is written."""
    if random.random() < 0.3:
        return random_bytes(random, content, others)
    rows = [line.split(b",") for line in content.split(b"\n")]
    for _ in range(random.choice((1, 1, 2, 5))):
        row = random.choice(rows)
        column = int(random.random() * len(row))
        what = int(random.random() * 12)
        cell = random.choice(CELLS).encode("utf-8", "surrogatepass")
        if what < 5:
            row[column] = cell
        elif what == 5:
            row.insert(column, cell)
        elif what == 6:
            del row[column]
        elif what == 7:
            rows.append(row[::-1])
        elif what == 8:
            row[column] = random.randbytes(random.choice((1, 4, 30)))
        elif what == 9:
            row[column] = (cell * random.choice((2, 100, 3000)))[:200_000]
        elif what == 10:
            rows[:] = [[*row, row[-1]] for row in rows]
        else:
            row *= random.choice((2, 10, 2000 if len(row) < 100 else 1))
        if not row:
            row.append(b"")
    text = random.choice((b"\n", b"\n", b"\n", b"\r\n", b"\r", b"\n\n")).join(map(b",".join, rows))
    if random.random() < 0.05:
        text = random.choice((
            b"\xef\xbb\xbf" + text, text.replace(b",", b";"), text.replace(b",", b"\t"),
            text.decode("utf-8", "replace").encode("utf-16"), text + b'"', b'"' + text,
            text * 30, text.replace(b",", b'","'), text.decode("utf-8", "replace").encode("utf-7"),
        ))  # fmt: skip
    return text[:LARGEST_TABLE]
