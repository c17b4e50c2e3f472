"""Training on tables from the command line: what is learnt, stored, applied, drawn and refused."""

import csv
import json
import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from commandline import predictions, refused, rents, run, split, train

import fastmlp
from fastmlp import MLP, training
from fastmlp.preprocessing import Preprocessing
from fastmlp.sources import read_rows


def test_classes_of_a_mixed_table(folder):
    """One-hot columns stand where their column stands, numbers are standardised."""
    given = rents(folder / "t.csv")
    result = train("--data", "t.csv", "--target", "city", "--out", "m")
    model = MLP.load("m")
    assert model.sizes == (5, 100, 3)
    assert model.metadata["categories"] == {"garden": ["False", "True"]}
    assert model.metadata["features"] == ["rooms", "size", "garden", "rent"]
    rest, _, test = split(240, 48)
    N = np.column_stack([given[name] for name in ("rooms", "size", "rent")])
    N = (N - N[rest].mean(axis=0)) / N[rest].std(axis=0)
    garden = np.array(given["garden"])
    X = np.column_stack([N[:, :2], garden == "False", garden == "True", N[:, 2]])
    labels = np.array(["Aachen, West", "Bonn", "Köln"])
    right = labels[model.predict(X)] == given["city"]
    assert result["test_accuracy"] == right[test].mean() >= 0.8
    header, rows = predictions("m", "--data", "t.csv")
    assert header == ["label", *(f"probability_{label}" for label in labels)]
    np.testing.assert_array_equal(
        np.array([row[1:] for row in rows], np.float32), model.predict_proba(X)
    )


def test_a_table_in_another_shape(folder):
    """Order, more columns, line ends, a byte order mark: the same predictions."""
    train("--data", "t.csv", "--target", "rent", "--regression", "--out", "m")
    expected = predictions("m", "--data", "t.csv")
    names = ["garden", "size", "city", "rooms"]
    rents(folder / "u.csv", order=["rent", *names], end="\r\n", bom=True, more=True)
    assert predictions("m", "--data", "u.csv") == expected
    rents(folder / "u.csv", order=names)
    assert predictions("m", "--data", "u.csv") == expected
    rents(folder / "u.csv", order=names[1:])
    refused(run("predict", "m", "--data", "u.csv"), "u.csv has no column 'garden'; it has size")


def test_regression(folder):
    given = rents(folder / "t.csv")
    result = train("--data", "t.csv", "--target", "rent", "--regression", "--out", "m")
    assert list(result)[:3] == ["test_r2", "test_mean_absolute_error", "loss"]
    assert "test_accuracy" not in result
    rest, _, test = split(240, 48)
    y = np.array(given["rent"])
    target = MLP.load("m").metadata["target"]
    assert target == {"name": "rent", "shift": y[rest].mean(), "scale": y[rest].std()}
    header, rows = predictions("m", "--data", "t.csv")
    assert header == ["rent"]
    P = np.array([float(row[0]) for row in rows])
    r2 = 1 - np.square(P - y)[test].sum() / np.square(y - y[test].mean())[test].sum()
    # float32 targets are off by a roundoff of their size, and r2 by that over the residuals
    eps = np.finfo(np.float32).eps * np.abs(y).max()
    assert result["test_r2"] == pytest.approx(r2, abs=4 * eps / y[test].std()) and r2 > 0.95
    error = np.abs(P - y)[test].mean()
    assert result["test_mean_absolute_error"] == pytest.approx(error, abs=4 * eps)
    assert 0 < result["loss"] < 0.1  # of the standardised target


def test_regression_is_what_python_trains(folder):
    given = rents(folder / "t.csv", order=["rooms", "size", "rent"])
    numbers = "--epochs 3 --hidden 7 --learning-rate 0.02 --dtype float64"
    train("--data", "t.csv", "--target", "rent", "--regression", *numbers.split(), "--out", "m")
    rest, _, _ = split(240, 48)
    X, y = np.column_stack([given["rooms"], given["size"]]), np.array(given["rent"])
    X = (X - X[rest].mean(axis=0)) / X[rest].std(axis=0)
    z = (y - y[rest].mean()) / y[rest].std()
    model = MLP([2, 7, 1], loss="squared_error", dtype="float64")
    sgd = fastmlp.SGD(model, learning_rate=0.02, momentum=0.9, batch_size=32)
    sgd.fit(X[rest], z[rest], epochs=3)
    np.testing.assert_array_equal(MLP.load("m").params, model.params)
    _, rows = predictions("m", "--data", "t.csv")
    expected = model.predict(X) * y[rest].std() + y[rest].mean()
    np.testing.assert_array_equal([float(row[0]) for row in rows], expected)


def test_regression_without_a_defined_r2(folder):
    (folder / "t.csv").write_text("a,y\n" + "1,5\n" * 30 + "2,6\n3,7\n")
    argv = ["train", "--data", "t.csv", "--target", "y", "--regression", "--test-fraction"]
    result = json.loads(run(*argv, 0.05, "--json")[1])
    assert result["test_r2"] is None and result["test_mean_absolute_error"] > 0
    assert "test R²        undefined, the target is the same in all rows" in run(*argv, 0.05)[1]
    result = json.loads(run(*argv, 0, "--json")[1])
    assert result["test_r2"] is None and result["test_mean_absolute_error"] is None
    assert "test R²        no rows held out\nabsolute error no rows held out" in run(*argv, 0)[1]


def test_regression_on_arrays(folder):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    y = 1e6 + X @ [1, 2, 3]
    np.savez("t.npz", X=X, y=y)
    result = train("--data", "t.npz", "--regression", "--out", "m")
    assert result["test_r2"] > 0.95
    header, rows = predictions("m", "--data", "t.npz")
    assert header == ["y"] and np.abs(np.array(rows, float)[:, 0] - y).mean() < 1
    np.save("x.npy", X)
    np.save("y.npy", y)
    train("--data", "x.npy", "--labels", "y.npy", "--regression", "--out", "n")
    np.testing.assert_array_equal(MLP.load("m").params, MLP.load("n").params)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_early_stopping(dtype, folder):
    """The model written is that of the best epoch, to the bit."""
    common = ["--data", "t.csv", "--target", "city", "--dtype", dtype, "--learning-rate", 0.2]
    stop = ["--early-stopping", "--validation-fraction", 0.25, "--patience", 4]
    result = train(*common, *stop, "--out", "m")
    assert result["epochs"] == result["best_epoch"] + 4 < training.MOST_EPOCHS
    again = train(*common, *stop, "--epochs", result["best_epoch"], "--out", "n")
    assert (folder / "m").read_bytes() == (folder / "n").read_bytes()
    for key in ("loss", "validation_loss", "best_epoch", "test_accuracy"):
        assert result[key] == again[key]

    X = rows_of(folder, dtype)
    y = np.searchsorted(["Aachen, West", "Bonn", "Köln"], rents(folder / "t.csv")["city"])
    rest, validation, test = split(240, 48, 48)
    model = MLP([X.shape[1], 100, 3], dtype=dtype)
    sgd = fastmlp.SGD(model, learning_rate=0.2, batch_size=32)
    history = sgd.fit(X[rest], y[rest], epochs=result["epochs"],
                      validation_data=(X[validation], y[validation]))  # fmt: skip
    assert min(history.validation_loss) == result["validation_loss"]
    assert history.validation_loss.index(result["validation_loss"]) + 1 == result["best_epoch"]
    assert history.loss[result["best_epoch"] - 1] == result["loss"]
    assert MLP.load("m").evaluate(X[test], y[test])[1] == result["test_accuracy"]


def rows_of(folder, dtype):
    model = MLP.load("m")
    found = Preprocessing.from_metadata(model.metadata, model.sizes[0], model.sizes[-1])
    return read_rows("t.csv", found).inputs(found, dtype)


def test_epochs_unless_asked_for(folder):
    argv = ["--data", "t.csv", "--target", "city", "--hidden", 2]
    assert train(*argv)["epochs"] == 30
    stop = ["--early-stopping", "--patience", 1000]
    assert train(*argv, *stop, "--learning-rate", 1e-6)["epochs"] == 500


def test_best():
    """Ties and NaN are no improvement; patience counts from the best epoch."""
    model = MLP([1, 1])
    best = training.Best(model, 2)
    history = fastmlp.History()
    for loss, stop in ((3, False), (2, False), (2, False), (1, False), (np.nan, False), (1, True)):
        model.params[:] = loss
        history.loss.append(0.0)
        history.validation_loss.append(loss)
        assert best(history) == stop
    assert (best.epoch, best.loss) == (4, 1)
    best.restore()
    np.testing.assert_array_equal(model.params, 1)
    best = training.Best(model, 1)
    assert best(fastmlp.History(loss=[1.0], validation_loss=[np.inf]))
    with pytest.raises(FloatingPointError, match="try a smaller --learning-rate"):
        best.restore()


def test_early_stopping_for_people(folder):
    argv = ["--data", "t.csv", "--target", "rent", "--regression", "--early-stopping"]
    code, out, err = run("train", *argv, "--plot", "p.svg", "--optimizer", "adam")
    assert code == 0, err
    shown = [line[:14].rstrip() for line in out.splitlines()]
    words = "test R²,absolute error,training loss,epochs,best epoch,seconds,samples/s,engine"
    assert shown == [*words.split(","), "threads", "model", "plot"]


def test_adam(folder):
    train("--data", "digits", "--optimizer", "adam", "--epochs", 2, "--out", "m")
    X, y = fastmlp.data.load_digits()
    rest, _, _ = split(1797, round(0.2 * 1797))
    model = MLP([64, 100, 10])
    fastmlp.Adam(model, batch_size=32).fit(X[rest] / 16, y[rest], epochs=2)
    np.testing.assert_array_equal(MLP.load("m").params, model.params)


def test_text_and_ignore(folder):
    names = [f"Nr. {i}" for i in range(240)]
    given = rents(folder / "t.csv") | {"id": names}
    with (folder / "t.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([given, *zip(*given.values(), strict=True)])
    argv = ["--data", "t.csv", "--target", "city", "--epochs", 1, "--out", "m"]
    refused(run("train", "--json", *argv), "column 'id': 240 different texts in 240 rows")
    train(*argv, "--ignore", "id", "--ignore", "rent", "--text", "rooms")
    metadata = MLP.load("m").metadata
    assert metadata["features"] == ["rooms", "size", "garden"]
    assert metadata["categories"]["rooms"] == ["1", "2", "3", "4", "5"]
    code, out, _ = run("info", "m")
    assert code == 0 and "\nfeatures    rooms (1, 2, 3, 4, 5), size, garden (False, True)\n" in out
    assert "categories" not in out
    out = json.loads(run("info", "m", "--json")[1])
    assert out["categories"] == metadata["categories"]


def test_info_of_a_stranger(folder):
    model = MLP([2, 2])
    model.metadata = {"features": 5, "categories": {"a": 3}, "target": [1]}
    model.save("m")
    code, out, err = run("info", "m")
    assert (code, err) == (0, "") and "features    5\ncategories  {'a': 3}\ntarget      1\n" in out


def test_what_the_model_file_says_of_a_regression(folder):
    train("--data", "t.csv", "--target", "rent", "--regression", "--epochs", 1, "--out", "m")
    code, out, _ = run("info", "m")
    assert code == 0 and "\ntarget      rent\n" in out and "labels" not in out
    assert json.loads(run("info", "m", "--json")[1])["target"] == MLP.load("m").metadata["target"]


def test_a_category_of_the_test_rows_only(folder):
    """It is known to the model, and so has a place in the network."""
    _, _, test = split(40, 8)
    column = ["a", "b"] * 20
    column[test[0]] = "rare"
    rows = [f"{name},{i},{i % 2}\n" for i, name in enumerate(column)]
    (folder / "t.csv").write_text("kind,i,y\n" + "".join(rows))
    train("--data", "t.csv", "--target", "y", "--out", "m")
    assert MLP.load("m").metadata["categories"] == {"kind": ["a", "b", "rare"]}
    assert len(predictions("m", "--data", "t.csv")[1]) == 40


def test_constant_columns(folder):
    rows = [f"same,7,{i},{'ab'[i % 2]}\n" for i in range(20)]
    (folder / "t.csv").write_text("word,number,i,y\n" + "".join(rows))
    train("--data", "t.csv", "--target", "y", "--out", "m")
    assert MLP.load("m").sizes[0] == 3
    assert len(predictions("m", "--data", "t.csv")[1]) == 20


def test_only_text(folder):
    (folder / "t.csv").write_text("word,y\n" + "red,no\nblue,yes\n" * 20)
    for scale in ("standard", "range", "none"):
        result = train("--data", "t.csv", "--target", "y", "--scale", scale, "--out", "m")
        assert result["test_accuracy"] == 1
        assert MLP.load("m").metadata["scale"] == [1.0]
    assert [row[0] for row in predictions("m", "--data", "t.csv")[1]] == ["no", "yes"] * 20


def test_models_of_before(folder):
    """A model file that knows of labels, features and scaling alone is read as ever."""
    model = MLP([2, 3, 2])
    model.metadata = {"labels": ["no", "yes"], "features": ["b", "a"], "shift": [1.0, 2.0],
                      "scale": [2.0, 4.0]}  # fmt: skip
    model.save("m")
    (folder / "u.csv").write_text("a,b,c\n3,5,x\n-1,2,y\n")
    X = (np.array([[5, 3], [2, -1]]) - [1, 2]) / [2, 4]
    header, rows = predictions("m", "--data", "u.csv")
    assert header == ["label", "probability_no", "probability_yes"]
    P = np.array([row[1:] for row in rows], np.float32)
    np.testing.assert_array_equal(P, model.predict_proba(X))


def test_the_commands_of_the_documentation(folder):
    """docs/tables.md shows a table as `rents` writes it, and what to do with it."""
    text = (Path(__file__).parents[1] / "docs" / "tables.md").read_text()
    sample, commands = re.findall(r"```(?:sh)?\n(.*?)```", text, re.S)
    given = rents(folder / "flats.csv")
    assert sample.splitlines()[0] == ",".join(given)
    assert {row[0] for row in csv.reader(sample.splitlines()[1:])} == set(given["city"])
    for line in commands.splitlines():
        program, *argv = shlex.split(line)
        code, out, err = run(*argv)
        assert program == "fastmlp" and code == 0, err
    assert out.startswith('label,"probability_Aachen, West",probability_Bonn')
    assert (folder / "predictions.csv").read_text().startswith("rent\n")
    assert (folder / "loss.svg").exists()


def table_of_texts(path, texts):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "y"])
        writer.writerows((text, "ab"[i % 2]) for i, text in enumerate(texts))


@pytest.mark.parametrize("word", ["word, ", "слова"], ids=["commas", "Cyrillic"])
def test_a_table_of_long_texts(word, folder):
    table_of_texts(folder / "long.csv", [word * 200 + str(i % 400) for i in range(800)])
    common = ["--data", "long.csv", "--target", "y", "--hidden", 2, "--epochs", 1]
    train(*common, "--out", "m", "--checkpoint", "run")
    assert len(MLP.load("m").metadata["categories"]["text"]) == 400
    assert len(predictions("m", "--data", "long.csv")[1]) == 800


def test_more_texts_than_a_model_holds_are_found_before_the_training(folder, monkeypatch):
    table_of_texts(folder / "long.csv", ["x" * 6000 + str(i % 400) for i in range(800)])
    common = ["--data", "long.csv", "--target", "y", "--hidden", 2, "--epochs", 1]
    train(*common)  # without a file there is nothing to refuse

    def trains(*arguments, **named):
        raise AssertionError("it trains")

    monkeypatch.setattr(fastmlp.session.Session, "epoch", trains)
    for option in ("--out", "--checkpoint"):
        result = run("train", "--json", *common, option, "m")
        refused(result, "cannot write ")
        assert "m: the description is too large" in result[2] and "m" not in os.listdir()
