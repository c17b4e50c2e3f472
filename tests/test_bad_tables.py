"""Tables that cannot be used, by train or by predict: one sentence each, and nothing written."""

import numpy as np
import pytest
from commandline import held, refused, rents, run, train

import fastmlp
from fastmlp import MLP

# the table, more of the command line, the sentence
BAD_TRAINING = {
    "missing": ("a,y\n1,x\n,z\n", "", "t.csv, line 3, column 'a': the cell is empty; --ignore"),
    "mixed": ("a,y\n1,x\n2,x\nb,z\n", "", "line 4, column 'a': 'b' is not a number, as 2 of the 3"),
    "ids": ("a,y\n" + "".join(f"i{i},{i % 2}\n" for i in range(20)), "", "column 'a': 20 differ"),
    "repeated": ("a,a,y\n1,2,x\n", "", "t.csv, line 1: repeats the column 'a'"),
    "missing target": ("a,y\n1,x\n2,NA\n", "", "line 3, column 'y': 'NA' stands for a missing"),
    "empty target": ("a,y\n1,2\n2,\n", "--regression", "line 3, column 'y': the cell is empty"),
    "text target": ("a,y\n1,2\n2,x\n", "--regression", "line 3, column 'y': 'x' is not a number"),
    "infinite target": ("a,y\n1,2\n2,inf\n", "--regression", "line 3, column 'y': 'inf' is not f"),
    "constant target": ("a,y\n1,2\n3,2\n", "--regression", "the target 'y' is 2 in every row"),
    "huge target": ("a,y\n1,1e308\n3,-1e308\n", "--regression", "'y' holds numbers too large"),
    "fractions": ("a,y\n1,1.5\n3,2\n", "", "line 2, column 'y': 1.5 is not the number of a class"),
    "one class": ("a,y\n1,x\n3,x\n", "", "the labels are all 'x'"),
    "too large": ("a,b,y\n1,2,x\n2,1e300,z\n", "--scale none", "line 3, column 'b': 1e+300 is too"),
    "unknown ignored": ("a,y\n1,x\n", "--ignore z", "t.csv has no column 'z'; it has a, y"),
    "unknown text": ("a,y\n1,x\n", "--text z", "t.csv has no column 'z'; it has a, y"),
    "ignored target": ("a,y\n1,x\n", "--ignore y", "--ignore leaves out 'y', which is the column"),
    "all ignored": ("a,y\n1,x\n", "--ignore a", "t.csv has no column besides the target 'y'"),
    "text regression": ("a,y\n1,1\n", "--regression --text y", "--text 'y' does not go with"),
    "ignored text": ("a,y\n1,x\n", "--ignore a --text a", "--ignore and --text both name 'a'"),
    "one row": ("a,y\n1,1\n2,2\n", "--early-stopping --test-fraction .5", "none are left to train"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_TRAINING)
def test_bad_tables(case, folder):
    content, options, what = BAD_TRAINING[case]
    (folder / "t.csv").write_text(content)
    before = held(folder)
    argv = ["--data", "t.csv", "--target", "y", "--test-fraction", 0, *options.split()]
    refused(run("train", "--json", *argv, "--out", "old", "--plot", "p.png"), what)
    assert held(folder) == before


BAD_OPTIONS = {
    "--patience 3": "--patience goes with --early-stopping",
    "--validation-fraction 0.1": "--validation-fraction goes with --early-stopping",
    "--early-stopping --patience 0": "--patience is 0, expected at least 1",
    "--early-stopping --validation-fraction 0": "--validation-fraction is 0.0, expected 0 < F < 1",
    "--early-stopping --validation-fraction nan": "--validation-fraction is nan",
    "--optimizer adam --momentum 0.5": "--momentum goes with --optimizer sgd, not adam",
    "--plot p.gif": "--plot is 'p.gif', expected a name that ends in .png, .svg, .pdf",
    "--plot p": "--plot is 'p', expected a name",
    "--plot gone/p.png": "there is no folder",
    "--plot p.png --out ./p.png": "--out and --plot both name ./p.png",
    "--text a": "--text names columns of a .csv file; digits has none",
    "--ignore a": "--ignore names columns of a .csv file",
}


@pytest.mark.parametrize("options", BAD_OPTIONS)
def test_bad_options(options, folder, monkeypatch):
    monkeypatch.setattr(fastmlp.SGD, "fit", lambda *_, **__: pytest.fail("found out too late"))
    before = held(folder)
    refused(run("train", "--json", "--data", "digits", *options.split()), BAD_OPTIONS[options])
    assert held(folder) == before


def test_bad_regression_arrays(folder):
    X = np.ones((2, 1))
    cases = {
        "of <U1, --regression learns real numbers": ["a", "b"],
        "of shape (2, 2), expected one a row": np.eye(2),
        "the target of row 1: nan is not finite": [1, np.nan],
    }
    for what, y in cases.items():
        np.savez("t.npz", X=X, y=y)
        refused(run("train", "--json", "--data", "t.npz", "--regression"), what)


BAD_CELLS = {
    "unseen": ("size,city\n1,Bonn\n2,Ulm\n", "u.csv, line 3, column 'city': 'Ulm' is none of"),
    "missing text": ("size,city\n1,\n", "u.csv, line 2, column 'city': the cell is empty"),
    "missing number": ("size,city\nNaN,Bonn\n", "line 2, column 'size': 'NaN' stands for a miss"),
    "number": ("size,city\n1,7\n", "line 2, column 'city': 7 is a number, expected one of the"),
    "text": ("size,city\nbig,Bonn\n", "line 2, column 'size': 'big' is not a number"),
    "no column": ("Size,city\n1,Bonn\n", "u.csv has no column 'size'; it has Size, city"),
    "repeated": ("size,city,city\n1,Bonn,Bonn\n", "u.csv, line 1: repeats the column 'city'"),
    "too large": ("size,city\n1e300,Bonn\n", "line 2, column 'size': 1e+300 is too large for flo"),
    "quoted lines": ('size,city\n1,"Bo\nnn"\n', "u.csv, line 2, column 'city': 'Bo\\nnn' is none"),
    "after them": ('note,size,city\n"1\n2",1,Bonn\n,x,Bonn\n', "u.csv, line 4, column 'size'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["classes", "regression"])
@pytest.mark.parametrize("case", BAD_CELLS)
def test_bad_cells_for_predict(case, kind, folder):
    rents(folder / "t.csv", order=["size", "city", "garden", "rent"])
    target = ["--target", "rent", "--regression", "--ignore", "garden"]
    if kind == "classes":
        target = ["--target", "garden", "--ignore", "rent"]
    train("--data", "t.csv", *target, "--epochs", 1, "--out", "m")
    content, what = BAD_CELLS[case]
    (folder / "u.csv").write_text(content)
    before = held(folder)
    refused(run("predict", "m", "--data", "u.csv", "--out", "old"), what)
    refused(run("predict", "m", "--data", "digits"), "expected a .csv with size, city")
    assert held(folder) == before


def test_a_model_whose_description_does_not_fit(folder):
    train("--data", "t.csv", "--target", "rent", "--regression", "--epochs", 1, "--out", "m")
    model = MLP.load("m")
    bent = MLP(model.sizes)  # of classes
    bent.metadata = model.metadata
    bent.save("bent")
    refused(run("predict", "bent", "--data", "t.csv"), "its loss, softmax_cross_entropy, does not")
