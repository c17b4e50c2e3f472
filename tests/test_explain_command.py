"""``fastmlp explain``, descend, and the pictures."""

import errno
import io
import json
import math
import os
import re
import struct
from fractions import Fraction

import commandline
import numpy as np
import pytest

import fastmlp
from fastmlp.explain import descend, examples


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A network of the digits, trained by the command line."""
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    commandline.train("--data", "digits", "--epochs", 3, "--hidden", 20, "--out", path)
    return path


def explained(*argv):
    code, out, err = commandline.run("explain", *argv)
    assert (code, err) == (0, ""), err
    return out


def test_the_chain_in_full():
    out = explained()
    for line in (
        "    y = 1·12 = 12\n",
        "  row 4: output [12], wanted [8], ½·4² = 8\n",
        "  total loss, the mean over 5 rows: 3\n",
        "      row 4:  dL/dy · dy/dh · dh/dW1 = 0.8 · 1 · 4 = 3.2\n",
        "      sum over paths 6, engine 6\n",
        "      row 4:  dL/dy · dy/dW2 = 0.8 · 12 = 9.6\n",
        "      sum over paths 18, engine 18\n",
        "  W1: 3 - 0.01·6 = 2.94\n",
        "  W2: 1 - 0.01·18 = 0.82\n",
        "  loss 3 -> 0.477026\n",
    ):
        assert line in out, line
    assert "all agree" in out
    assert explained("--example", "chain") == out


def test_two_layers():
    out = explained("--example", "two-layer")
    assert "h1[1]: z = 1·1 - 1·2 = -1, relu(z) = 0  is off" in out
    assert "no error passes and their weights stay: h1[1]" in out
    assert "    W1[1,1]                 0              0        0.0e+00\n" in out
    assert "[0.5 -1]" in out and "Y = softmax(Z3) = [0.5 0.5]" in out


def test_learning_rate_and_weight():
    assert "W1: 3 - 0.02·6 = 2.88" in explained("--learning-rate", 0.02)
    out = explained("--weight", "1,0,0")
    assert out.startswith("dL/dW2: 5 paths\n") and out.count("\n") == 8


def test_a_row_of_the_digits(model):
    out = explained("--model", model, "--data", "digits", "--row", 7)
    assert "A network of 64-20-10 neurons" in out and "-log(p of class 7)" in out
    X, y = fastmlp.data.load_digits()
    loss = fastmlp.MLP.load(model).loss(X[[7, 9]] / 16, y[[7, 9]])
    out = explained("--model", model, "--data", "digits", "--row", "7,9")
    assert f"the mean over 2 rows: {loss:.6g}" in out
    assert out.startswith("Rows 0, 1, ... here are rows 7, 9 of digits.\nEvery input is value / 16")
    out = explained("--model", model, "--data", "digits", "--row", 7, "--weight", "0,21,3")
    assert out.startswith("Row 0 here is row 7 of digits.\n")
    assert explained("--model", model, "--data", "digits", "--row", "0:2").startswith("Every input")
    assert "3 rows" in explained("--model", model, "--data", "digits", "--row", "5:8")


def test_a_table(tmp_path):
    columns = commandline.rents(tmp_path / "t.csv")
    common = ("--target", "rent", "--data", tmp_path / "t.csv")
    commandline.train(*common, "--regression", "--epochs", 2, "--out", tmp_path / "m")
    out = explained(*common, "--model", tmp_path / "m", "--row", 3)
    mean, deviation = np.mean(columns["rent"]), np.std(columns["rent"])
    assert "loss squared_error" in out
    assert out.startswith(f"Row 0 here is row 3 of {tmp_path / 't.csv'}.\nThe inputs, in order:\n")
    assert "  x[0..2]: 1 for the city of the row, of Aachen, West, Bonn, Köln\n" in out
    name, shift, scale = re.search(r"  x\[4\]: \((\w+) - (.+)\) / (.+)\n", out).groups()
    x = [float(value) for value in out.partition("row 0: x = [")[2].partition("]")[0].split(", ")]
    assert name == "size" and len(x) == 7
    assert x[4] == pytest.approx((columns["size"][3] - float(shift)) / float(scale), abs=1e-4)
    shift, scale = map(float, re.search(r"is wanted: \(rent - (.+)\) / (.+)\n", out).groups())
    wanted = float(out.partition("wanted [")[2].partition("]")[0])
    assert wanted * scale + shift == pytest.approx(columns["rent"][3], rel=1e-4)
    assert wanted == pytest.approx((columns["rent"][3] - mean) / deviation, abs=0.2)
    commandline.train("--data", tmp_path / "t.csv", "--target", "city", "--epochs", 1,
                      "--out", tmp_path / "c")  # fmt: skip
    out = explained("--data", tmp_path / "t.csv", "--target", "city", "--model", tmp_path / "c")
    assert f"-log(p of class {columns['city'][0]})" in out


def test_files(model, tmp_path):
    html, plot = tmp_path / "r.html", tmp_path / "p.png"
    given = ("--model", model, "--data", "digits", "--row", 7, "--html", html, "--plot", plot)
    assert explained(*given) == f"report in {html}\npicture in {plot}\n"
    text = html.read_text(encoding="utf-8")
    data = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    assert data["sizes"] == [64, 20, 10] and data["y"] == [7] and data["check"]["agrees"]
    assert "http" not in text.replace("http://www.w3.org/", "")  # it asks for nothing
    width, height = struct.unpack(">II", plot.read_bytes()[16:24])
    assert width > 1000 and height > 700
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.png", "r.html"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--row", "7"], "--row goes with --model"),
        (["--data", "digits"], "--data goes with --model"),
        (["--model", "M"], "--model needs --data FILE"),
        (["--model", "M", "--example", "chain"], "expected one"),
        (["--model", "M", "--data", "digits", "--row", "1797"],
         "row 1797 does not exist: digits has 1,797 rows, 0..1796"),
        (["--model", "M", "--data", "digits", "--row", "-1"], "row -1 does not exist"),
        (["--model", "M", "--data", "digits", "--row", "x"], "--row is 'x', expected 7"),
        (["--model", "M", "--data", "digits", "--row", "5:5"], "names no row"),
        (["--model", "M", "--data", "digits", "--row", ""], "--row is '', expected 7"),
        (["--model", "M", "--data", "W"], "has 3 features, M expects 64"),
        (["--model", "M", "--data", "N"], "row 0, column 1"),
        (["--model", "M", "--data", "missing.npz"], "missing.npz"),
        (["--learning-rate", "-1"], "--learning-rate is -1"),
        (["--weight", "1,2"], "--weight is '1,2', expected three numbers"),
        (["--weight", "9,0,0"], "layer 9 does not exist: the model has 2 layers, expected 0..1"),
        (["--html", "no/such/folder.html"], "no/such"),
        (["--plot", "p.bmp"], "expected .png"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_bad_input(argv, message, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("W.npz", X=np.ones((2, 3)), y=[0, 1])
    np.savez("N.npz", X=np.where(np.arange(64) == 1, np.nan, 1.0) * np.ones((2, 1)), y=[0, 1])
    (tmp_path / "M").write_bytes(model.read_bytes())
    names = {"W": "W.npz", "N": "N.npz"}
    result = commandline.run("explain", *(names.get(word, word) for word in argv))
    commandline.refused(result, message)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["M", "N.npz", "W.npz"]


def test_a_folder_that_takes_no_file(tmp_path, monkeypatch):
    """The message names the file that was asked for, not the temporary one."""

    def refuse(path, *arguments, **named):
        raise OSError(errno.EROFS, "Read-only file system", path)

    monkeypatch.setattr(os, "open", refuse)
    result = commandline.run("explain", "--html", tmp_path / "r.html")
    commandline.refused(result, f"cannot write {tmp_path / 'r.html'}: Read-only file system")


def test_descend():
    """On a parabola every step multiplies the distance by 1 - 2 · rate."""
    way = descend(lambda p: (p[0] - 3) ** 2, 5, 0.1, 20)
    np.testing.assert_allclose(way.path[:, 0], 3 + 2 * 0.8 ** np.arange(21), rtol=1e-9)
    np.testing.assert_allclose(way.gradients[:, 0], 4 * 0.8 ** np.arange(21), rtol=1e-8)
    valley = descend(lambda p: (1 - p[0]) ** 2 + 5 * (p[1] - p[0] ** 2) ** 2, [-1, 1.5], 0.02, 2000)
    np.testing.assert_allclose(valley.path[-1], [1, 1], atol=1e-6)
    x, y = valley.path.T
    exact = np.stack([-2 * (1 - x) - 20 * x * (y - x**2), 10 * (y - x**2)], axis=1)
    np.testing.assert_allclose(valley.gradients, exact, rtol=1e-8, atol=1e-8)
    assert len(valley.text().splitlines()) == 13 and str(way).splitlines()[1].split()[:3] == [
        "0", "5", "4"
    ]  # fmt: skip


def test_descend_refuses():
    with pytest.raises(TypeError, match="f is 3, expected a function"):
        descend(3, [1])
    with pytest.raises(ValueError, match="expected finite numbers"):
        descend(lambda p: 0, [np.nan])
    with pytest.raises(TypeError, match="start is 'here'"):
        descend(lambda p: 0, "here")
    with pytest.raises(ValueError, match=r"an array of shape \(2,\), expected one number"):
        descend(lambda p: p, [1, 2])
    with pytest.raises(FloatingPointError, match=r"in step .*; try a smaller learning rate"):
        descend(lambda p: p[0] ** 4, [3.0], 10, 100)
    for returned in (None, "3", 1 + 2j):
        with pytest.raises(
            TypeError, match=f"f returned {re.escape(repr(returned))}, expected one"
        ):
            descend(lambda p, returned=returned: returned, [1])
    with pytest.raises(FloatingPointError, match=r"f is nan at \(1\); start where f is a finite"):
        descend(lambda p: np.nan, [1.0])
    with pytest.raises(FloatingPointError, match="start where f is a finite number, to all sides"):
        descend(lambda p: np.sqrt(p[0]), [0.0])
    assert descend(lambda p: Fraction(1, 2), [1.0], steps=1).values.tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match="steps is -1"):
        descend(lambda p: 0, [1], steps=-1)


def test_pictures():
    """They can be drawn, and show what they are said to; whether they are clear, eyes must say."""
    pytest.importorskip("matplotlib")
    model, X, y, rate = examples.chain()
    network, surface, training, agreement = (
        fastmlp.explain(model, X, y, learning_rate=rate).plot().axes
    )
    assert "row 1" in network.get_title("left") and len(network.lines) == 2
    assert (surface.get_xlabel(), surface.get_ylabel()) == ("W1", "W2")
    np.testing.assert_allclose(training.lines[0].get_ydata()[0], 3)
    np.testing.assert_allclose(np.sort(agreement.lines[1].get_xdata()), [2, 2, 6, 18])
    for start, n_lines in (([2.0], 2), ([2.0, 1], 2), ([2.0, 1, 0], 1)):
        figure = descend(lambda p: float((p**2).sum()), start, 0.1, 5).plot()
        assert len(figure.axes[0].lines) == n_lines
        figure.savefig(io.BytesIO(), format="png")


@pytest.mark.parametrize("log", [math.log, np.log])
def test_pictures_of_a_function_with_a_limited_domain(log):
    pytest.importorskip("matplotlib")
    axes = descend(lambda p: p[0] - log(p[0]), [0.2], 0.1, 50).plot().axes[0]
    x, heights = (np.array(data, float) for data in axes.lines[0].get_data())
    assert (x <= 0).any() and np.isnan(heights[x <= 0]).all()
    np.testing.assert_allclose(heights[x > 0], x[x > 0] - np.log(x[x > 0]))
    figure = descend(lambda p: p[0] - log(p[0]) + p[1] ** 2, [0.2, 1], 0.1, 50).plot()
    figure.savefig(io.BytesIO(), format="png")


def test_notebook():
    model, X, y, _ = examples.two_layer()
    html = fastmlp.explain(model, X, y)._repr_html_()
    assert html.startswith('<iframe title="fastmlp.explain" srcdoc="&lt;!doctype html&gt;')
    assert html.count('"') == 6  # the page's own are all escaped


@pytest.mark.parametrize("case", ["rate", "poisson", "raw", "plane"])
def test_overflow(case):
    """What overflows is a mark in the report, inf in the text, and no warning."""
    rng = np.random.default_rng(0)
    X, y, rate = rng.uniform(0, 20, (30, 4)), rng.uniform(0, 20, (30, 1)), 0.1
    if case == "rate":
        model, X, y, _ = examples.chain()
        rate = 1e300
    elif case == "poisson":
        model = fastmlp.MLP([4, 16, 16, 1], loss="poisson", seed=0)
    elif case == "raw":
        model = fastmlp.MLP([4, 100, 100, 1], loss="squared_error", seed=0)
        X, y = 1000 * X, 1000 * y
    else:
        model, X = fastmlp.MLP([2, 4, 1], loss="poisson", seed=2), X[:, :2]
    e = fastmlp.explain(model, X, y, learning_rate=rate)
    page = e.html()
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert data["loss"] == e.loss
    assert data["lossAfter"] == (e.loss_after if np.isfinite(e.loss_after) else "∞")
    assert "5. REPEAT" in e.text()
    if case == "rate":
        assert not np.isfinite(e.loss_after)
    pytest.importorskip("matplotlib")
    e.plot().savefig(io.BytesIO(), format="png")
