"""Model files: what is saved comes back to the bit, what is damaged never comes back at all."""

import json
import struct
import subprocess
import sys
import textwrap
import time
import tracemalloc

import numpy as np
import pytest
import safetensors
import safetensors.numpy

import fastmlp
from fastmlp import MLP, modelfile, persist

OLD = b"what was there before"


def content(folder):
    """Return the names and bytes of all that lies in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def tiny_file(tmp_path):
    MLP([2, 2, 2]).save(tmp_path / "tiny")
    return (tmp_path / "tiny").read_bytes()


def refused(path, what="."):
    with pytest.raises(fastmlp.FileFormatError, match=what) as caught:
        MLP.load(path)
    assert str(caught.value).startswith(f"{path} is not a fastmlp model that can be read: ")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "squared_error"])
@pytest.mark.parametrize("activation", ["relu", "identity", "tanh", "logistic"])
@pytest.mark.parametrize("sizes", [[1, 1], [3, 2], [2, 5, 1, 4], [1] * 14], ids=str)
def test_round_trip(sizes, activation, loss, dtype, tmp_path):
    model = MLP(sizes, activation=activation, loss=loss, dtype=dtype, seed=5)
    rng = np.random.default_rng(0)
    model.params[:] = rng.normal(size=model.n_parameters) * 10.0 ** rng.integers(-44, 30)
    model.params[:2] = -0.0, np.finfo(dtype).smallest_subnormal
    model.save(str(tmp_path / "m"))
    again = MLP.load(str(tmp_path / "m"))
    assert again.params.tobytes() == model.params.tobytes()
    assert repr(again) == repr(model) and again.sizes == model.sizes
    X = rng.normal(size=(7, sizes[0]))
    assert again.forward(X).tobytes() == model.forward(X).tobytes()
    again.weights[0][...] = 1  # writable, and views into params
    assert again.params[0] == 1


METADATA = [
    {},
    {"labels": ["größer", "小さい", "🎈", "a\nb", '"\\', "\0"], "n": [1, -2.5, 1e-300, None, True]},
    {"": {"deep": [[[{}]]]}, "fastmlp": "x", "lone surrogate": "\ud800"},
    {"big": 10**400, "long": "é" * 100_000},
    {"texts": ["word, " * 200] * 400, "marks": '"[{,' * 100_000, "slashes": "\\" * 100_000},
    {"letters": ["жизнь" * 160 + str(i) for i in range(400)]},
]


@pytest.mark.parametrize("metadata", METADATA, ids=range(len(METADATA)))
def test_metadata_round_trip(metadata, tmp_path):
    model = MLP([2, 2])
    model.metadata = metadata
    model.save(tmp_path / "m")
    assert MLP.load(tmp_path / "m").metadata == metadata


def test_the_clip_of_probabilities_comes_back(tmp_path):
    model = MLP([3, 2])
    model.probability_clip = 0.25
    model.save(tmp_path / "m")
    assert MLP.load(tmp_path / "m").probability_clip == 0.25
    model.probability_clip = 0.5
    with pytest.raises(ValueError, match=r"probability_clip is 0\.5, expected .* below 0\.5"):
        model.save(tmp_path / "m")


def test_any_program_reads_the_tensors(tmp_path):
    model = MLP([3, 4, 2], dtype="float64")
    model.save(tmp_path / "m")
    tensors = safetensors.numpy.load_file(tmp_path / "m")
    assert sorted(tensors) == ["biases.0", "biases.1", "weights.0", "weights.1"]
    for i in range(2):
        np.testing.assert_array_equal(tensors[f"weights.{i}"], model.weights[i], strict=True)
        np.testing.assert_array_equal(tensors[f"biases.{i}"], model.biases[i], strict=True)


def test_same_model_same_bytes(tmp_path):
    assert tiny_file(tmp_path) == tiny_file(tmp_path)


def test_exchanged_tensors_are_refused(tmp_path):
    """Two tensors of one shape that change places, as only the checksum finds."""
    whole = tiny_file(tmp_path)
    swapped = whole.replace(b"weights.0", b"weights.x").replace(b"weights.1", b"weights.0")
    (tmp_path / "t").write_bytes(swapped.replace(b"weights.x", b"weights.1"))
    refused(tmp_path / "t", "its checksum does not match")


def foreign(name, dtype, size):
    """Return a safetensors file with one tensor of any dtype."""
    header = f'{{"{name}":{{"dtype":"{dtype}","shape":[1],"data_offsets":[0,{size}]}}}}'.encode()
    return struct.pack("<Q", len(header)) + header + bytes(size)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other"
    rng = np.random.default_rng(0)
    for other in [OLD, b"\x93NUMPY", *(rng.bytes(n) for n in (1, 8, 9, 1000, 100_000))]:
        path.write_bytes(other)
        refused(path)
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    refused(path)


@pytest.mark.parametrize(
    "other",
    [
        safetensors.numpy.save({"weights.0": np.ones((2, 2))}),
        safetensors.numpy.save({"weights.0": np.ones((2, 2))}, metadata={"format": "pt"}),
        safetensors.numpy.save({}),
        foreign("x", "BF16", 2),
        foreign("x", "F8_E4M3", 1),
    ],
    ids=["plain", "metadata", "empty", "bfloat16", "float8"],
)
def test_safetensors_of_another_program(other, tmp_path):
    (tmp_path / "other").write_bytes(other)
    safetensors.deserialize(other)  # it is a valid file
    refused(tmp_path / "other", "of another program|tensors fastmlp cannot read")


def parts(**changes):
    """Return tensors and description of a good [2, 2] model, changed."""
    description = {
        "sizes": [2, 2],
        "activation": "relu",
        "loss": "squared_error",
        "dtype": "float32",
        "metadata": {},
    }
    tensors = {"weights.0": np.ones((2, 2), np.float32), "biases.0": np.ones(2, np.float32)}
    for name, value in changes.items():
        at = tensors if name[-1].isdigit() else description
        at[name.replace("_", ".") if at is tensors else name] = value
    return tensors, {key: value for key, value in description.items() if value is not ...}


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"sizes": [2, 3]}, "do not go with 6 parameters"),
        ({"sizes": [2, 2, 2]}, "do not go with 6 parameters"),
        ({"sizes": [2]}, "its description is not valid"),
        ({"sizes": "22"}, "its description is not valid"),
        ({"sizes": [2, -2]}, "its description is not valid"),
        ({"sizes": [2, 2.0]}, "its description is not valid"),
        ({"dtype": "float64"}, r"weights\.0 is not float64"),
        ({"dtype": "int8"}, "its description is not valid"),
        ({"activation": "step"}, "its description is not valid"),
        ({"loss": ["squared_error"]}, "its description is not valid"),
        ({"metadata": ...}, "its description is not valid"),
        ({"colour": "red"}, "its description is not valid"),
        ({"version": 3}, r"format version 3, this fastmlp reads \(1, 2\)"),
        ({"weights_0": np.ones((1, 4), np.float32)}, r"weights\.0 is not float32 of shape"),
        ({"biases_0": np.ones(2)}, r"biases\.0 is not float32 of shape \(2,\)"),
        ({"biases_0": np.float32([1, np.nan])}, "parameters that are not finite"),
        ({"weights_0": np.float32([[1, 2], [np.inf, 4]])}, "parameters that are not finite"),
        ({"weights_1": np.ones((2, 2), np.float32)}, "do not go with 10 parameters"),
    ],
    ids=repr,
)
def test_files_with_a_true_checksum_that_are_no_models(changes, what, tmp_path):
    persist.save(tmp_path / "m", *parts())
    MLP.load(tmp_path / "m")
    persist.save(tmp_path / "m", *parts(**changes))
    refused(tmp_path / "m", what)


def test_a_missing_tensor(tmp_path):
    tensors, description = parts()
    del tensors["biases.0"]
    persist.save(tmp_path / "m", tensors, description)
    refused(tmp_path / "m", "do not go with 4 parameters")


def forged(header, data=b""):
    """Return a safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="F32", shape=(2,), span=(0, 8), **more):
    return {"dtype": dtype, "shape": shape, "data_offsets": span, **more}


HUGE = 10**30
HEADERS = {
    "no object": (b"[]", "its header is not a JSON object"),
    "no JSON": (b"{", "its header is not valid"),
    "no UTF-8": (b'{"\xff": 1}', "its header is not valid"),
    "deep": (b"[" * 60_000, "its header is not valid"),
    "long number": (b"1" * 10_000, "its header is not valid"),
    "repeated": (b'{"a": {}, "a": {}}', "a key is repeated"),
    "NaN": (b'{"a": NaN}', "NaN is no number"),
    "infinite": (b'{"a": 1e999}', "1e999 is no number"),
    "many values": (b"[" + b"0," * 70_000 + b"0]", "more than 65536 values"),
    "many described": (
        {"__metadata__": {"fastmlp": f"0 [{'0,' * 70_000}0]"}, "a": entry()},
        "more than 65536 values",
    ),
    "wide": (
        b'"\xc3\xa9' + b"x" * (1 << 20) + b'"',
        "is of 1048580 bytes, expected at most 1048576",
    ),
    "large": (b" " * (2 << 20) + b" ", "its header is of 2097153 bytes"),
    "entry": ({"a": []}, "the entry of 'a'"),
    "more": ({"a": entry(file="b")}, "the entry of 'a'"),
    "dtype": ({"a": entry(dtype=["F32"])}, "cannot read"),
    "negative": ({"a": entry(shape=[-2])}, "the sizes of 'a'"),
    "truth": ({"a": entry(shape=[True, 2])}, "the sizes of 'a'"),
    "no list": ({"a": entry(shape="2")}, "the sizes of 'a'"),
    "one offset": ({"a": entry(span=[0])}, "the sizes of 'a'"),
    "dimensions": ({"a": entry(shape=[1] * 9 + [2])}, "the sizes of 'a'"),
    "too large": ({"a": entry(shape=[HUGE])}, "is not the 8 bytes said"),
    "nothing, often": ({"a": entry(shape=[0, HUGE], span=[0, 0])}, "is not the 0 bytes said"),
    "backwards": ({"a": entry(span=[8, 0])}, "is not the -8 bytes said"),
    "beyond": ({"a": entry(span=[8, 16])}, "overlap or leave bytes unused"),
    "overlap": ({"a": entry(), "b": entry()}, "overlap or leave bytes unused"),
    "short": ({"a": entry(shape=[1], span=[0, 4])}, "accounts for 4 of the 8 bytes"),
    "long": ({"a": entry(shape=[3], span=[0, 12])}, "accounts for 12 of the 8 bytes"),
    "bool": (
        {"__metadata__": {"fastmlp": '0 {"version": 1}'}, "a": entry("BOOL", [8])},
        "neither true nor false",
    ),
    "metadata": ({"__metadata__": [], "a": entry()}, "another program"),
    "description": ({"__metadata__": {"fastmlp": "0 []"}, "a": entry()}, "it has no description"),
    "version": ({"__metadata__": {"fastmlp": '0 {"version": true}'}, "a": entry()}, "version True"),
}


@pytest.mark.parametrize(("header", "what"), HEADERS.values(), ids=HEADERS)
def test_headers_that_do_not_hold_true(header, what, tmp_path):
    path = tmp_path / "m"
    path.write_bytes(forged(header, b"\2" * 8))
    with pytest.raises(fastmlp.FileFormatError, match=what):
        persist.load(path)


def test_what_safetensors_refuses_is_refused(tmp_path):
    """Of the headers above, safetensors lets pass what is a matter of our own."""
    passed = set()
    for name, (header, _) in HEADERS.items():
        try:
            safetensors.deserialize(forged(header, b"\2" * 8))
            passed.add(name)
        except safetensors.SafetensorError:
            pass
    assert passed <= {
        *("bool", "description", "version", "large", "dimensions", "more", "repeated"),
        "many described",
    }


DESCRIBED = b'{"__metadata__": {"fastmlp": "'
# The most that a header of so many bytes and values can make JSON take memory for.
COSTLY = {
    "objects": b'{"__metadata__": [' + b'{"a":1},' * 32_000 + b"0]}",
    "lists": b'{"__metadata__": [' + b"[]," * 32_000 + b"0]}",
    "names": b'{"__metadata__": {' + b"".join(b'"%d":0,' % i for i in range(65_000)) + b'"x":0}}',
    "text": DESCRIBED + b"0 " + b"\xf0\x9f\x8e\x88" * 260_000 + b'"}}',
    "escapes": b'{"__metadata__": {"fastmlp": "0 ' + b"\\ud83c\\udf88" * 160_000 + b'"}}',
    "tensors": json.dumps(
        {f"{i}": entry("U8", [1], [i, i + 1]) for i in range(9_000)}, separators=(",", ":")
    ).encode(),
    "one wide letter": DESCRIBED
    + rb"0 {\"version\": 9, \"a\": \""
    + b"x" * 524_000
    + b"\\\\n\xf0\x9f\x8e\x88"
    + b"x" * 524_000
    + b'\\"}"}}',
    "one wide escape": DESCRIBED + b"0 \\ud83c\\udf88" + b"x" * 2_097_000 + b'"}}',
    "a wide name": b'{"\\ud83c\\udf88' + b"x" * 2_097_000 + b'": 1}',
    "a wide value": DESCRIBED
    + rb"0 {\"version\": 1, \"a\": \"\\ud83c\\udf88"
    + b"x" * 2_097_000
    + b'\\"}"}}',
    "quotes": b'{"__metadata__": {"fastmlp": "0 ' + b'\\"' * 1_048_000 + b'"}}',
    "slashes": b'{"__metadata__": {"fastmlp": "0 ' + b"\\\\" * 1_048_000,
    "empty strings": b'""' * 1_048_000,
    "described": json.dumps(
        {"__metadata__": {"fastmlp": '0 {"version": 1, "a": [' + '{"a":1},' * 32_000 + "0]}"}}
    ).encode(),
}


@pytest.mark.parametrize("header", COSTLY.values(), ids=COSTLY)
def test_memory_for_what_is_refused(header, tmp_path):
    assert len(header) <= persist._most_bytes(header)
    assert persist._values(header.decode()) <= persist.MOST_VALUES
    path = tmp_path / "m"
    path.write_bytes(forged(header, bytes(9_000) if b"U8" in header else b""))
    assert peak(lambda: refused(path)) < path.stat().st_size + (16 << 20)


@pytest.mark.parametrize(
    "text", ['\\\\"', '"', "\\", '"",', "[", 'x"\\'], ids=["escapes", *"qscbm"]
)
def test_values_are_counted_in_linear_time(text):
    text = text * (2**19 // len(text))
    start = time.perf_counter()
    assert peak(lambda: persist._values(text)) < 1 << 20
    assert time.perf_counter() - start < 3


def test_memory_for_a_model(tmp_path):
    MLP([2000, 2000, 10]).save(tmp_path / "m")
    size = (tmp_path / "m").stat().st_size
    assert peak(lambda: MLP.load(tmp_path / "m")) < size + (1 << 20)
    with (tmp_path / "m").open("r+b") as file:
        file.truncate(size - 1)
    assert peak(lambda: refused(tmp_path / "m", "accounts for")) < 1 << 20


def peak(action):
    """Return how many bytes more than before were taken at once."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_description_that_is_too_large(tmp_path):
    model = MLP([2, 2])
    model.save(tmp_path / "m")
    before = content(tmp_path)
    for x in (list(range(70_000)), "x" * (2 << 20), "é" * (1 << 19)):
        model.metadata = {"x": x}
        with pytest.raises(ValueError, match=r"cannot write .*: the description is too large"):
            model.save(tmp_path / "m")
        with pytest.raises(ValueError, match=r"cannot write .*: the description is too large"):
            persist.check_description(tmp_path / "m", *modelfile.parts(model))
    assert content(tmp_path) == before


def nested():
    bottom = top = {}
    for _ in range(100_000):
        bottom["x"] = bottom = {}
    return top


def itself():
    metadata = {}
    metadata["me"] = metadata
    return metadata


NO_JSON = {
    "array": {"x": np.ones(2)},
    "set": {"x": {1}},
    "nan": {"x": float("nan")},
    "key": {(1, 2): 3},
    "itself": itself(),
    "deep": nested(),
}


@pytest.mark.parametrize("metadata", NO_JSON.values(), ids=NO_JSON)
def test_metadata_that_is_no_json(metadata, tmp_path):
    model = MLP([2, 2])
    model.save(tmp_path / "m")
    before = content(tmp_path)
    model.metadata = metadata
    with pytest.raises(TypeError, match="metadata cannot be written as JSON"):
        model.save(tmp_path / "m")
    assert content(tmp_path) == before


@pytest.mark.parametrize("key", [1, True, None, 0.5])
def test_a_key_that_is_there_twice_as_text(key, tmp_path):
    model = MLP([2, 2])
    text = json.dumps({key: 0})[2:-5]
    model.metadata = {"x": [{"a": 1, key: 2, text: 3}]}
    with pytest.raises(TypeError, match=f"cannot be written as JSON: a key is repeated: '{text}'"):
        model.save(tmp_path / "m")
    assert content(tmp_path) == {}
    model.metadata = {"x": [{"a": 1, key: 2}]}
    model.save(tmp_path / "m")
    assert MLP.load(tmp_path / "m").metadata == {"x": [{"a": 1, text: 2}]}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_that_is_not_finite_is_not_saved(value, tmp_path):
    model = MLP([2, 2])
    model.biases[0][1] = value
    with pytest.raises(ValueError, match="not finite; it was not saved"):
        model.save(tmp_path / "m")
    assert content(tmp_path) == {}


def test_the_file_is_that_of_the_library(tmp_path):
    numbers = np.arange(6)
    tensors = {
        f"{kind}.{i}": numbers.astype(kind).reshape(shape)
        for kind in persist.KINDS
        for i, shape in enumerate([(6,), (2, 3), (3, 1, 2)])
    }
    tensors |= {
        "none": np.zeros((0, 2), "f4"),
        "back": numbers[::-1],
        "of Fortran": np.eye(3)[:, 1:],
    }
    description = {"text": 'é "x" \n \u2028 \x7f \\', "list": [1, None, 0.5]}
    persist.save(tmp_path / "m", tensors, description)
    data = (tmp_path / "m").read_bytes()
    with safetensors.safe_open(tmp_path / "m", framework="numpy") as file:
        metadata = file.metadata()
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    assert data == safetensors.numpy.save(tensors, metadata=metadata)
    loaded, held = persist.load(tmp_path / "m")
    assert held == description and set(loaded) == set(tensors)
    with pytest.raises(TypeError, match="c is complex128, which a safetensors file cannot hold"):
        persist.save(tmp_path / "m", {"c": np.zeros(2, complex)}, description)
    assert (tmp_path / "m").read_bytes() == data


NO_MEMORY = """
    import os, resource, sys
    from fastmlp import MLP

    os.environ["RUST_BACKTRACE"] = "0"
    what, room = sys.argv[1], int(sys.argv[2])
    if what == "load":
        function, argument = MLP.load, "saved"
    else:
        function, argument = MLP([1000, 10_000]).save, "new"
    pages = int(open("/proc/self/statm").read().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + room * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    try:
        function(argument)
    except (MemoryError, OSError) as error:
        told = isinstance(error, MemoryError) or "Cannot allocate memory" in str(error)
        print("MemoryError" if told else error)
    else:
        print("done")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process, on Linux")
def test_too_little_memory_for_a_large_model(tmp_path):
    """A model of 40 MB is saved with room for one copy, and loaded or refused with any room."""
    MLP([1000, 10_000]).save(tmp_path / "saved")
    for what, rooms in {"save": (20, 60), "load": (20, 60, 100, 400)}.items():
        told = []
        for room in rooms:
            done = subprocess.run(
                [sys.executable, "-c", textwrap.dedent(NO_MEMORY), what, str(room)],
                cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            told.append(done.stdout.strip())
        assert told == sorted(told), (what, told)  # "MemoryError" first, then "done"
        assert {*told} == {"MemoryError", "done"}, (what, told)


def test_load_where_there_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone: no such file"):
        MLP.load(tmp_path / "gone")
    with pytest.raises(IsADirectoryError, match="is a folder, expected a file"):
        MLP.load(tmp_path)
