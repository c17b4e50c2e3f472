"""The command line: results, files, exit codes, and one sentence for everything that goes wrong."""

import csv
import gzip
import io
import json
import os
import struct
import subprocess
import sys

import commandline
import numpy as np
import pytest
from commandline import ctrl_c, refused

import fastmlp
from fastmlp import MLP, data
from fastmlp.preprocessing import SCALINGS, Preprocessing

KEYS = "test_accuracy loss epochs seconds samples_per_second engine threads model"
COMMAND = [sys.executable, "-m", "fastmlp"]
OLD = b"what was there before"


@pytest.fixture
def run():
    return commandline.run


@pytest.fixture
def train(run):
    """Train with --json; give what it prints."""

    def train(*argv):
        code, out, err = run("train", "--json", *argv)
        assert (code, err) == (0, "") and out.count("\n") == 1
        result = json.loads(out)
        assert " ".join(result) == KEYS
        return result

    return train


def flowers(path, order=("width", "length", "kind"), seed=0):
    """Write a CSV of two kinds of flowers, well apart; return their features and kinds."""
    rng = np.random.default_rng(seed)
    kinds = np.repeat(["größe", "klein"], 40)
    X = rng.normal(size=(80, 2)) + np.where(kinds == "klein", 0, 12)[:, None] * [1, 100]
    columns = {"width": X[:, 0], "length": X[:, 1], "kind": kinds}
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(order)
        writer.writerows(zip(*(columns[name].tolist() for name in order), strict=True))
    return X, kinds


def write_idx(path, array):
    """Write an array of bytes as IDX."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def table(text):
    """Return the labels and the probabilities that predict has written."""
    rows = list(csv.reader(io.StringIO(text)))
    return rows[0], [row[0] for row in rows[1:]], np.array([row[1:] for row in rows[1:]], float)


def test_digits_in_a_process(tmp_path):
    out = tmp_path / "m"
    done = subprocess.run(
        [*COMMAND, "train", "--data", "digits", "--json", "--out", out],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == ""
    result = json.loads(done.stdout)
    assert " ".join(result) == KEYS
    assert result["test_accuracy"] >= 0.97 and 0 < result["loss"] < 0.1
    assert result["epochs"] == 30 and result["model"] == str(out)
    rate = round(0.8 * 1797) * 30 / result["seconds"]
    assert result["samples_per_second"] == pytest.approx(rate, rel=1e-3)
    assert result["engine"] == fastmlp.SGD(MLP([1, 1])).engine and result["threads"] >= 1
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_same_seed_same_model(train, tmp_path):
    def model(name, seed):
        train("--data", "digits", "--epochs", 2, "--out", tmp_path / name, "--seed", seed)
        return (tmp_path / name).read_bytes()

    assert model("a", 1) == model("b", 1) != model("c", 2)


def test_digits_round_trip(run, train, tmp_path):
    train("--data", "digits", "--epochs", 3, "--out", tmp_path / "m")
    code, out, err = run("predict", tmp_path / "m", "--data", "digits")
    assert (code, err) == (0, "")
    header, labels, probabilities = table(out)
    model, (X, _) = MLP.load(tmp_path / "m"), data.load_digits()
    assert header == ["label", *(f"probability_{i}" for i in range(10))]
    assert labels == [str(label) for label in model.predict(X / 16)]
    np.testing.assert_array_equal(probabilities.astype("float32"), model.predict_proba(X / 16))
    code, out, err = run("predict", tmp_path / "m", "--data", "digits", "--out", tmp_path / "p.csv")
    assert (code, out, err) == (0, f"1797 predictions in {tmp_path / 'p.csv'}\n", "")
    assert table((tmp_path / "p.csv").read_text())[1] == labels


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_csv_round_trip(run, train, dtype, tmp_path):
    X, kinds = flowers(tmp_path / "t.csv")
    out = tmp_path / "m"
    result = train("--data", tmp_path / "t.csv", "--target", "kind", "--out", out, "--dtype", dtype)
    assert result["test_accuracy"] == 1
    model = MLP.load(out)
    assert model.dtype == dtype and model.sizes == (2, 100, 2)
    assert model.metadata["labels"] == ["größe", "klein"]
    assert model.metadata["features"] == ["width", "length"]
    rest = np.random.default_rng(0).permutation(80)[16:]
    expected = model.predict_proba((X - X[rest].mean(axis=0)) / X[rest].std(axis=0))
    code, text, _ = run("predict", out, "--data", tmp_path / "t.csv")
    header, labels, probabilities = table(text)
    assert code == 0 and header == ["label", "probability_größe", "probability_klein"]
    np.testing.assert_array_equal(probabilities.astype(dtype), expected)
    assert labels == [["größe", "klein"][i] for i in expected.argmax(axis=1)] == kinds.tolist()
    for order in ("kind", "length", "width"), ("length", "width"):  # columns go by their names
        flowers(tmp_path / "other.csv", order)
        assert run("predict", out, "--data", tmp_path / "other.csv") == (0, text, "")
    flowers(tmp_path / "other.csv", ("kind", "length"))
    refused(run("predict", out, "--data", tmp_path / "other.csv"), "has no column 'width'")


@pytest.mark.parametrize("labels", ["npy", "idx"])
@pytest.mark.parametrize("kind", ["npz", "npy", "idx", "idx.gz"])
def test_digits_from_files(kind, labels, train, run, tmp_path):
    """The same images from every kind of file train the same network."""
    X, y = data.load_digits()
    images, named = tmp_path / f"x.{kind}", tmp_path / f"y.{labels}"
    np.save(named, y) if labels == "npy" else write_idx(named, y)
    if kind == "npz":
        np.savez(images, X=X, y=y)
    elif kind == "npy":
        np.save(images, X.reshape(-1, 8, 8))
    else:
        write_idx(images, X.reshape(-1, 8, 8))
        if kind == "idx.gz":
            images.write_bytes(gzip.compress(images.read_bytes()))
    given = ["--data", images] + (["--labels", named] if kind != "npz" else [])
    common = ["--epochs", 2, "--scale", "range", "--out"]
    train(*given, *common, tmp_path / "m")
    train("--data", "digits", *common, tmp_path / "expected")
    assert (tmp_path / "m").read_bytes() == (tmp_path / "expected").read_bytes()
    expected = run("predict", tmp_path / "m", "--data", "digits")
    assert run("predict", tmp_path / "m", "--data", images) == expected


@pytest.mark.parametrize(
    ("given", "sizes"),
    [("20", [64, 20, 10]), ("7,5", [64, 7, 5, 10]), ("7, 5", [64, 7, 5, 10]), ("", [64, 10])],
)
def test_hidden(given, sizes, train, tmp_path):
    train("--data", "digits", "--epochs", 1, "--hidden", given, "--out", tmp_path / "m")
    assert list(MLP.load(tmp_path / "m").sizes) == sizes


@pytest.mark.parametrize("scale", ["", "--scale", *(f"--scale={name}" for name in SCALINGS)])
def test_scale(scale, train, tmp_path):
    X, _ = flowers(tmp_path / "t.csv")
    out = tmp_path / "m"
    train("--data", tmp_path / "t.csv", "--target", "kind", "--epochs", 1, *scale.split(),
          "--learning-rate", 1e-9, "--test-fraction", 0, "--out", out)  # fmt: skip
    order = np.random.default_rng(0).permutation(80)
    name = scale.partition("=")[2] or "standard"
    expected = Preprocessing.learn(X[order], ["größe", "klein"], ["width", "length"], name)
    assert MLP.load(out).metadata == expected.to_metadata()


def test_options_reach_the_trainer(train, tmp_path):
    """The command line trains what Python trains with the same numbers."""
    numbers = "--epochs 2 --batch-size 50 --learning-rate 0.01 --momentum 0.5 --seed 3 --hidden 9"
    train("--data", "digits", *numbers.split(), "--test-fraction", 0.5, "--out", tmp_path / "m")
    X, y = data.load_digits()
    rest = np.random.default_rng(3).permutation(1797)[round(0.5 * 1797) :]
    model = MLP([64, 9, 10], seed=3)
    sgd = fastmlp.SGD(model, batch_size=50, learning_rate=0.01, momentum=0.5, seed=3)
    sgd.fit(X[rest] / 16, y[rest], epochs=2)
    np.testing.assert_array_equal(MLP.load(tmp_path / "m").params, model.params)


def test_threads_and_no_test(train):
    result = train("--data", "digits", "--epochs", 1, "--threads", 1, "--test-fraction", 0)
    assert result["threads"] == 1 and result["test_accuracy"] is None and result["model"] is None


def test_for_people(run, tmp_path):
    code, out, err = run("train", "--data", "digits", "--epochs", 2, "--out", tmp_path / "m")
    assert code == 0 and "2/2" in err  # the bar
    words = "test accuracy,training loss,epochs,seconds,samples/s,engine,threads,model"
    assert [line[:14].rstrip() for line in out.splitlines()] == words.split(",")
    code, out, err = run("info", tmp_path / "m")
    assert (code, err) == (0, "") and "sizes       64, 100, 10\n" in out


def test_info(run, train, tmp_path):
    code, out, err = run("info", "--json")
    assert (code, err) == (0, "") and json.loads(out) == fastmlp.engines.configuration()
    code, out, err = run("info")
    assert (code, err) == (0, "") and out.startswith(f"fastmlp     {fastmlp.__version__}\n")
    train("--data", "digits", "--epochs", 1, "--out", tmp_path / "m")
    code, out, err = run("info", tmp_path / "m", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "sizes": [64, 100, 10],
        "activation": "relu",
        "loss": "softmax_cross_entropy",
        "dtype": "float32",
        "parameters": 65 * 100 + 101 * 10,
        "labels": [str(i) for i in range(10)],
        "features": None,
    }
    model = fastmlp.MLP([1, 2])
    model.metadata = {"labels": ["\x1b[2J", "\ud800", "größer 🎈"]}
    model.save(tmp_path / "m")  # what it says is not to steer the terminal
    assert "labels      \\x1b[2J, \\ud800, größer 🎈\n" in run("info", tmp_path / "m")[1]
    assert run("--version") == (0, f"fastmlp {fastmlp.__version__}\n", "")


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["fly"],
        ["predict", "m"],
        ["info", "a", "b"],
        ["train", "--dat", "digits"],
        ["info", "--js"],
        *(
            ["train", "--data", "digits", f"--hidden={widths}"]
            for widths in ("0", "-5", "3,x", "3,,4")
        ),
        *(["train", "--data", "digits", "--epochs", epochs] for epochs in ("x", "1.5", "")),
        ["train", "--data", "digits", "--learning-rate", "fast"],
        ["train", "--data", "digits", "--scale", "max"],
        ["train", "--data", "digits", "--dtype", "float16"],
    ],
    ids=" ".join,
)
def test_usage_errors(argv, run):
    code, out, err = run(*argv)
    assert code == 2 and out == ""
    assert err.startswith("usage: fastmlp") and "error: " in err.splitlines()[-1]


FILES = {
    "t.csv": b"a,b,y\n1,2,x\n3,4,z\n5,6,x\n7,8,z\n9,1,x\n",
    "bad.csv": b"a,b,y\n1,2,x\n3,4,z\n1,,x\n",
    "same.csv": b"a,y\n1,x\n2,x\n",
    "one.csv": b"a,y\n1,x\n2,z\n",
    "huge.csv": b"a,y\n1e308,x\n-1e308,z\n-1e308,z\n",
    "words.txt": b"a,b\n1,2\n",
    "empty.npy": b"",
    "labels.idx": b"\0\0\x08\1\0\0\0\4\0\1\0\1",
    "images.idx": b"\0\0\x08\2\0\0\0\3\0\0\0\1\0\1\2",
}
BAD_TRAINING = {
    "--data gone.csv --target y": "gone.csv: no such file",
    "--data . --target y": "--target names a column of a .csv file",
    "--data .": "needs --labels FILE",
    "--data t.csv": "t.csv needs --target COLUMN",
    "--data t.csv --target z": "t.csv has no column 'z'; it has a, b, y",
    "--data t.csv --target y --labels labels.idx": "t.csv brings its own labels",
    "--data bad.csv --target y": "bad.csv, line 4, column 'b': the cell is empty",
    "--data same.csv --target y": "the labels are all 'x'",
    "--data one.csv --target a --regression --momentum 2": "momentum is 2",
    "--data one.csv --target y --test-fraction 0.9": "none are left to train on",
    "--data huge.csv --target y --test-fraction 0": "too large for standard scaling",
    "--data huge.csv --target y --test-fraction 0 --scale none": "too large for float32",
    "--data words.txt --labels labels.idx": "words.txt is not an IDX file",
    "--data empty.npy --labels labels.idx": "empty.npy is not a NumPy file: it is empty",
    "--data noy.npz": "noy.npz has no array named y",
    "--data scalar.npz": "scalar.npz holds an array of shape ()",
    "--data text.npz": "text.npz holds <U1, expected real numbers",
    "--data nan.npz": "nan.npz, row 1, column 0: nan is not finite",
    "--data half.npz": "the label of row 1 is 0.5",
    "--data digits --labels labels.idx": "digits brings its own labels",
    "--data images.idx": "images.idx needs --labels FILE",
    "--data images.idx --labels gone": "gone: no such file",
    "--data images.idx --labels labels.idx": "images.idx has 3 rows, its labels are 4",
    "--data digits --epochs 0": "--epochs is 0, expected at least 1",
    "--data digits --batch-size 0": "batch_size is 0, expected at least 1",
    "--data digits --learning-rate -1": "learning_rate is -1",
    "--data digits --learning-rate nan": "learning_rate is nan",
    "--data digits --momentum 1": "momentum is 1",
    "--data digits --threads 0": "--threads is 0",
    "--data digits --seed -1": "--seed is -1",
    "--data digits --test-fraction 1": "--test-fraction is 1.0, expected 0 <= F < 1",
    "--data digits --test-fraction nan": "--test-fraction is nan",
    "--data digits --out .": "it is a folder",
    "--data digits --out gone/m": "there is no folder",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of bad files, to work in; gives a function that returns all it holds."""
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "old").write_bytes(OLD)
    X = np.ones((2, 1))
    np.savez(tmp_path / "noy.npz", X=X)
    np.savez(tmp_path / "scalar.npz", X=1.0, y=[0, 1])
    np.savez(tmp_path / "text.npz", X=X.astype("U1"), y=[0, 1])
    np.savez(tmp_path / "nan.npz", X=[[1], [np.nan]], y=[0, 1])
    np.savez(tmp_path / "half.npz", X=X, y=[0, 0.5])
    monkeypatch.chdir(tmp_path)
    return lambda: {path.name: path.read_bytes() for path in tmp_path.iterdir()}


@pytest.mark.parametrize("argv", BAD_TRAINING)
def test_bad_training(argv, run, folder, monkeypatch):
    before = folder()
    if "--out" in argv:
        monkeypatch.setattr(fastmlp.SGD, "fit", lambda *_, **__: pytest.fail("found out too late"))
    arguments = argv.split() + ([] if "--out" in argv else ["--out", "old"])
    refused(run("train", "--json", *arguments), BAD_TRAINING[argv])
    assert folder() == before


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        ("gone --data digits", "gone: no such file"),
        ("old --data digits --out p.csv", "old is not a fastmlp model that can be read"),
        ("m --data digits --out m", "MODEL and --out both name m"),
        ("m --data t.csv --out ./t.csv", "--data and --out both name t.csv"),
        ("bare --data digits", "bare is not a fastmlp model that can be read: it was not trained"),
        ("bent --data digits", "it has 1 labels where its sizes ask for 10"),
        ("m --data gone.npy", "gone.npy: no such file"),
        ("m --data t.csv", "t.csv, line 2, column 'y': 'x' is not a number"),
        ("m --data images.idx", "images.idx has 1 features, m expects 64"),
        ("m --data digits --out gone/p.csv", "there is no folder"),
    ],
)
def test_bad_prediction(argv, what, run, train, folder):
    train("--data", "digits", "--epochs", 1, "--out", "m")
    model = MLP.load("m")
    for name, metadata in (("bare", {}), ("bent", model.metadata | {"labels": ["a"]})):
        model.metadata = metadata
        model.save(name)
    before = folder()
    arguments = argv.split() + ([] if "--out" in argv else ["--out", "old"])
    refused(run("predict", *arguments), what)
    assert folder() == before
    refused(run("info", "old"), "old is not a fastmlp model")


def test_divergence_keeps_the_old_model(run, folder):
    before = folder()
    result = run("train", "--json", "--data", "digits", "--learning-rate", 1e30, "--out", "old")
    refused(result, "the loss is not finite in epoch 1, step", code=1)
    assert result[2].endswith("Nothing was written\n") and folder() == before


def test_out_of_memory(run, folder):
    before = folder()
    argv = ["--data", "digits", "--hidden", 10**14, "--out", "old"]
    refused(run("train", "--json", *argv), "out of memory", code=1)
    assert folder() == before


def test_bad_input_in_a_process(folder):
    argv = [*COMMAND, "train", "--data", "bad.csv", "--target", "y"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    refused((done.returncode, done.stdout, done.stderr), "bad.csv, line 4, column 'b'")


@pytest.mark.skipif(os.name != "posix", reason="sends the signal that Ctrl-C sends on POSIX")
def test_interrupt(folder):
    before = folder()
    code, out, err = ctrl_c("--data", "digits", "--out", "old")
    assert code == 130 and out == ""
    assert err.splitlines()[-1] == (
        "fastmlp: error: interrupted, nothing was written; --checkpoint FILE would have kept the "
        "run"
    )
    assert "Traceback" not in err and folder() == before
