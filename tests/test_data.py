"""The embedded digits, and readers that take good files and name what is wrong with bad ones."""

import gzip
import io
import re
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

import fastmlp
from fastmlp import data

READERS = [data.read_csv, data.read_npz, data.read_npy, data.read_idx]


def refused(path, reader, what, **arguments):
    """Check that `reader` refuses the file, naming it and then what matches `what`."""
    with pytest.raises(fastmlp.FileFormatError) as caught:
        reader(path, **arguments)
    message = str(caught.value)
    assert message.startswith(str(path)) and re.search(what, message[len(str(path)) :]), message


def flipped_bits(content):
    for i in range(8 * len(content)):
        changed = bytearray(content)
        changed[i // 8] ^= 1 << i % 8
        yield bytes(changed)


def test_digits():
    X, y = data.load_digits()
    assert X.shape == (1797, 64) and X.dtype == np.float32
    assert y.shape == (1797,) and y.dtype == np.int64
    assert X.min() == 0 and X.max() == 16
    np.testing.assert_array_equal(X, np.round(X))
    # the counts that the UCI repository states for this file, optdigits.tes
    np.testing.assert_array_equal(
        np.bincount(y), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    )
    np.testing.assert_array_equal(X[0, :8], [0, 0, 5, 13, 9, 1, 0, 0])
    np.testing.assert_array_equal(X[-1, -8:], [0, 1, 8, 12, 14, 12, 1, 0])
    np.testing.assert_array_equal(y[:12], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1])
    X[0, 0] = 99  # each call gives arrays of its own
    assert data.load_digits()[0][0, 0] == 0


def test_digits_are_those_of_scikit_learn():
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    for expected, actual in zip(
        datasets.load_digits(return_X_y=True), data.load_digits(), strict=True
    ):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("reader", READERS)
def test_no_file(reader, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone: no such file"):
        reader(tmp_path / "gone")
    refused(tmp_path, reader, "is a folder")
    (tmp_path / "empty").write_bytes(b"")
    refused(tmp_path / "empty", reader, "empty|no header")


GOOD_CSV = [
    b"a,b,y\n1,2.5,red\n-3,4e2,blue\n",
    b"a,b,y\r\n1,2.5,red\r\n-3,4e2,blue\r\n",
    b"\xef\xbb\xbfa,b,y\n1,2.5,red\n-3,4e2,blue",
    b'"a", b ,y\n\n1,"2.5",red\n\n -3 ,4e2," blue "\n\n\n',
]


@pytest.mark.parametrize("content", GOOD_CSV, ids=["plain", "crlf", "bom", "quotes and blanks"])
def test_csv(content, tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    table = data.read_csv(str(path), target="y")
    assert table.names == ["a", "b"] and table.target == ["red", "blue"]
    assert table.X.dtype == np.float64
    np.testing.assert_array_equal(table.X, [[1, 2.5], [-3, 400]])
    some = data.read_csv(path, columns=["b", "a"])
    assert some.names == ["b", "a"] and some.target is None
    np.testing.assert_array_equal(some.X, [[2.5, 1], [400, -3]])


def test_csv_numbers_are_exact(tmp_path):
    """What NumPy writes in full comes back to the bit, under the header 0, 1, 2 of pandas."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 3)) * 10.0 ** rng.integers(-300, 300, (20, 3))
    np.savetxt(tmp_path / "t.csv", X, fmt="%.17g", delimiter=",", header="0,1,2", comments="")
    np.testing.assert_array_equal(data.read_csv(tmp_path / "t.csv").X, X)


@pytest.mark.parametrize("content", GOOD_CSV, ids=["plain", "crlf", "bom", "quotes and blanks"])
def test_cells(content, tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    cells = data.read_cells(path)
    assert cells.columns == {"a": ["1", "-3"], "b": ["2.5", "4e2"], "y": ["red", "blue"]}
    line = next(i for i, line in enumerate(content.splitlines(), 1) if b"2.5" in line)
    assert cells.place(0, "b") == f"{path}, line {line}, column 'b'"
    assert list(data.read_cells(path, columns=["y", "a"]).columns) == ["y", "a"]
    assert list(data.read_cells(path, ignore=["b"]).columns) == ["a", "y"]
    refused(path, data.read_cells, "has no column 'z'; it has a, b, y", ignore=["z"])


def test_names_are_not_all_listed(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(",".join(f"c{i}" for i in range(99)) + "\n" + ",".join("1" * 99) + "\n")
    refused(path, data.read_cells, "no column 'z'; it has c0, .* c9 and 89 more$", columns=["z"])


BAD_CSV = {
    "unknown target": (b"a,y\n1,2\n", "no column 'z'; it has a, y", {"target": "z"}),
    "unknown column": (b"a,y\n1,2\n", "no column 'z'; it has a, y", {"columns": ["a", "z"]}),
    "only the target": (b"y\n1\n", "no column besides the target 'y'", {"target": "y"}),
    "semicolons": (b"a;b\n1;2\n", "line 1: ';' separates the cells, expected commas", {}),
    "tabs": (b"a\tb\n1\t2\n", r"line 1: '\\t' separates the cells, expected commas", {}),
    "repeated column": (b"a,b,a\n1,2,3\n", "line 1: repeats the column 'a'", {}),
    "nameless column": (b",a\n0,1\n", "line 1: column 1 has no name", {}),
    "row too short": (b"a,b\n1,2\n1\n", "line 3: 1 cells where the header names 2", {}),
    "row too long": (b"a,b\n1,2\n\n1,2,3\n", "line 4: 3 cells where the header names 2", {}),
    "empty cell": (b"a,b\n1,2\n1,\n", "line 3, column 'b': the cell is empty", {}),
    "blank cell": (b"a,b\n  ,2\n", "line 2, column 'a': the cell is empty", {}),
    "empty label": (b"a,y\n1,r\n2, \n", "line 3, column 'y': the cell is empty", {"target": "y"}),
    "word": (b"a,b\n1,two\n", "line 2, column 'b': 'two' is not a number", {}),
    "underscore": (b"a,b\n1_000,2\n", "line 2, column 'a': '1_000' is not a number", {}),
    "decimal comma": (b'a,b\n"1,5",2\n', "line 2, column 'a': '1,5' is not a number", {}),
    "nul": (b"a,b\n1\0,2\n", "line 2, column 'a': .* is not a number", {}),
    "nan": (b"a,b\n1,2\n3,nan\n", "line 3, column 'b': 'nan' is not finite", {}),
    "infinity": (b"a,b\n-Inf,2\n", "line 2, column 'a': '-Inf' is not finite", {}),
    "overflow": (b"a,b\n1e999,2\n", "line 2, column 'a': '1e999' is not finite", {}),
    "no header": (b"5.1,3.5\n4.9,3.0\n", "line 1: no header", {}),
    "no header, integers": (b"0,7,0\n0,9,1\n", "line 1: no header", {}),
    "blank header": (b"\na,b\n1,2\n", "line 1: no header", {}),
    "header only": (b"a,b\n\n", "has no rows below its header", {}),
    "Latin-1": ("a,b\n1,2\n1,\xe9\n".encode("latin-1"), "line 3: not UTF-8 text", {}),
    "Latin-1 header": ("é,b\n1,2\n".encode("latin-1"), "line 1: not UTF-8 text", {}),
    "UTF-16": ("a,b\n1,2\n".encode("utf-16"), "line 1: not UTF-8 text", {}),
    "unclosed quote": (b'a,b\n1,2\n1,"2\n1,2\n', "line 3: unexpected end of data", {}),
    "unclosed quote in header": (b'a,"b\n1,2\n', "line 1: unexpected end of data", {}),
    "text after quote": (b'a,b\n1,"2"3\n', "line 2: ',' expected after '\"'", {}),
    "endless cell": (b"a,b\n1," + b"2" * 200_000 + b"\n", "line 2: field larger than", {}),
    "after a cell of two lines": (b'a,b\n"1\n",2\n1,x\n', "line 4, column 'b': 'x' is not", {}),
    "not UTF-8 at the end": (b"a,b\n1,2\n3,4\xe2\x82", "line 3: not UTF-8 text", {}),
    "not UTF-8 far below": (b"a\n" + b"1\n" * 99_999 + b"\xff\n", "line 100001: not UTF-8", {}),
    "wide": (b"a," * 2**16 + b"b", "line 1: the row has more than 65,536 cells", {}),
    "long": (b"a\n1\n" + b"2" * 2**20, "line 3: the row has 1,048,576 characters or more", {}),
    "long, of many lines": (
        b"a,b\n1,2\n" + (b'"' + b"2" * 40 + b'\n",') * 2**15,
        "line 3: the row has 1,048,576 characters or more",
        {},
    ),
    "in a cell of two lines": (b'a,b\n1,2\n"1\n2",2\n', "line 3, column 'a': .* is not a num", {}),
}


@pytest.mark.parametrize("case", BAD_CSV)
def test_bad_csv(case, tmp_path):
    content, what, arguments = BAD_CSV[case]
    (tmp_path / "t.csv").write_bytes(content)
    refused(tmp_path / "t.csv", data.read_csv, what, **arguments)


def numpy_file(**arrays):
    """Return the bytes of an .npz with these arrays."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def test_npz(tmp_path):
    X, y = np.arange(6, dtype=np.float32).reshape(3, 2), np.array([0, 1, 0], np.int8)
    path = tmp_path / "t.npz"
    for save in np.savez, np.savez_compressed:
        save(path, X=X, y=y, other=[1])
        for expected, actual in zip((X, y), data.read_npz(str(path)), strict=True):
            np.testing.assert_array_equal(actual, expected, strict=True)
    np.savez(path, X=X)
    assert data.read_npz(path)[1] is None


def test_npy(tmp_path):
    for array in np.arange(6, dtype=">i2").reshape(3, 2), np.array(1.5), np.array(["a", "bc"]):
        np.save(tmp_path / "t.npy", array)
        np.testing.assert_array_equal(data.read_npy(tmp_path / "t.npy"), array, strict=True)


def test_npz_without_x(tmp_path):
    path = tmp_path / "t.npz"
    path.write_bytes(numpy_file(x=[1], y=[2]))
    refused(path, data.read_npz, "has no array named X; it holds x, y")
    zipfile.ZipFile(path, "w").close()
    refused(path, data.read_npz, "cannot be read|holds nothing")
    np.save(tmp_path / "one.npy", [1.0])
    (tmp_path / "one.npy").rename(path)
    refused(path, data.read_npz, "is one array, not an archive")
    path.write_bytes(numpy_file(X=[1.0]))
    refused(path, data.read_npy, "is an archive of arrays, not one")


class Trap:
    """An object whose unpickling would be noticed."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was loaded",)


@pytest.mark.parametrize("name", ["X", "y"])
def test_pickles_are_never_loaded(name, tmp_path):
    held = np.array([Trap()], dtype=object)
    (tmp_path / "t.npz").write_bytes(numpy_file(**({"X": np.ones(1)} | {name: held})))
    refused(tmp_path / "t.npz", data.read_npz, "[Oo]bject arrays cannot be loaded")
    np.save(tmp_path / "t.npy", held, allow_pickle=True)
    refused(tmp_path / "t.npy", data.read_npy, "[Oo]bject arrays cannot be loaded")
    (tmp_path / "t.npy").write_bytes(held.dumps())
    refused(tmp_path / "t.npy", data.read_npy, "is not a NumPy file: it starts with 80")


@pytest.mark.parametrize("reader", [data.read_npz, data.read_npy])
def test_damaged_numpy_files(reader, tmp_path):
    """Every truncation is refused; a changed bit either is, or gives an array."""
    path = tmp_path / "t"
    content = numpy_file(X=np.ones((3, 2), np.float32))
    if reader is data.read_npy:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            content = archive.read("X.npy")
    for size in range(len(content)):
        path.write_bytes(content[:size])
        refused(path, reader, r"is empty|not a NumPy file|cannot be read|holds")
    refusals = 0
    for changed in flipped_bits(content):
        path.write_bytes(changed)
        try:
            reader(path)
        except fastmlp.FileFormatError as error:
            assert str(error).startswith(str(path))
            refusals += 1
    assert refusals > 4 * len(content)


def test_npy_of_another_size(tmp_path):
    path = tmp_path / "t.npy"
    np.save(path, np.ones((3, 2)))
    content = path.read_bytes()
    path.write_bytes(content.replace(b"(3, 2)", b"(2, 2)"))
    refused(path, data.read_npy, "promises 2 x 2 values, 160 bytes in all, and it has 176")
    path.write_bytes(content.replace(b"(3, 2)", b"(4, 2)"))
    refused(path, data.read_npy, "promises 4 x 2 values, 192 bytes in all, and it has 176")
    np.save(path, np.ones((100_000_000_000_000, 0)))
    path.write_bytes(path.read_bytes().replace(b"0, 0)", b"0, 9)"))
    refused(path, data.read_npy, "promises 100000000000000 x 9 values")


# written instead of what NumPy writes, and the reason to refuse it
NPY_HEADERS = {
    "object": ("{'descr': '|O', 'fortran_order': False, 'shape': (), }", "Object arrays cannot"),
    "structured": (
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}",
        "its header",
    ),
    "list of types": ("{'descr': '<f4,<f4', 'fortran_order': False, 'shape': (1,)}", "its header"),
    "no such type": ("{'descr': '<f7', 'fortran_order': False, 'shape': (1,)}", "f7"),
    "no width": ("{'descr': '<U0', 'fortran_order': False, 'shape': (9,)}", "its header"),
    "a program": ("{'descr': '<f4', 'fortran_order': False, 'shape': (exit(),)}", "its header"),
    "negative": ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", "its header"),
    "leading zero": ("{'descr': '<f4', 'fortran_order': False, 'shape': (01,)}", "its header"),
    "no tuple": ("{'descr': '<f4', 'fortran_order': False, 'shape': (1)}", "its header"),
    "no-break space": ("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}\xa0", "its header"),
    "no comma": ("{'descr': '<f4' 'fortran_order': False, 'shape': (1,)}", "its header"),
    "no order": ("{'descr': '<f4', 'shape': (1,)}", "its header"),
    "more": ("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'x': 1}", "its header"),
    "dimensions": ("{'descr': '|u1', 'fortran_order': False, 'shape': (" + "1, " * 65 + ")}", "65"),
    "deep": ("(" * 9_000, "its header"),
    "long": (" " * 10_001, "10001 bytes, more than 10000"),
}


@pytest.mark.parametrize("case", NPY_HEADERS)
def test_npy_headers(case, tmp_path):
    header, what = NPY_HEADERS[case]
    path = tmp_path / "t.npy"
    length = struct.pack("<H", len(header))
    path.write_bytes(b"\x93NUMPY\1\0" + length + header.encode("latin-1") + b"\0\0\0\0")
    refused(path, data.read_npy, what)


def test_npy_in_any_order_of_keys_and_columns(tmp_path):
    path = tmp_path / "t.npy"
    header = b"{'shape':(2,3),'fortran_order':True,'descr':'<i2'}\n"
    values = np.arange(6, dtype="<i2")
    path.write_bytes(b"\x93NUMPY\2\0" + struct.pack("<I", len(header)) + header + values.tobytes())
    expected = [[0, 2, 4], [1, 3, 5]]
    np.testing.assert_array_equal(data.read_npy(path), np.array(expected, "<i2"), strict=True)


@pytest.mark.parametrize("values", [b"\x02", b"\0\xd8\0\0", b"\0\0\x11\0"], ids=range(3))
def test_npy_of_values_that_cannot_be(values, tmp_path):
    """A truth value of 2, a surrogate, and a character beyond the last of Unicode."""
    path = tmp_path / "t.npy"
    np.save(path, np.zeros(1, "?" if len(values) == 1 else "<U1"))
    path.write_bytes(path.read_bytes()[: -len(values)] + values)
    refused(path, data.read_npy, "neither 0 nor 1|decode")


def zipped(members, method=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_npz_that_numpy_does_not_write(tmp_path):
    path = tmp_path / "t.npz"
    np.save(path.with_suffix(".npy"), np.ones(3))
    X = path.with_suffix(".npy").read_bytes()
    for again in "X.npy", "X":
        path.write_bytes(zipped([("X.npy", X), (again, X)]))
        refused(path, data.read_npz, "it names a member twice")
    for method in zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA:
        path.write_bytes(zipped([("X.npy", X), ("other.npy", X)], method))
        refused(path, data.read_npz, "X is compressed in a way that NumPy does not write")
    path.write_bytes(zipped([("X.npy", X), *((f"{i}", b"") for i in range(6_000))]))
    refused(path, data.read_npz, "list of members is longer than 262144 bytes")


def test_messages_do_not_repeat_the_file(tmp_path):
    path = tmp_path / "t.npz"
    content = zipped([("X.npy", bytes(30_000))], zipfile.ZIP_STORED)
    path.write_bytes(content[:26] + struct.pack("<H", 20_000) + content[28:])  # length of a name
    with pytest.raises(fastmlp.FileFormatError, match="File name in directory") as caught:
        data.read_npz(path)
    assert len(str(caught.value)) < 400 + len(str(path))
    path = tmp_path / "t.csv"
    path.write_text("a" * 100_000 + ",b\n1," + "x" * 100_000 + "\n2,3\n")
    for arguments in {}, {"columns": ["c"]}, {"columns": ["b"]}:
        with pytest.raises(fastmlp.FileFormatError) as caught:
            data.read_csv(path, **arguments)
        assert len(str(caught.value)) < 400 + len(str(path))


def memory_of(reader, path):
    """Return the most memory that refusing a file has taken."""
    tracemalloc.start()
    try:
        with pytest.raises(fastmlp.FileFormatError):
            reader(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("n", [10**9, 10**15], ids=str)
def test_promises_take_no_memory(n, tmp_path):
    """Headers that agree with each other, over data that is not there."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({n},), }}".encode()
    npy = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + b"\1"
    (tmp_path / "t.npy").write_bytes(npy)
    assert memory_of(data.read_npy, tmp_path / "t.npy") < 2**24
    content = zipped([("X.npy", npy)], zipfile.ZIP_STORED)
    size = struct.pack("<I", min(len(npy) - 1 + n, 2**32 - 2))
    directory = content.rindex(b"PK\1\2")
    content = content[: directory + 24] + size + content[directory + 28 :]
    (tmp_path / "t.npz").write_bytes(content)
    assert memory_of(data.read_npz, tmp_path / "t.npz") < 2**24
    start = content.rindex(b"PK\5\6")  # a list of members longer than the file
    content = content[: start + 12] + b"\xfe\xff\xff\xff" + content[start + 16 :]
    (tmp_path / "t.npz").write_bytes(content)
    assert memory_of(data.read_npz, tmp_path / "t.npz") < 2**24
    idx = gzip.compress(b"\0\0\x08\1" + struct.pack(">I", min(n, 2**32 - 1)) + b"\1")
    (tmp_path / "t.gz").write_bytes(idx)
    assert memory_of(data.read_idx, tmp_path / "t.gz") < 2**24


def test_arrays_take_their_own_memory(tmp_path):
    """Readers hold no second copy of what they return."""
    X = np.tile(np.arange(8, dtype=">i2"), (2_000_000, 1))
    files = {
        "t.npy": (data.read_npy, lambda path: np.save(path, X)),
        "t.npz": (data.read_npz, lambda path: np.savez(path, X=X)),
        "t": (data.read_idx, lambda path: path.write_bytes(idx(X, 0x0B))),
        "t.gz": (data.read_idx, lambda path: path.write_bytes(gzip.compress(idx(X, 0x0B), 1))),
    }
    for name, (reader, write) in files.items():
        write(tmp_path / name)
        tracemalloc.start()
        try:
            held = reader(tmp_path / name)
            assert tracemalloc.get_traced_memory()[1] < X.nbytes + 2**24, name
        finally:
            tracemalloc.stop()
        np.testing.assert_array_equal(held[0] if name == "t.npz" else held, X)


def test_what_is_packed_is_not_unpacked_beyond_its_promise(tmp_path):
    path = tmp_path / "t.gz"
    path.write_bytes(gzip.compress(b"\0\0\x08\1\0\0\0\x05" + bytes(200_000_000), 1))
    assert memory_of(data.read_idx, path) < 2**24


IDX_CODES = {0x08: "u1", 0x09: "i1", 0x0B: "i2", 0x0C: "i4", 0x0D: "f4", 0x0E: "f8"}


def idx(array, code):
    """Return the bytes of an IDX file."""
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, code, array.ndim]) + sizes + array.astype(">" + IDX_CODES[code]).tobytes()


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gz"])
@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 1, 4), (0, 3)], ids=str)
@pytest.mark.parametrize("code", IDX_CODES)
def test_idx(code, shape, compress, tmp_path):
    dtype = np.dtype(IDX_CODES[code])
    rng = np.random.default_rng(code)
    if dtype.kind == "f":
        array = rng.normal(size=shape).astype(dtype)
    else:
        limits = np.iinfo(dtype)
        array = rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    (tmp_path / "t").write_bytes(compress(idx(array, code)))
    actual = data.read_idx(str(tmp_path / "t"))
    np.testing.assert_array_equal(actual, array, strict=True)
    assert actual.dtype.isnative and actual.flags.writeable


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gz"])
def test_idx_cut_or_too_long(compress, tmp_path):
    path = tmp_path / "t"
    content = idx(np.arange(6).reshape(2, 3), 0x0C)
    for size in range(1, len(content)):
        path.write_bytes(compress(content[:size]))
        refused(path, data.read_idx, "is not an IDX file|is cut short")
    path.write_bytes(compress(content + b"\0"))
    refused(path, data.read_idx, "long: its header promises 2 x 3 values, 36 bytes .* (37|more)")


@pytest.mark.parametrize(
    "content",
    [
        b"\1\0\x08\1\0\0\0\1\0",
        b"\0\1\x08\1\0\0\0\1\0",
        b"\0\0\x0a\1\0\0\0\1\0",
        b"\0\0\x08\0\0",
        b"a,b",
    ],
)
def test_idx_wrong_magic(content, tmp_path):
    (tmp_path / "t").write_bytes(content)
    start = content[:4].hex(" ")
    refused(tmp_path / "t", data.read_idx, f"is not an IDX file: it starts with {start}$")


@pytest.mark.parametrize(
    "sizes", [(2**32 - 1,), (2**32 - 1,) * 3, (1,) * 255, (0, *(2**32 - 1,) * 4)]
)
def test_idx_huge_promises(sizes, tmp_path):
    path = tmp_path / "t"
    values = b"\0" * (max(sizes) == 1)
    path.write_bytes(
        bytes([0, 0, 0x0E, len(sizes)]) + struct.pack(f">{len(sizes)}I", *sizes) + 8 * values
    )
    tracemalloc.start()
    try:
        refused(path, data.read_idx, "promises|dimension|too big|too large")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_broken_gzip(tmp_path):
    path = tmp_path / "t.gz"
    content = gzip.compress(idx(np.arange(6), 0x0C), mtime=0)
    for size in range(2, len(content)):
        path.write_bytes(content[:size])
        refused(path, data.read_idx, "is damaged")
    expected = np.arange(6, dtype=np.int32)
    for changed in flipped_bits(content):
        path.write_bytes(changed)
        try:
            actual = data.read_idx(path)
        except fastmlp.FileFormatError as error:
            assert str(error).startswith(str(path))
        else:  # a bit of the time stamp or the like
            np.testing.assert_array_equal(actual, expected, strict=True)
