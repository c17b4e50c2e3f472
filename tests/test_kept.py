"""Files of older versions, kept in tests/kept, are read as they were written, and trained on.

This file is also the program that has written them, once for every version of the format:

    python tests/test_kept.py tests/kept/1
"""

import sys
from pathlib import Path

import numpy as np
import pytest

import fastmlp
from fastmlp import MLP, SGD, Adam, engines
from fastmlp.preprocessing import Preprocessing

KEPT = Path(__file__).parent / "kept"
ROWS = np.random.default_rng(8)
X = ROWS.normal(size=(40, 4)).round(2)
Y = ROWS.integers(3, size=40)
NAMES = np.array(["größer", "gleich", "kleiner"])[Y]
VALUES = (X @ ROWS.normal(size=(4, 2))).round(2)


def models(folder):
    model = MLP([4, 5, 3], activation="tanh", seed=1)
    model.metadata = {"labels": ["ä", "b", "c"], "anything": [1, 2.5, None, {"deep": True}]}
    model.save(folder / "model")
    MLP([4, 3, 2], loss="quantile", loss_parameter=0.3, dtype="float64").save(folder / "quantile")
    table = MLP([3, 2, 2], seed=2)
    rows = np.array([[0, 1.5], [1, 2.5], [0, 9.0]])  # the first column counts in the categories
    table.metadata = Preprocessing.learn(
        rows, ["no", "yes"], ["kind", "size"], "standard", categories={"kind": ["a", "b"]}
    ).to_metadata()
    table.save(folder / "table")


def runs(folder):
    sgd = SGD(MLP([4, 5, 3], dtype="float64"), batch_size=7, nesterov=True, max_norm=1)
    adam = Adam(
        MLP([4, 5, 3]),
        batch_size=9,
        dropout=0.3,
        weight_decay=0.01,
        decoupled=True,
        seed=np.random.Generator(np.random.MT19937(5)),
    )
    for name, trainer in {"sgd": sgd, "adam": adam}.items():
        trainer.checkpoint(folder / f"{name}.ckpt")
        trainer.fit(X, Y, epochs=3, validation_data=(X, Y))


def estimators(folder):
    settings = {"hidden_layer_sizes": (5,), "random_state": 3, "batch_size": 8, "tol": 0}
    fastmlp.MLPClassifier(**settings, max_iter=12, early_stopping=True, dropout=0.2).fit(
        X, NAMES
    ).save(folder / "classifier")
    regressor = fastmlp.MLPRegressor(**settings, solver="sgd", loss="huber", huber_delta=0.5)
    for _ in range(3):
        regressor.partial_fit(X, VALUES)
    regressor.save(folder / "regressor")


def results(folder):
    """Return what the files of a folder predict, and what comes of them in two more epochs."""
    found = {name: MLP.load(folder / name).forward(X) for name in ("model", "quantile")}
    for name, kind in {"sgd": SGD, "adam": Adam}.items():
        trainer = kind.resume(folder / f"{name}.ckpt")
        found[name] = trainer.model.forward(X)
        history = trainer.fit(X, Y, epochs=2, validation_data=(X, Y))
        found[f"{name} on"] = trainer.model.forward(X)
        found[f"{name} losses"] = np.array([history.loss, history.validation_loss])
    for kind in fastmlp.MLPClassifier, fastmlp.MLPRegressor:
        name = kind.__name__[3:].lower()
        estimator = kind.load(folder / name)
        target = NAMES if name == "classifier" else VALUES
        found[name] = estimator.predict(X)
        if name == "classifier":
            found["probabilities"] = estimator.predict_proba(X)
            estimator.set_params(early_stopping=False)
        estimator.partial_fit(X, target).partial_fit(X, target)
        found[f"{name} on"] = estimator.predict(X)
        found[f"{name} losses"] = np.array(estimator.loss_curve_)
    return found


@pytest.mark.parametrize("version", sorted(path.name for path in KEPT.iterdir()))
def test_files_of_every_version_are_read(version):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    if engines.resolve("auto") != "fused":
        pytest.skip("this machine computes with BLAS, whose bits are its own")
    with np.load(KEPT / version / "expected.npz") as expected:
        found = results(KEPT / version)
        assert set(found) == set(expected)
        for name in expected:
            actual, before = found[name], expected[name]
            assert (actual.shape, actual.dtype) == (before.shape, before.dtype), name
            if actual.dtype.kind != "f":
                assert (actual == before).all(), name
            elif name == "probabilities" or name.endswith("losses"):  # with NumPy's exp and log
                np.testing.assert_array_max_ulp(actual, before, 16)
            else:
                assert actual.tobytes() == before.tobytes(), name


@pytest.mark.parametrize("version", sorted(path.name for path in KEPT.iterdir()))
def test_what_older_versions_say(version):
    model = MLP.load(KEPT / version / "model")
    assert model.metadata == {"labels": ["ä", "b", "c"], "anything": [1, 2.5, None, {"deep": True}]}
    assert model.activation == "tanh"
    quantile = MLP.load(KEPT / version / "quantile")
    assert (quantile.loss_name, quantile.loss_parameter) == ("quantile", 0.3)
    table = MLP.load(KEPT / version / "table")
    preprocessing = Preprocessing.from_metadata(table.metadata, 3, 2)
    assert (preprocessing.features, preprocessing.labels) == (["kind", "size"], ["no", "yes"])
    assert preprocessing.categories == {"kind": ["a", "b"]}


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir()
    models(target)
    runs(target)
    estimators(target)
    np.savez_compressed(target / "expected.npz", **results(target))
