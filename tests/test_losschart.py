"""The chart of the losses: what it shows, in which format, and what it needs."""

import builtins
import re
import struct
import sys

import numpy as np
import pytest
from commandline import held, refused, run, train

import fastmlp
from fastmlp import losschart


@pytest.fixture
def matplotlib():
    return pytest.importorskip("matplotlib", reason="matplotlib is not installed")


@pytest.mark.parametrize(
    ("ending", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("PDF", b"%PDF")]
)
def test_plot(ending, start, matplotlib, folder):
    result = train("--data", "t.csv", "--target", "city", "--plot", f"p.{ending}", "--out", "m")
    assert result["plot"] == f"p.{ending}" and list(result)[-1] == "plot"
    content = (folder / f"p.{ending}").read_bytes()
    assert content.startswith(start)
    if ending == "png":
        assert struct.unpack(">2I", content[16:24]) == (1050, 630)
    assert sorted(held(folder)) == sorted(["m", "old", f"p.{ending}", "t.csv"])


def test_plot_without_matplotlib(folder, monkeypatch):
    """Found out before the training, and nothing but --plot needs it."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    imported = builtins.__import__

    def without(name, *arguments, **named):
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError("No module named 'matplotlib'")
        return imported(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    train("--data", "t.csv", "--target", "city", "--epochs", 1)
    monkeypatch.setattr(fastmlp.SGD, "fit", lambda *_, **__: pytest.fail("found out too late"))
    what = "--plot needs matplotlib, which cannot be imported (No module named 'matplotlib'); "
    refused(run("train", "--json", "--data", "digits", "--plot", "p.png"), what)
    assert not (folder / "p.png").exists()


def test_divergence_leaves_no_file(matplotlib, folder):
    before = held(folder)
    argv = ["--target", "rent", "--regression", "--learning-rate", 1e30, "--early-stopping"]
    result = run("train", "--json", "--data", "t.csv", *argv, "--plot", "p.png", "--out", "old")
    refused(result, "Nothing was written", code=1)
    assert held(folder) == before


def drawn(loss, validation_loss=(), title="t", kept=False):
    """Draw a history as SVG, whose texts can be read."""
    history = fastmlp.History(list(loss), list(validation_loss))
    chart = losschart.draw(
        history, "p.svg", title=title, measure="squares", watched="validation rows", kept=kept
    )
    return [text.strip() for text in re.findall(r"<!--(.*?)-->", chart.decode(), re.S)]


def test_the_best_epoch_is_marked(matplotlib):
    words = drawn([3, 2, 1.5], [2, 1, 1.25], kept=True)
    assert "least on validation rows: 1" in words and "after epoch 2, kept" in words
    assert "epoch" in words and "loss (squares)" in words
    assert "after epoch 2" in drawn([3, 2, 1.5], [2, 1, 1.25])
    assert not [word for word in drawn([3, 2, 1.5]) if "after epoch" in word]


def test_the_scale_of_the_losses(matplotlib):
    """Linear from 0, or logarithmic where that shows more; ticks are plain numbers."""
    assert {"0.00", "1.00", "2.00"} < set(drawn([2, 1.5, 1]))
    words = drawn(np.geomspace(2, 0.02, 50))
    assert {"1", "0.5", "0.2", "0.1", "0.05"} < set(words) and "0.00" not in words
    assert {"0.01", "0.1", "1"} < set(drawn(np.geomspace(3, 0.003, 50)))
    assert len({"1e-08", "1e-06", "0.0001", "0.01", "1"} & set(drawn([3, 1e-9]))) >= 3
    assert "0.00" in drawn([2, 1, 0])  # which has no logarithm


@pytest.mark.parametrize("n", [1, 2, 500])
def test_epochs_are_whole(n, matplotlib):
    words = drawn(np.linspace(2, 1, n), np.linspace(2, 1, n))
    assert f"after epoch {n}" in words and "0.5" not in words[: words.index("epoch")]


def test_losses_that_are_not_finite(matplotlib):
    words = drawn([2, 1, 1], [np.nan, 1.5, np.inf])
    assert "least on validation rows: 1.5" in words and "after epoch 2" in words
    assert not [word for word in drawn([2, 1], [np.inf, np.nan]) if "after epoch" in word]


def test_names_that_matplotlib_could_misread(matplotlib):
    assert "$price_{$ of größe.csv" in drawn([2, 1], title="$price_{$ of größe.csv")
    drawn([2, 1], title="価格.csv")  # in letters the font does not have
    assert f"{'x' * 39}…" in drawn([2, 1], title="x" * 50)
