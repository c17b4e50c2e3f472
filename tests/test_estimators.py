"""The estimators where scikit-learn has something to say: the same results, the same manners."""

import copy
import pickle
import re
import subprocess
import sys
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
import sklearn.neural_network as theirs
from samples import digits
from scipy import sparse
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    make_multilabel_classification,
)
from sklearn.exceptions import NotFittedError
from sklearn.inspection import permutation_importance
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags

import fastmlp
from fastmlp import DivergedError, MLPClassifier, MLPRegressor
from fastmlp.estimators.validation import r2

pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning",
    # scikit-learn's own, where its exponential overflows
    "ignore::RuntimeWarning",
    # of SciPy, for an option that scikit-learn 1.6 still gives it
    "ignore:.*`disp` and `iprint`:DeprecationWarning",
)
since_1_7 = pytest.mark.skipif(
    sklearn.__version__.startswith("1.6."), reason="scikit-learn has had this since 1.7"
)


def cancer():
    X, y = load_breast_cancer(return_X_y=True)
    return StandardScaler().fit_transform(X), y


def diabetes():
    X, y = load_diabetes(return_X_y=True)
    return X, y / 100


def two_outputs():
    X, y = diabetes()
    return X, np.column_stack([y, y**2])


def multilabel(**options):
    return make_multilabel_classification(n_samples=120, random_state=0, **options)


CLASSIFICATION = {"digits": digits, "cancer": cancer, "multilabel": multilabel}
REGRESSION = {"diabetes": diabetes, "two outputs": two_outputs}
SETTINGS = [
    {},
    {"solver": "sgd", "learning_rate_init": 0.05},
    {"solver": "sgd", "momentum": 0.5, "nesterovs_momentum": False},
    {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.1},
    {
        "solver": "sgd",
        "learning_rate": "adaptive",
        "learning_rate_init": 0.2,
        "tol": 0.05,
        "n_iter_no_change": 1,
    },
    {"activation": "tanh", "hidden_layer_sizes": (12, 7)},
    {"activation": "logistic", "alpha": 0.1, "batch_size": 50},
    {"activation": "identity", "shuffle": False},
    {"early_stopping": True, "n_iter_no_change": 3, "validation_fraction": 0.2},
    {"solver": "lbfgs"},
]


def assert_same(ours, their, X, y, **fit):
    """Fit both and compare: 1e-7 for epochs, 1e-5 for L-BFGS, as promised."""
    their.fit(X, y, **fit)
    ours.fit(X, y, **fit)
    rtol = 1e-5 if ours.solver == "lbfgs" else 1e-7
    assert ours.n_iter_ == their.n_iter_
    assert ours.t_ == their.t_
    np.testing.assert_allclose(ours.loss_, their.loss_, rtol=rtol)
    if ours.solver != "lbfgs":
        np.testing.assert_allclose(ours.loss_curve_, their.loss_curve_, rtol=rtol)
        assert ours._no_improvement_count == their._no_improvement_count
        for name in ("validation_scores_", "best_validation_score_", "best_loss_"):
            expected = getattr(their, name)
            if expected is None:
                assert getattr(ours, name) is None
            else:
                np.testing.assert_allclose(getattr(ours, name), expected, rtol=rtol)
    assert [W.shape for W in ours.coefs_] == [W.shape for W in their.coefs_]
    for name in ("n_layers_", "n_outputs_", "out_activation_", "n_features_in_"):
        assert getattr(ours, name) == getattr(their, name)
    if hasattr(their, "predict_proba"):
        np.testing.assert_array_equal(ours.predict(X), their.predict(X))
        assert ours.predict(X).dtype == their.predict(X).dtype
        np.testing.assert_allclose(ours.predict_proba(X), their.predict_proba(X), atol=1e-5)
    else:
        np.testing.assert_allclose(ours.predict(X), their.predict(X), rtol=1e-4)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("data", CLASSIFICATION)
def test_a_classifier_is_scikit_learns(data, settings):
    settings = {"max_iter": 20, "random_state": 1, **settings}
    X, y = CLASSIFICATION[data]()
    assert_same(MLPClassifier(**settings), theirs.MLPClassifier(**settings), X, y)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("data", REGRESSION)
def test_a_regressor_is_scikit_learns(data, settings):
    settings = {"max_iter": 20, "random_state": 1, **settings}
    X, y = REGRESSION[data]()
    assert_same(MLPRegressor(**settings), theirs.MLPRegressor(**settings), X, y)


@since_1_7
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_poisson_is_scikit_learns(solver):
    X, y = diabetes()
    settings = {"loss": "poisson", "solver": solver, "max_iter": 20, "random_state": 0}
    assert_same(MLPRegressor(**settings), theirs.MLPRegressor(**settings), X, np.round(y))


@since_1_7
@pytest.mark.parametrize("settings", [{}, {"early_stopping": True}, {"solver": "lbfgs"}], ids=str)
def test_sample_weights_are_scikit_learns(settings):
    settings = {"max_iter": 10, "random_state": 2, **settings}
    weight = np.random.default_rng(0).uniform(0.1, 3, 569)
    X, y = cancer()
    ours, their = MLPClassifier(**settings), theirs.MLPClassifier(**settings)
    assert_same(ours, their, X, y, sample_weight=weight)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("convert", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array])
def test_sparse_rows_train_and_predict_like_dense_ones(convert, solver):
    X, y = digits()
    settings = {"max_iter": 5, "random_state": 0, "solver": solver, "early_stopping": True}
    expected = MLPClassifier(**settings).fit(X, y)
    actual = MLPClassifier(**settings).fit(convert(X), y)
    np.testing.assert_allclose(actual.loss_, expected.loss_, rtol=1e-9)
    np.testing.assert_allclose(
        actual.predict_proba(convert(X)), expected.predict_proba(X), rtol=1e-6
    )
    np.testing.assert_allclose(
        actual.input_gradients(convert(X)), expected.input_gradients(X), rtol=1e-6, atol=1e-9
    )


def test_sparse_multilabel_targets_give_sparse_predictions():
    X, Y = multilabel()
    model = MLPClassifier(max_iter=5, random_state=0).fit(X, sparse.csr_matrix(Y))
    assert sparse.issparse(model.predict(X))
    expected = MLPClassifier(max_iter=5, random_state=0).fit(X, Y).predict(X)
    np.testing.assert_array_equal(model.predict(X).toarray(), expected)


def test_float32_stays_float32_and_everything_else_becomes_float64():
    X, y = digits(100)
    for given, dtype, expected in [
        (np.float32, "auto", np.float32),
        (np.float64, "auto", np.float64),
        (np.int64, "auto", np.float64),
        (np.float64, "float32", np.float32),
        (np.float32, np.float64, np.float64),
    ]:
        model = MLPClassifier(max_iter=2, dtype=dtype).fit(X.astype(given), y)
        assert {array.dtype for array in model.coefs_ + model.intercepts_} == {np.dtype(expected)}
        assert model.predict_proba(X).dtype == expected
    assert MLPRegressor(max_iter=2, solver="lbfgs").fit(X.astype("f4"), y).predict(X).dtype == "f4"


def test_lbfgs_in_float32_comes_as_far_as_in_float64():
    X, y = cancer()
    settings = {"solver": "lbfgs", "max_iter": 40, "random_state": 0, "alpha": 0.1}
    double = MLPClassifier(**settings).fit(X, y)
    single = MLPClassifier(**settings).fit(X.astype(np.float32), y)
    assert single.n_iter_ == double.n_iter_
    np.testing.assert_allclose(single.loss_, double.loss_, rtol=1e-2)


# ---- warnings, messages, printed lines ----------------------------------------------------------
def printed(cls, capsys, **settings):
    X, y = digits(100)
    cls(random_state=0, verbose=True, **settings).fit(X, y)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "settings",
    [
        {"max_iter": 3},
        {"tol": 0.5, "n_iter_no_change": 2},
        {"early_stopping": True, "n_iter_no_change": 1, "tol": 0.5},
        {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.5, "n_iter_no_change": 1},
    ],
    ids=str,
)
def test_verbose_prints_scikit_learns_lines(settings, capsys):
    theirs_printed = printed(theirs.MLPClassifier, capsys, **settings)
    assert printed(MLPClassifier, capsys, **settings) == theirs_printed
    assert "loss = " in theirs_printed


@pytest.mark.parametrize(
    "settings",
    [{"max_iter": 2}, {"solver": "lbfgs", "max_iter": 2}, {"batch_size": 1000, "max_iter": 1}],
    ids=str,
)
def test_warnings_are_scikit_learns(settings):
    X, y = digits(100)
    recorded = []
    for cls in (MLPClassifier, theirs.MLPClassifier):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warnings.simplefilter("ignore", DeprecationWarning)
            cls(random_state=0, **settings).fit(X, y)
        recorded.append([(w.category, str(w.message)) for w in caught])
    assert recorded[0] == recorded[1] != []


BAD_DATA = {
    "NaN": lambda X, y: (np.where(X.max() == X, np.nan, X), y),
    "one-dimensional": lambda X, y: (X[:, 0], y),
    "of different lengths": lambda X, y: (X, y[:-1]),
    "continuous labels": lambda X, y: (X, y + 0.5),
    "empty": lambda X, y: (X[:0], y[:0]),
    "text": lambda X, y: ([*X.astype(str).tolist(), ["a"] * 64], [*y, 1]),
    "many columns of labels": lambda X, y: (X, np.column_stack([y, y])),
}


@pytest.mark.parametrize("bad", BAD_DATA)
def test_bad_data_is_rejected_with_scikit_learns_message(bad):
    X, y = BAD_DATA[bad](*digits(60))
    with pytest.raises(ValueError) as their:
        theirs.MLPClassifier().fit(X, y)
    model = MLPClassifier()
    with pytest.raises(ValueError) as ours:
        model.fit(X, y)
    assert str(ours.value) == str(their.value)
    assert vars(model) == vars(MLPClassifier())


@pytest.mark.parametrize(
    "parameters",
    [
        {"alpha": -1},
        {"hidden_layer_sizes": "wide"},
        {"solver": "newton"},
        {"batch_size": 0},
        {"momentum": 2},
        {"max_iter": 0},
        {"hidden_layer_sizes": (3, 0)},
    ],
    ids=str,
)
def test_bad_parameters_are_rejected_with_scikit_learns_message(parameters):
    X, y = digits(60)
    with pytest.raises(ValueError) as their:
        theirs.MLPClassifier(**parameters).fit(X, y)
    with pytest.raises(ValueError) as ours:
        MLPClassifier(**parameters).fit(X, y)
    # which are listed in no order, and of which we have more
    assert str(ours.value).split("{")[0] == str(their.value).split("{")[0]


@since_1_7
def test_constructors_take_scikit_learns_parameters_in_its_order():
    import inspect

    for ours, their in (
        (MLPClassifier, theirs.MLPClassifier),
        (MLPRegressor, theirs.MLPRegressor),
    ):
        mine = list(inspect.signature(ours).parameters.values())
        for parameter, expected in zip(
            mine, inspect.signature(their).parameters.values(), strict=False
        ):
            assert (parameter.name, parameter.default, parameter.kind) == (
                expected.name,
                expected.default,
                expected.kind,
            )
        n_theirs = len(inspect.signature(their).parameters)
        assert {p.kind for p in mine[n_theirs:]} == {inspect.Parameter.KEYWORD_ONLY}


# ---- the parameters on view ---------------------------------------------------------------------
def test_there_are_no_parameters_before_a_fit():
    model = MLPClassifier()
    assert not hasattr(model, "coefs_") and not hasattr(model, "intercepts_")
    with pytest.raises(NotFittedError):
        model.predict([[0.0]])


@pytest.mark.parametrize("change", ["in place", "item", "all"])
def test_what_is_written_to_the_parameters_counts(change):
    X, y = digits(64)
    model = MLPClassifier(random_state=0).partial_fit(X, y, classes=np.arange(10))
    other = MLPClassifier(random_state=1).partial_fit(X, y, classes=np.arange(10))
    if change == "in place":
        for mine, its in zip(model.coefs_, other.coefs_, strict=True):
            mine[:] = its
        model.intercepts_[0][:] = other.intercepts_[0]
        model.intercepts_[1][:] = other.intercepts_[1]
    elif change == "item":
        for i in range(2):
            model.coefs_[i] = other.coefs_[i].copy()
            model.intercepts_[i] = other.intercepts_[i].copy()
    else:
        model.coefs_ = [W.copy() for W in other.coefs_]
        model.intercepts_ = [b.copy() for b in other.intercepts_]
    np.testing.assert_array_equal(model.predict_proba(X), other.predict_proba(X))
    # Adam's moments are its own, so compare with a network that has these from the start.
    view = model.coefs_[0]
    before = view.copy()
    model.partial_fit(X, y)
    assert np.abs(view - before).max() < 0.01 < np.abs(before).max()
    assert (view != before).any()
    assert model.coefs_[0] is view
    view[:] = 0
    np.testing.assert_array_equal(model.input_gradients(X[:3]), np.zeros((3, 10, 64)))


def test_parameters_of_another_shape_are_named():
    X, y = digits(64)
    model = MLPClassifier(random_state=0, max_iter=2).fit(X, y)
    model.coefs_[0] = np.zeros((3, 3))
    with pytest.raises(ValueError, match=r"coefs_\[0\] has shape \(3, 3\)"):
        model.predict(X)


# ---- failure leaves no trace ---------------------------------------------------------------------
def state(model):
    """All there is to an estimator, as plain values that can be compared."""
    network = model._network.snapshot()
    held = {
        name: value for name, value in vars(model).items() if name not in ("_network", "_labels")
    }
    held["_random_state"] = [str(part) for part in model._random_state.get_state()]
    held["classes_"] = model.classes_.tolist()
    held["_split"] = [part.tolist() for part in vars(model).get("_split") or ()]
    arrays = [network["params"], *network.get("moments", [])]
    return held, [array.tolist() for array in arrays], network.get("step")


def explode(epoch):
    def callback(model):
        if model.n_iter_ == epoch:
            raise RuntimeError("stop that")

    return callback


@pytest.mark.parametrize("warm_start", [False, True])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_failed_fit_leaves_the_estimator_as_it_was(warm_start, early_stopping):
    X, y = digits(100)
    settings = {"max_iter": 3, "random_state": 0, "early_stopping": early_stopping}
    model = MLPClassifier(warm_start=warm_start, **settings).fit(X, y)
    untouched = MLPClassifier(warm_start=warm_start, **settings).fit(X, y)
    model.set_params(callbacks=explode(2))
    with pytest.raises(RuntimeError, match="stop that"):
        model.fit(X, y)
    model.set_params(callbacks=None)
    assert state(model) == state(untouched)
    assert model.fit(X, y).loss_curve_ == untouched.fit(X, y).loss_curve_


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_matrix])
def test_a_step_that_diverges_is_taken_back(convert):
    X, y = diabetes()
    models = [MLPRegressor(random_state=0, solver="sgd", batch_size=50) for _ in range(2)]
    for model in models:
        model.partial_fit(convert(X), y).partial_fit(convert(X), y)
    huge = X.copy()
    huge[0] = 1e200  # in one of the later steps
    with pytest.raises(ValueError, match="Solver produced non-finite parameter weights") as raised:
        models[0].partial_fit(convert(huge), y)
    assert isinstance(raised.value.__cause__, DivergedError)
    assert int(re.search(r"step (\d+)", str(raised.value))[1]) > 1
    for model in models:
        model.partial_fit(convert(X), y)
    assert models[0].loss_curve_ == models[1].loss_curve_
    np.testing.assert_array_equal(models[0].coefs_[0], models[1].coefs_[0])


def test_a_fit_that_diverges_says_where():
    X, y = diabetes()
    model = MLPRegressor(random_state=0, solver="sgd", learning_rate_init=1e3)
    with pytest.raises(ValueError, match=r"non-finite parameter weights.* in epoch 2, step 1"):
        model.fit(1e5 * X, y)
    assert vars(model) == vars(MLPRegressor(random_state=0, solver="sgd", learning_rate_init=1e3))


def test_ctrl_c_ends_the_fit_and_keeps_what_was_trained():
    def interrupt(model):
        if model.n_iter_ == 2:
            raise KeyboardInterrupt

    X, y = digits()
    model = MLPClassifier(random_state=0, callbacks=interrupt)
    with pytest.warns(UserWarning, match=r"^Training interrupted by user\.$"):
        model.fit(X, y)
    assert model.n_iter_ == 2
    expected = MLPClassifier(random_state=0, max_iter=2).fit(X, y)
    np.testing.assert_array_equal(model.coefs_[0], expected.coefs_[0])


# ---- at home in scikit-learn ---------------------------------------------------------------------
def test_tags_are_scikit_learns():
    assert get_tags(MLPClassifier()) == get_tags(theirs.MLPClassifier())
    assert get_tags(MLPRegressor()) == get_tags(theirs.MLPRegressor())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("seen", [False, True])
def test_a_copy_goes_on_alike(copied, seen):
    X, y = digits(100)
    model = MLPClassifier(random_state=0).partial_fit(X, y, classes=np.arange(10))
    if seen:
        assert len(model.coefs_) == 2
    twin = copied(model)
    for one in (model, twin):
        one.partial_fit(X, y)
    assert twin.loss_curve_ == model.loss_curve_
    np.testing.assert_array_equal(twin.predict_proba(X), model.predict_proba(X))
    twin.coefs_[0][:] = 0
    assert model.coefs_[0].any()


def test_a_model_mapped_read_only_predicts_and_trains(tmp_path):
    X, y = digits(100)
    model = MLPClassifier(random_state=0).partial_fit(X, y, classes=np.arange(10))
    joblib.dump(model, tmp_path / "model.joblib")
    mapped = joblib.load(tmp_path / "model.joblib", mmap_mode="r")
    np.testing.assert_array_equal(mapped.predict(X), model.predict(X))
    assert mapped.partial_fit(X, y).loss_curve_ == model.partial_fit(X, y).loss_curve_


def test_grid_search_in_processes_pipelines_and_the_rest():
    X, y = cancer()
    names = np.array(["benign", "malignant"])[y]
    pipeline = make_pipeline(StandardScaler(), MLPClassifier(max_iter=10, random_state=0))
    search = GridSearchCV(pipeline, {"mlpclassifier__alpha": [1e-4, 1.0]}, n_jobs=2, cv=2)
    search.fit(X, names)
    assert search.best_score_ > 0.9
    assert set(search.predict(X)) == {"benign", "malignant"}
    importance = permutation_importance(search, X[:50], names[:50], n_repeats=2, random_state=0)
    assert importance.importances_mean.shape == (30,)
    calibrated = CalibratedClassifierCV(clone(pipeline), cv=2).fit(X, names)
    np.testing.assert_allclose(calibrated.predict_proba(X).sum(axis=1), 1)
    assert "MLPClassifier" in pipeline._repr_html_()


def test_processes_of_joblib_share_the_threads(monkeypatch):
    from joblib import Parallel, delayed
    from joblib.externals.loky import get_reusable_executor

    from fastmlp import engines

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # joblib leaves what the user has set
    get_reusable_executor().shutdown(wait=True)
    counts = Parallel(n_jobs=2)(delayed(engines.usable_threads)() for _ in range(2))
    assert max(counts) <= max(1, joblib.cpu_count() // 2)


def test_names_of_features_are_kept_and_checked():
    X, y = digits(100)
    frame = pd.DataFrame(X, columns=[f"pixel {i}" for i in range(64)])
    for settings in ({}, {"early_stopping": True}, {"early_stopping": True, "scoring": "f1_macro"}):
        model = MLPClassifier(max_iter=2, random_state=0, **settings).fit(frame, y)
        assert list(model.feature_names_in_) == list(frame.columns)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[frame.columns[::-1]])
    with pytest.warns(UserWarning, match="valid feature names"):
        model.predict(X)


def test_polars_frames():
    polars = pytest.importorskip("polars")
    X, y = digits(100)
    frame = polars.DataFrame(X, schema=[f"pixel {i}" for i in range(64)])
    model = MLPClassifier(max_iter=2, random_state=0).fit(frame, polars.Series(y))
    assert list(model.feature_names_in_) == frame.columns
    expected = MLPClassifier(max_iter=2, random_state=0).fit(X, y)
    np.testing.assert_array_equal(model.predict(frame), expected.predict(X))


def test_metadata_routing_knows_the_arguments_of_fit():
    from sklearn import config_context

    with config_context(enable_metadata_routing=True):
        model = MLPClassifier().set_fit_request(sample_weight=True, X_val=False)
        assert model.get_metadata_routing().fit.requests["sample_weight"] is True


@pytest.mark.parametrize("weighted", [False, True])
def test_r2_is_scikit_learns(weighted):
    rng = np.random.default_rng(0)
    y, predicted = rng.normal(size=(2, 20, 3))
    y[:, 1] = predicted[:, 1] = 1  # perfect and constant
    y[:, 2] = 2  # constant, and missed
    weight = rng.uniform(size=20) if weighted else None
    expected = r2_score(y, predicted, sample_weight=weight)
    np.testing.assert_allclose(r2(y, predicted, weight), expected, rtol=1e-12)


# ---- import -------------------------------------------------------------------------------------
def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_importing_fastmlp_does_not_import_scikit_learn():
    done = run("import sys, fastmlp; print('sklearn' in sys.modules, dir(fastmlp))")
    assert done.stdout.startswith("False ") and "MLPClassifier" in done.stdout, done.stderr


@pytest.mark.parametrize(
    "hide, needs",
    [
        ("sys.modules['sklearn'] = None", "need scikit-learn; install it with: pip install"),
        (
            "sys.modules['sklearn'] = types.SimpleNamespace(__version__='1.5.2')",
            "need scikit-learn 1.6 or later, here is 1.5.2; install it with: pip install",
        ),
    ],
)
def test_a_missing_or_old_scikit_learn_is_named(hide, needs):
    done = run(f"import sys, types; {hide}; import fastmlp; fastmlp.MLPClassifier")
    assert needs in done.stderr and "ImportError" in done.stderr


def test_other_names_are_not_there():
    with pytest.raises(AttributeError, match="module 'fastmlp' has no attribute 'MLPClasifier'"):
        fastmlp.MLPClasifier  # noqa: B018
    assert fastmlp.MLPClassifier is MLPClassifier
