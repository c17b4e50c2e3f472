"""Estimators in files, and to and from other models."""

import os
import tracemalloc

import numpy as np
import pytest
import sklearn.neural_network as theirs
from samples import diabetes, digits, multilabel
from sklearn.exceptions import NotFittedError

from fastmlp import MLP, FileFormatError, MLPClassifier, MLPRegressor, persist

pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning",
    # of SciPy, for an option that scikit-learn 1.6 still gives it
    "ignore:.*`disp` and `iprint`:DeprecationWarning",
)


# ---- files --------------------------------------------------------------------------------------
def classifiers():
    X, y = digits(100)
    names = np.array([f"digit {i}" for i in y])
    yield "numbers", MLPClassifier(random_state=0), X, y
    yield "strings", MLPClassifier(random_state=0), X, names
    yield "objects", MLPClassifier(random_state=0, solver="sgd"), X, names.astype(object)
    yield "bools", MLPClassifier(random_state=0, learning_rate="adaptive"), X, y > 4
    yield "floats", MLPClassifier(random_state=0, dtype=np.float32), X, y * 2.0
    yield "one class", MLPClassifier(random_state=0), X, np.zeros(100)
    yield "multilabel", MLPClassifier(random_state=0, dropout=0.2), *multilabel(100)
    yield "stream", MLPClassifier(random_state=np.random.RandomState(3)), X, y
    yield "weights", MLPClassifier(class_weight=dict.fromkeys(range(10), 2.0)), X, y
    yield "early", MLPClassifier(early_stopping=True, random_state=0, scoring="loss"), X, y
    yield "lbfgs", MLPClassifier((5, 4), activation=["tanh", "gelu"], solver="lbfgs"), X, y


@pytest.mark.parametrize(
    "model, X, y", [pytest.param(*rest, id=name) for name, *rest in classifiers()]
)
def test_a_classifier_comes_back_from_its_file_and_trains_on(model, X, y, tmp_path):
    model.set_params(max_iter=3, warm_start=True, n_iter_no_change=np.inf)
    np.random.seed(0)  # noqa: NPY002
    model.fit(X, y)
    model.save(tmp_path / "m.safetensors")
    loaded = MLPClassifier.load(tmp_path / "m.safetensors")
    assert loaded.predict(X).dtype == model.predict(X).dtype
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    assert loaded.score(X, y) == model.score(X, y)
    assert repr(loaded) == repr(model).replace(repr(model.random_state), repr(loaded.random_state))
    kept = set(vars(model)) - {"_network", "_labels", "_random_state", "random_state", "classes_"}
    for name in kept:
        mine, its = getattr(model, name), getattr(loaded, name)
        assert type(mine) is type(its), name
        np.testing.assert_equal(its, mine, err_msg=name)
    for one in (model, loaded):
        np.random.seed(1)  # noqa: NPY002  for those that draw from NumPy's own stream
        one.fit(X, y)
    assert loaded.loss_curve_ == model.loss_curve_
    np.testing.assert_array_equal(loaded.coefs_[0], model.coefs_[0])


@pytest.mark.parametrize("loss", ["squared_error", "poisson", "huber", "quantile"])
def test_a_regressor_comes_back_from_its_file_and_trains_on(loss, tmp_path):
    X, y = diabetes()
    settings = {"loss": loss, "huber_delta": 0.3, "quantile": 0.8, "random_state": 0}
    model = MLPRegressor(**settings, verbose=0).partial_fit(X, y).partial_fit(X, y)
    model.save(tmp_path / "m.safetensors")
    loaded = MLPRegressor.load(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    assert loaded.partial_fit(X, y).loss_curve_ == model.partial_fit(X, y).loss_curve_


def test_names_of_features_travel_in_the_file(tmp_path):
    pandas = pytest.importorskip("pandas")
    X, y = digits(100)
    frame = pandas.DataFrame(X).add_prefix("pixel ")
    MLPClassifier(max_iter=2).fit(frame, y).save(tmp_path / "m.safetensors")
    loaded = MLPClassifier.load(tmp_path / "m.safetensors")
    assert list(loaded.feature_names_in_) == list(frame.columns)
    loaded.predict(frame)
    with pytest.raises(ValueError, match="feature names"):
        loaded.predict(frame.rename(columns={"pixel 3": "three"}))


def test_what_a_file_cannot_hold_is_named(tmp_path):
    X, y = digits(100)
    path = tmp_path / "m.safetensors"
    with pytest.raises(NotFittedError):
        MLPClassifier().save(path)
    model = MLPClassifier(max_iter=2, callbacks=print).fit(X, y)
    with pytest.raises(TypeError, match="callbacks is <built-in function print>"):
        model.save(path)
    assert not os.listdir(tmp_path)


def test_files_of_others_are_named(tmp_path):
    X, y = digits(100)
    path = tmp_path / "m.safetensors"
    MLP([2, 2]).save(path)
    with pytest.raises(FileFormatError, match=r"it holds a fastmlp\.MLP.*from_mlp"):
        MLPClassifier.load(path)
    MLPRegressor(max_iter=2).fit(X, y).save(path)
    with pytest.raises(FileFormatError, match="it holds 'MLPRegressor', not MLPClassifier"):
        MLPClassifier.load(path)
    with pytest.raises(FileFormatError):
        MLP.load(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FileFormatError):
        MLPRegressor.load(path)


def test_descriptions_that_are_not_valid_are_named(tmp_path):

    X, y = digits(100)
    path = tmp_path / "m.safetensors"
    MLPClassifier(max_iter=2).fit(X, y).save(path)
    tensors, description = persist.load(path)
    for change in (
        {"sizes": [1, 2]},
        {"parameters": {}},
        {"parameters": {"alpha": -1}},
        {"parameters": {"beta": 1}},
        {"labels": {"dict": []}},
        {"attributes": {"tensor": "nowhere"}},
        {"session": {}},
        {"dtype": "float16"},
    ):
        persist.save(path, tensors, description | change)
        with pytest.raises(FileFormatError, match="description is not valid"):
            MLPClassifier.load(path)


# ---- other models -------------------------------------------------------------------------------
def pair(what, value):
    """Return a change of a description that puts another value for a fitted attribute."""

    def change(tensors, description):
        pairs = description["attributes"]["dict"]
        pairs[:] = [pair for pair in pairs if pair[0] != what] + [[what, value]]

    return change


def without(what):
    def change(tensors, description):
        pairs = description["attributes"]["dict"]
        pairs[:] = [pair for pair in pairs if pair[0] != what]

    return change


def other(what, value):
    return lambda tensors, description: description.update({what: value})


def split(order, held=(5, 6, 7)):
    """Put other rows in the place of those that a warm start holds out."""

    def change(tensors, description):
        tensors |= {"order": np.array(order), "held": np.array(held)}
        pair("_split", {"tuple": [{"tensor": "order"}, {"tensor": "held"}]})(tensors, description)

    return change


LABELS = {"kind": "multiclass", "classes": {"array": ["<U1", ["a", "b", "c"]]}, "is_sparse": False}


def labels(**changes):
    return other("labels", {"dict": [list(item) for item in (LABELS | changes).items()]})


def parameter(what, value):
    return lambda tensors, description: description["parameters"].update({what: value})


def tensor(name, array):
    """Put another tensor in the place of one."""
    return lambda tensors, description: tensors.update({name: np.array(array)})


def stream(key=None, pos=0, has_gauss=0, gauss=0.0, where="random_state"):
    """Put another state in the place of the random stream, or of the parameter."""

    def change(tensors, description):
        tensors["key"] = np.arange(624, dtype=np.uint32) if key is None else key
        state = {"dict": [["key", {"tensor": "key"}], ["pos", pos]]}
        pairs = [["bit_generator", "MT19937"], ["state", state]]
        pairs += [["has_gauss", has_gauss], ["gauss", gauss]]
        held = description if where == "random_state" else description[where]
        held["random_state"] = {"RandomState": {"dict": pairs}}

    return change


def hoard(value, times=1):
    """Have a parameter hold a value many times; "big" is a tensor of half a megabyte."""

    def change(tensors, description):
        tensors["big"] = np.zeros(2**16)
        description["parameters"]["callbacks"] = [value] * times

    return change


DEEP = [1]
for _ in range(600):
    DEEP = [DEEP]
WRONG = {
    "no number of features": pair("n_features_in_", None),
    "features of another number": pair("n_features_in_", 3),
    "names of others": pair("feature_names_in_", {"array": ["object", ["a", "b", "c"]]}),
    "names that are none": pair("feature_names_in_", {"array": ["object", ["a", 1]]}),
    "a step back": pair("t_", -1),
    "no count of steps": without("t_"),
    "a rate for nothing": without("_rate_began"),
    "a loss of text": pair("loss_", "0.5"),
    "a curve of text": pair("loss_curve_", ["0.5"]),
    "rows beyond the last": split([0, 1, 2, 3, 10**12]),
    "a row twice": split([0, 1, 2, 3, 3]),
    "rows before the first": split([0, 1, 2, 3, -1]),
    "rows of another type": split(np.arange(5, dtype=np.int32)),
    "other classes": pair("classes_", {"array": ["<U1", ["a", "b", "d"]]}),
    "too few classes": labels(classes={"array": ["<U1", ["a", "b"]]}),
    "classes in disorder": labels(classes={"array": ["<U1", ["a", "c", "b"]]}),
    "no such kind": labels(kind="ordinal"),
    "wide text": labels(classes={"array": ["<U500000000", ["a", "b", "c"]]}),
    "sizes without parameters": other("sizes", [2, 10**9, 3]),
    "no sizes": other("sizes", [2, -1, 3]),
    "a negative seed": other("session", {"optimizer": "adam", "step": 0, "seed": -1}),
    "a huge step": other("session", {"optimizer": "adam", "step": 2**62, "seed": 0}),
    "a stream that cannot be": stream(pos=-(10**30)),
    "a stream that reads behind its words": stream(pos=2147483000),
    "a stream that reads before its words": stream(pos=-200000000),
    "a stream one word too far": stream(pos=625),
    "a parameter that reads behind its words": stream(pos=2147483000, where="parameters"),
    "a stream at no place": stream(pos=None),
    "a stream of few words": stream(np.zeros(623, np.uint32)),
    "a stream of other words": stream(np.zeros(624, np.int64)),
    "a stream of two numbers": stream(has_gauss=2),
    "a stream without a number": stream(has_gauss=1, gauss={"float": "nan"}),
    "no stream": other("random_state", 3),
    "wide text in lists": hoard({"array": ["<U1048576", [["a"] * 150]]}),
    "wide text again and again": hoard({"array": ["<U300000", ["a"]]}, 15),
    "a tensor again and again": hoard({"tensor": "big"}, 150),
    "a tensor as floats again and again": hoard({"floats": {"tensor": "big"}}, 150),
    "a tensor as objects": hoard({"array": ["object", [{"tensor": "big"}] * 20]}),
    "a tensor as text": hoard({"array": ["<U40", [{"tensor": "big"}]]}),
    "a tensor as a tuple": hoard({"tuple": {"tensor": "big"}}),
    "numbers in a list": hoard({"array": ["float64", [1.0] * 4]}),
    "a dtype of fields": hoard({"array": ["(" + "1," * 30000 + ")i4", [1]]}),
    "a moment that is no number": tensor("moments.0", [np.nan] * 21),
    "a moment that is endless": tensor("moments.1", [np.inf] * 21),
    "a moment for all": tensor("moments.0", 0.5),
    "a moment of another type": tensor("moments.1", np.zeros(21, np.float32)),
    "a rate that is none": pair("_rate", None),
    "a rate that is endless": pair("_rate", {"float": "inf"}),
    "layers of text": parameter("hidden_layer_sizes", {"tuple": ["x"]}),
    "a schedule that is none": pair("_schedule", 1),
    "no curve": pair("loss_curve_", None),
    "a hole in a curve": pair("loss_curve_", [0.5, None]),
    "too many steps": pair("t_", 2**62),
    "far too many steps": pair("t_", 10**400),
    "a loss beyond the numbers": pair("loss_", 10**400),
    "lists in lists": other("random_state", DEEP),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_go_together_is_refused(case, tmp_path):
    """Files with a true checksum, from which a program could be led astray."""

    path = tmp_path / "m.safetensors"
    X, y = np.arange(16.0).reshape(8, 2), np.array(list("abcabcab"))
    options = {"early_stopping": True, "warm_start": True, "random_state": 0, "max_iter": 1}
    MLPClassifier((3,), validation_fraction=0.5, **options).fit(X, y).save(path)
    MLPClassifier.load(path)
    tensors, description = persist.load(path)
    WRONG[case](tensors, description)
    persist.save(path, tensors, description)
    tracemalloc.start()
    try:
        with pytest.raises(FileFormatError, match="is not a fastmlp model that can be read"):
            MLPClassifier.load(path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_a_file_is_not_in_memory_twice(tmp_path):
    X, y = digits(100)
    path = tmp_path / "m.safetensors"
    MLPClassifier((600, 600), max_iter=1).fit(X, y).save(path)
    MLPClassifier.load(path)
    tracemalloc.start()
    try:
        MLPClassifier.load(path)
        # With the room for moments that a session begins with, two thirds of the file.
        assert tracemalloc.get_traced_memory()[1] < 1.8 * path.stat().st_size
    finally:
        tracemalloc.stop()


def test_text_that_no_file_can_hold_is_named_when_it_is_written(tmp_path):
    y = np.array(["a", "b", "c" * 2**19])
    model = MLPClassifier(max_iter=1).fit(np.eye(3), y)
    with pytest.raises(ValueError, match=r"attributes.* takes more than the 8388608 bytes"):
        model.save(tmp_path / "m.safetensors")
    assert not os.listdir(tmp_path)


def test_a_network_of_its_own_and_back():
    X, y = digits(100)
    names = np.array([f"digit {i}" for i in y])
    model = MLPClassifier((9, 8), max_iter=3, random_state=0).fit(X, names)
    mlp = model.to_mlp()
    np.testing.assert_array_equal(model.classes_[mlp.predict(X)], model.predict(X))
    back = MLPClassifier.from_mlp(mlp, classes=model.classes_)
    np.testing.assert_array_equal(back.predict_proba(X), model.predict_proba(X))
    assert back.hidden_layer_sizes == (9, 8)
    mlp.params[:] = 0
    assert model.coefs_[0].any() and back.coefs_[0].any()
    back.partial_fit(X, names)

    binary = MLPClassifier(max_iter=3, random_state=0).fit(X, y > 4)
    mlp = binary.to_mlp()
    assert mlp.loss_name == "binary_cross_entropy" and mlp.sizes[-1] == 1
    again = MLPClassifier.from_mlp(mlp, classes=[False, True])
    np.testing.assert_array_equal(again.predict(X), binary.predict(X))
    assert list(MLPClassifier.from_mlp(mlp).classes_) == [0, 1]

    many = MLPClassifier(max_iter=3, random_state=0).fit(*multilabel(100))
    again = MLPClassifier.from_mlp(many.to_mlp())
    np.testing.assert_array_equal(again.predict(X), many.predict(X))

    values = MLPRegressor(max_iter=3, loss="huber", huber_delta=0.7).fit(X, y)
    again = MLPRegressor.from_mlp(values.to_mlp())
    assert (again.loss, again.huber_delta) == ("huber", 0.7)
    np.testing.assert_array_equal(again.predict(X), values.predict(X))


def test_networks_that_do_not_fit_are_named():
    with pytest.raises(TypeError, match="an MLP of squared_error"):
        MLPClassifier.from_mlp(MLP([2, 2], loss="squared_error"))
    with pytest.raises(TypeError, match="given MLPClassifier"):
        MLPRegressor.from_mlp(MLPClassifier())
    for classes in (["a"], ["b", "a"], ["a", "a"]):
        with pytest.raises(ValueError, match="2 different labels in ascending order"):
            MLPClassifier.from_mlp(MLP([2, 2]), classes=classes)
    with pytest.raises(TypeError, match="expected a fitted"):
        MLPClassifier.from_sklearn(theirs.MLPRegressor().fit([[0.0], [1.0]], [0, 1]))
    with pytest.raises(NotFittedError):
        MLPClassifier.from_sklearn(theirs.MLPClassifier())


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("kind", ["many", "two", "multilabel", "values"])
def test_a_network_of_scikit_learns_trains_on(solver, kind):
    X, y = digits(200)
    y = {"many": y, "two": y > 4, "multilabel": multilabel(200)[1], "values": y}[kind]
    ours, their = MLPClassifier, theirs.MLPClassifier
    if kind == "values":
        ours, their = MLPRegressor, theirs.MLPRegressor
    stream = np.random.RandomState(0)  # which scikit-learn continues, too
    fitted = their(solver=solver, random_state=stream, max_iter=3).fit(X, y)
    model = ours.from_sklearn(fitted)
    if kind == "values":
        np.testing.assert_allclose(model.predict(X), fitted.predict(X), rtol=1e-9)
    else:
        np.testing.assert_array_equal(model.predict(X), fitted.predict(X))
        np.testing.assert_allclose(model.predict_proba(X), fitted.predict_proba(X), rtol=1e-9)
    if solver != "lbfgs":
        assert model.loss_curve_ == fitted.loss_curve_
        for _ in range(2):
            model.partial_fit(X, y)
            fitted.partial_fit(X, y)
        np.testing.assert_allclose(model.loss_curve_, fitted.loss_curve_, rtol=1e-9)
        assert model.t_ == fitted.t_


def test_wrong_arguments_of_conversions():
    X, y = digits(100)
    with pytest.raises(TypeError, match="from_mlp was given int"):
        MLPClassifier.from_mlp(3)
    with pytest.raises(
        TypeError, match=r"from_sklearn was given fastmlp\..*, expected a fitted skl"
    ):
        MLPClassifier.from_sklearn(MLPClassifier(max_iter=1).fit(X, y))
    with pytest.raises(ValueError, match=r"activation is \[\['relu'\]\]"):
        MLPClassifier(activation=[["relu"]]).fit(X, y)
    with pytest.raises(ValueError, match=r"class_weight is .*nan.*, expected finite numbers"):
        MLPClassifier(class_weight=dict.fromkeys(range(10), np.nan)).fit(X, y)


def test_rates_come_out_of_the_plain_model_too():
    X, y = diabetes()
    model = MLPRegressor(loss="poisson", max_iter=3, random_state=0).fit(X, np.abs(y))
    np.testing.assert_allclose(model.to_mlp().predict(X), model.predict(X), rtol=1e-12)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("options", [{}, {"early_stopping": True}], ids=["adam", "early"])
def test_memory_for_an_estimator_and_a_run(options, tmp_path):
    """Tensors are read to where they belong, with no copy of them nor marks for each."""
    X, y = np.ones((20, 2000), "f"), np.arange(20) % 2
    model = MLPClassifier((1000,), dtype="float32", max_iter=1, **options)
    model.checkpoint(tmp_path / "run").fit(X, y).save(tmp_path / "model")
    del model
    for read, name in (MLPClassifier.load, "model"), (MLPClassifier.resume, "run"):
        tracemalloc.start()
        try:
            read(tmp_path / name)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < (tmp_path / name).stat().st_size + (1 << 20)


@pytest.mark.parametrize("change", ["less", "shape", "dtype"])
def test_moments_that_do_not_go_with_the_network(change, tmp_path):
    X, y = digits(20)
    MLPClassifier((3,)).partial_fit(X, y, classes=np.arange(10)).save(tmp_path / "m")
    tensors, description = persist.load(tmp_path / "m")
    moment = tensors.pop("moments.1")
    if change != "less":
        tensors["moments.1"] = moment[1:] if change == "shape" else moment.astype("f2")
    persist.save(tmp_path / "m", tensors, description)
    with pytest.raises(FileFormatError, match=r"moments"):
        MLPClassifier.load(tmp_path / "m")
