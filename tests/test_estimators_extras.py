"""The estimators where scikit-learn has nothing: validation sets, callbacks, losses, files."""

import inspect
import time

import numpy as np
import pytest
import sklearn.neural_network as theirs
from samples import diabetes, digits, multilabel
from scipy import sparse
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import balanced_accuracy_score, log_loss, make_scorer
from sklearn.preprocessing import StandardScaler

from fastmlp import LossCurveDisplay, MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning",
    # of SciPy, for an option that scikit-learn 1.6 still gives it
    "ignore:.*`disp` and `iprint`:DeprecationWarning",
)


# ---- validation ---------------------------------------------------------------------------------
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("data", [digits, multilabel])
def test_the_validation_loss_is_the_log_loss_of_the_rows_held_out(data, solver):
    X, y = data(200)
    model = MLPClassifier(max_iter=4, random_state=0, solver=solver, alpha=0)
    model.fit(X[:150], y[:150], X_val=X[150:], y_val=y[150:])
    assert len(model.validation_loss_curve_) == model.n_iter_ == 4
    P = model.predict_proba(X[150:])
    if y.ndim == 1:
        expected = log_loss(y[150:], P, labels=model.classes_)
    else:
        expected = sum(log_loss(y[150:, j], P[:, j], labels=[0, 1]) for j in range(3))
    np.testing.assert_allclose(model.validation_loss_curve_[-1], expected, rtol=1e-10)
    assert model.validation_scores_ is None if solver == "adam" else True
    # and a fit without such rows forgets them
    assert model.fit(X, y).validation_loss_curve_ is None


def test_watching_validation_rows_does_not_change_the_fit():
    X, y = digits()
    settings = {"max_iter": 5, "random_state": 0}
    watched = MLPClassifier(**settings).fit(X, y, X_val=X[:50], y_val=y[:50])
    assert watched.loss_curve_ == MLPClassifier(**settings).fit(X, y).loss_curve_


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_matrix])
def test_early_stopping_goes_by_the_validation_set_given(convert):
    X, y = digits(400)
    held = convert(X[300:]), y[300:]
    model = MLPClassifier(early_stopping=True, random_state=0, n_iter_no_change=2, tol=1e-2)
    model.fit(convert(X[:300]), y[:300], X_val=held[0], y_val=held[1])
    assert model.t_ == 300 * model.n_iter_  # nothing was split off
    assert 3 < model.n_iter_ < 200
    assert len(model.validation_scores_) == len(model.validation_loss_curve_) == model.n_iter_
    assert model.score(*held) == model.best_validation_score_ == max(model.validation_scores_)


def test_weights_of_the_validation_set():
    X, y = digits()
    weight = np.zeros(100)
    weight[:30] = 2.0
    settings = {"max_iter": 3, "random_state": 0, "early_stopping": True}
    weighted = MLPClassifier(**settings).fit(
        X[100:], y[100:], X_val=X[:100], y_val=y[:100], sample_weight_val=weight
    )
    cut = MLPClassifier(**settings).fit(X[100:], y[100:], X_val=X[:30], y_val=y[:30])
    np.testing.assert_allclose(weighted.validation_scores_, cut.validation_scores_)
    np.testing.assert_allclose(weighted.validation_loss_curve_, cut.validation_loss_curve_)


@pytest.mark.parametrize(
    "scoring, judge",
    [
        ("loss", None),
        ("balanced_accuracy", balanced_accuracy_score),
        (make_scorer(balanced_accuracy_score), balanced_accuracy_score),
        (lambda model, X, y: (model.predict(X) == y).sum(), lambda y, p: (y == p).sum()),
    ],
)
def test_early_stopping_goes_by_the_score_asked_for(scoring, judge):
    X, y = digits(400)
    y = np.array([f"digit {i}" for i in y])
    held = X[300:], y[300:]
    model = MLPClassifier(early_stopping=True, random_state=0, max_iter=6, scoring=scoring)
    model.fit(X[:300], y[:300], X_val=held[0], y_val=held[1])
    if judge is None:
        assert model.validation_scores_ == [-loss for loss in model.validation_loss_curve_]
    else:
        assert model.best_validation_score_ == judge(held[1], model.predict(held[0]))


@pytest.mark.parametrize(
    "held, message",
    [
        ({"X_val": np.zeros((3, 64))}, "without y_val"),
        ({"y_val": [1, 2]}, "without X_val"),
        ({"X_val": np.zeros((3, 63)), "y_val": [1, 2, 3]}, "validation set.*63 features"),
        ({"X_val": np.full((2, 64), np.nan), "y_val": [1, 2]}, "validation set.*NaN"),
        ({"X_val": np.zeros((2, 64)), "y_val": [1, 99]}, r"validation set.*y\[1\] is .*99"),
    ],
)
def test_bad_validation_sets_are_named(held, message):
    X, y = digits(100)
    with pytest.raises(ValueError, match=message):
        MLPClassifier().fit(X, y, **held)


def test_a_fit_that_diverges_keeps_the_best_parameters_under_early_stopping():
    X, y = diabetes()
    model = MLPRegressor(
        early_stopping=True, solver="sgd", learning_rate_init=0.5, momentum=0.99, random_state=0
    )
    with pytest.warns(ConvergenceWarning, match=r"not finite in epoch \d+, step"):
        model.fit(100 * X, y)
    assert np.isnan(model.validation_scores_[-1]) and np.isnan(model.loss_)
    assert len(model.validation_scores_) == len(model.loss_curve_) == model.n_iter_
    assert np.isfinite(model.predict(X)).all()


# ---- weights of classes -------------------------------------------------------------------------
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_class_weights_are_sample_weights(solver):
    X, y = load_iris(return_X_y=True)
    names, y = np.array(["a", "b", "c"])[y[:120]], y[:120]
    settings = {"solver": solver, "max_iter": 5, "random_state": 0}
    weights = {"a": 1.0, "b": 2.0, "c": 0.5}
    given = MLPClassifier(class_weight=weights, **settings).fit(X[:120], names)
    rows = np.array([1.0, 2.0, 0.5])[y]
    expected = MLPClassifier(**settings).fit(X[:120], names, sample_weight=rows)
    assert given.loss_curve_ == expected.loss_curve_
    both = MLPClassifier(class_weight=weights, **settings).fit(X[:120], names, sample_weight=rows)
    expected = MLPClassifier(**settings).fit(X[:120], names, sample_weight=rows**2)
    assert both.loss_curve_ == expected.loss_curve_
    balanced = MLPClassifier(class_weight="balanced", **settings).fit(X[:120], names)
    rows = np.array([120 / 3 / 50, 120 / 3 / 50, 120 / 3 / 20])[y]
    expected = MLPClassifier(**settings).fit(X[:120], names, sample_weight=rows)
    np.testing.assert_allclose(balanced.loss_curve_, expected.loss_curve_, rtol=1e-12)


def test_class_weights_in_single_steps():
    X, y = digits(64)
    weights = {i: 1.0 + i for i in range(10)}
    given = MLPClassifier(class_weight=weights, random_state=0)
    expected = MLPClassifier(random_state=0)
    for rows in (slice(0, 32), slice(0, 5), slice(32, 64)):
        given.partial_fit(X[rows], y[rows], classes=np.arange(10))
        expected.partial_fit(X[rows], y[rows], 1.0 + y[rows], classes=np.arange(10))
    assert given.loss_curve_ == expected.loss_curve_
    with pytest.raises(ValueError, match="needs all of y at once"):
        MLPClassifier(class_weight="balanced").partial_fit(X, y, classes=np.arange(10))
    with pytest.raises(ValueError, match="multilabel"):
        MLPClassifier(class_weight="balanced").fit(*multilabel(50))


# ---- callbacks, time, progress ------------------------------------------------------------------
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_callbacks_see_every_epoch_as_it_is(solver):
    X, y = digits()
    seen = []

    def record(model):
        seen.append((model.n_iter_, model.loss_curve_[-1], model.coefs_[0].copy()))
        return 1  # true, but not True

    def stop(model):
        return model.n_iter_ == 3

    model = MLPClassifier(random_state=0, solver=solver, callbacks=[record, stop]).fit(X, y)
    assert [n for n, *_ in seen] == [1, 2, 3] == list(range(1, model.n_iter_ + 1))
    assert [loss for _, loss, _ in seen] == model.loss_curve_
    np.testing.assert_array_equal(seen[-1][2], model.coefs_[0])
    for n, _, W in seen:
        expected = MLPClassifier(random_state=0, solver=solver, max_iter=n).fit(X, y)
        np.testing.assert_allclose(W, expected.coefs_[0], rtol=1e-12)


def test_a_callback_may_change_the_parameters():
    X, y = digits()

    def forget(model):
        if model.n_iter_ == 49:
            for W in model.coefs_:
                W[:] = 0

    model = MLPClassifier(random_state=0, callbacks=forget, max_iter=50).fit(X, y)
    assert model.loss_curve_[48] < 1 < 2.2 < model.loss_curve_[49]  # ln 10 is 2.30


@pytest.mark.parametrize("callbacks", [3, [3], ["print"]])
def test_what_is_no_callback_is_named(callbacks):
    X, y = digits(50)
    with pytest.raises((TypeError, ValueError), match="callbacks"):
        MLPClassifier(callbacks=callbacks).fit(X, y)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_max_time_ends_the_fit_after_an_epoch(solver):
    X, y = digits()
    model = MLPClassifier(
        random_state=0,
        solver=solver,
        max_time=0.05,
        max_iter=10**6,
        n_iter_no_change=np.inf,
        callbacks=lambda model: time.sleep(0.02),
    )
    with pytest.warns(ConvergenceWarning, match=r"max_time=0\.05 s is over after \d"):
        model.fit(X, y)
    assert 1 <= model.n_iter_ <= 3


def test_progress_shows_the_losses(capsys):
    X, y = digits()
    MLPClassifier(progress=True, max_iter=3, early_stopping=True, random_state=0).fit(X, y)
    shown = capsys.readouterr().err
    assert "3/3" in shown
    assert all(word in shown for word in ("loss=", "validation loss=", "score="))


def test_callbacks_of_scikit_learns_protocol():
    callback = pytest.importorskip("sklearn.callback")
    X, y = digits()
    told = []

    class Record:
        def setup(self, estimator, context):
            told.append("setup")

        def teardown(self, estimator, context):
            told.append("teardown")

        def on_fit_task_begin(self, estimator, context):
            told.append(f"begin {context.task_name}")

        def on_fit_task_end(self, estimator, context, *, X, fitted_estimator):
            told.append(f"end {context.task_name}")
            np.testing.assert_array_equal(fitted_estimator.predict(X), estimator.predict(X))
            return context.task_name == "epoch" and context.task_id == 1

    model = MLPClassifier(random_state=0).set_callbacks(Record()).fit(X, y)
    epoch = ["begin epoch", "end epoch"]
    assert told == ["setup", "begin fit", *epoch, *epoch, "end fit", "teardown"]
    assert model.n_iter_ == 2

    for solver in ("adam", "lbfgs"):
        monitor = callback.ScoringMonitor(scoring="accuracy")
        model = MLPClassifier(random_state=0, max_iter=4, solver=solver).set_callbacks(monitor)
        model.fit(X, y)
        rows = monitor.get_logs().data
        scores = [row["accuracy"] for row in rows if row["task_name"] == "epoch"]
        assert len(scores) == 4
        assert scores[-1] == model.score(X, y)

    told.clear()
    with pytest.raises(ValueError, match="NaN"):
        MLPClassifier().set_callbacks(Record()).fit(X * np.nan, y)
    assert told == ["setup", "teardown"]


# ---- losses, activations, regularisation --------------------------------------------------------
def test_quantiles_are_fitted():
    rng = np.random.default_rng(0)
    X, y = rng.uniform(size=(2000, 1)), rng.exponential(size=2000)
    for quantile in (0.1, 0.5, 0.9):
        model = MLPRegressor(
            loss="quantile", quantile=quantile, hidden_layer_sizes=(4,), solver="lbfgs",
            random_state=0,
        ).fit(X, y)  # fmt: skip
        assert abs((y <= model.predict(X)).mean() - quantile) < 0.02


@pytest.mark.parametrize("solver", ["sgd", "lbfgs"])
@pytest.mark.parametrize(
    "settings, of_error",
    [
        ({"loss": "absolute_error"}, np.abs),
        ({"loss": "huber", "huber_delta": 0.5},
         lambda e: np.where(np.abs(e) <= 0.5, e**2 / 2, 0.5 * (np.abs(e) - 0.25))),
        ({"loss": "quantile", "quantile": 0.8}, lambda e: np.maximum(0.8 * e, -0.2 * e)),
        ({"loss": "squared_error"}, lambda e: e**2 / 2),
    ],
)  # fmt: skip
def test_losses_are_means_over_rows_and_outputs(settings, of_error, solver):
    X, y = diabetes()
    Y = np.column_stack([y, 2 * y, -y])
    model = MLPRegressor(solver=solver, max_iter=3, random_state=0, **settings)
    model.fit(X, Y, X_val=X, y_val=Y)
    expected = of_error(Y - model.predict(X)).mean()
    np.testing.assert_allclose(model.validation_loss_curve_[-1], expected, rtol=1e-10)
    if solver == "lbfgs":
        penalty = 0.5 * 1e-4 * sum((W**2).sum() for W in model.coefs_) / len(X)
        np.testing.assert_allclose(model.loss_, expected + penalty, rtol=1e-10)


def test_outliers_weigh_less_under_huber_and_absolute_error():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 2))
    y = X @ [1.0, -2.0]
    spoiled = y.copy()
    spoiled[::10] += 100
    errors = {
        loss: np.abs(
            MLPRegressor(loss=loss, solver="lbfgs", hidden_layer_sizes=(4,),
                         activation="identity", random_state=0).fit(X, spoiled).predict(X) - y
        ).mean()
        for loss in ("squared_error", "huber", "absolute_error")
    }  # fmt: skip
    assert errors["huber"] < errors["squared_error"] / 10
    assert errors["absolute_error"] < errors["squared_error"] / 10


def test_poisson_needs_counts():
    X, y = diabetes()
    with pytest.raises(ValueError, match="negative value"):
        MLPRegressor(loss="poisson").fit(X, -y)


def test_an_activation_for_every_layer():
    X, y = digits()
    names = ["tanh", "silu", "leaky_relu"]
    model = MLPClassifier((12, 11, 10), activation=names, max_iter=3, random_state=0).fit(X, y)
    assert model.to_mlp().activation == names
    same = MLPClassifier((9, 8), activation=("tanh", "tanh"), max_iter=3, random_state=0).fit(X, y)
    name = MLPClassifier((9, 8), activation="tanh", max_iter=3, random_state=0).fit(X, y)
    assert same.loss_curve_ == name.loss_curve_
    for wrong in (["tanh"], ["tanh", "sine"]):
        with pytest.raises(ValueError, match="expected one for each of the 2 hidden layers"):
            MLPClassifier((9, 8), activation=wrong).fit(X, y)


@pytest.mark.parametrize(
    "name, value", [("dropout", 0.3), ("weight_decay", 0.1), ("max_norm", 0.01)]
)
def test_regularisers_do_something_and_lbfgs_has_none_of_them(name, value):
    X, y = digits()
    settings = {"max_iter": 3, "random_state": 0, "solver": "sgd"}
    plain = MLPClassifier(**settings).fit(X, y)
    regularised = MLPClassifier(**settings, **{name: value}).fit(X, y)
    again = MLPClassifier(**settings, **{name: value}, n_threads=2).fit(X, y)
    assert regularised.loss_curve_ != plain.loss_curve_
    assert regularised.loss_curve_ == again.loss_curve_
    if name == "max_norm":
        moved = regularised.coefs_[0] - MLPClassifier(**settings).fit(X, y).coefs_[0]
        assert np.abs(moved).max() > 0
    with pytest.raises(ValueError, match=f"{name}={value} needs solver='sgd' or 'adam'"):
        MLPClassifier(solver="lbfgs", **{name: value}).fit(X, y)


@pytest.mark.parametrize("engine", ["fused", "blas"])
def test_both_engines(engine):
    X, y = digits()
    model = MLPClassifier(max_iter=3, random_state=0, engine=engine).fit(X, y)
    expected = theirs.MLPClassifier(max_iter=3, random_state=0).fit(X, y)
    np.testing.assert_allclose(model.loss_curve_, expected.loss_curve_, rtol=1e-9)


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_input_gradients_are_those_of_finite_differences(n_outputs):
    X, y = diabetes()
    Y = y if n_outputs == 1 else np.column_stack([y, -y])
    model = MLPRegressor(activation="tanh", max_iter=20, random_state=0).fit(X, Y)
    J = model.input_gradients(X[:4])
    assert J.shape == ((4, 10) if n_outputs == 1 else (4, 2, 10))
    h = 1e-5
    for j in range(10):
        step = np.zeros(10)
        step[j] = h
        slope = (model.predict(X[:4] + step) - model.predict(X[:4] - step)) / (2 * h)
        np.testing.assert_allclose(J[..., j], slope, rtol=1e-6, atol=1e-8)


# ---- the loss curve, drawn ----------------------------------------------------------------------
def test_the_loss_curve_is_drawn():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    X, y = digits()
    model = MLPClassifier(early_stopping=True, max_iter=5, random_state=0).fit(X, y)
    display = LossCurveDisplay.from_estimator(model, log_scale=True, color="k")
    drawn = [line.get_ydata().tolist() for line in display.lines_]
    assert drawn == [model.loss_curve_, model.validation_loss_curve_, model.validation_scores_]
    assert display.ax_.get_ylabel() == "Loss" and display.ax_.get_yscale() == "log"
    assert display.score_ax_.get_ylabel() == "Validation accuracy"
    assert display.lines_[0].get_color() == "k"
    assert [t.get_text() for t in display.score_ax_.get_legend().get_texts()] == [
        "Training loss",
        "Validation loss",
        "Validation accuracy",
    ]
    figure, ax = plt.subplots()
    model = theirs.MLPRegressor(max_iter=3, random_state=0).fit(X, y)
    display = LossCurveDisplay.from_estimator(model, ax=ax, name="theirs")
    assert display.figure_ is figure and display.ax_ is ax and display.score_ax_ is None
    assert len(display.lines_) == 1 and ax.get_title() == "theirs"
    plt.close("all")
    with pytest.raises(NotFittedError):
        LossCurveDisplay.from_estimator(MLPClassifier())


def test_one_step_on_a_model_of_784_inputs_costs_little_more_than_the_step():
    # A bound that only a full check of the data, or a copy of the parameters, would break.
    rng = np.random.default_rng(0)
    X, y = rng.uniform(size=(32, 784)).astype(np.float32), rng.integers(0, 10, 32)
    model = MLPClassifier((256, 128), random_state=0, n_threads=1)
    model.partial_fit(X, y, classes=np.arange(10)).partial_fit(X, y)
    session, order = model._network.session, np.arange(32)

    def seconds(step):
        times = []
        for _ in range(50):
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        return min(times)

    step = seconds(lambda: session.epoch(X, y, order, 32, learning_rate=1e-3, l2=1e-4))
    assert seconds(lambda: model.partial_fit(X, y)) < 1.5 * step + 1e-4


def test_breast_cancer_is_learnt():
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    model = MLPClassifier(random_state=0, weight_decay=0.01, dropout=0.2)
    assert model.fit(X[:400], y[:400]).score(X[400:], y[400:]) > 0.95


# ---- what is easily forgotten -------------------------------------------------------------------
def test_a_validation_set_has_as_many_outputs_as_the_network():
    X, y = diabetes()
    for target, held, n in ((y, np.c_[y, y], 2), (np.c_[y, y], y, 1)):
        with pytest.raises(ValueError, match=rf"y_val has {n} outputs, the network has {3 - n}"):
            MLPRegressor().fit(X, target, X_val=X, y_val=held)


@pytest.mark.parametrize("scoring", ["adjusted_rand_score", lambda model, X, y: model.score(X, y)])
@pytest.mark.parametrize("how", ["sample_weight", "class_weight"])
def test_scorers_that_take_no_weights_get_none(scoring, how):
    X, y = digits(100)
    model = MLPClassifier(early_stopping=True, scoring=scoring, max_iter=3, random_state=0)
    if how == "class_weight":
        model.set_params(class_weight="balanced").fit(X, y)
    else:
        model.fit(X, y, sample_weight=np.arange(1.0, 101))
    assert len(model.validation_scores_) == 3


def test_scorers_that_take_weights_get_them():
    X, y = digits(100)

    def score(model, X, y, sample_weight=None):
        seen.append(sample_weight)
        return 0.0

    seen = []
    model = MLPClassifier(early_stopping=True, scoring=score, max_iter=1, random_state=0)
    model.fit(X, y, sample_weight=np.arange(1.0, 101))
    held = np.sort(seen[0])
    assert len(held) == 10 and set(held) < set(np.arange(1.0, 101))


def test_a_single_class_is_always_right():
    X, _ = digits(60)
    model = MLPClassifier((5,), random_state=1, early_stopping=True, max_iter=5)
    assert set(model.fit(X, np.full(60, "a")).validation_scores_) == {1.0}


@pytest.mark.parametrize(
    "y", [np.array(["2020-01-01", "2021-01-01"] * 30, "datetime64[D]"), np.array(["1", "2"] * 30)]
)
def test_a_regressor_wants_numbers(y):
    X, _ = digits(60)
    with pytest.raises(ValueError, match=r"y has dtype .*, expected real numbers"):
        MLPRegressor().fit(X, y)


def test_changed_parameters_are_checked_before_another_step():
    X, y = digits(100)
    model = MLPClassifier(random_state=0).partial_fit(X, y, classes=np.arange(10))
    for name, value in (("max_iter", None), ("random_state", "a"), ("verbose", "x")):
        before = model.get_params()[name]
        with pytest.raises(ValueError, match=f"'{name}' parameter"):
            model.set_params(**{name: value}).partial_fit(X, y)
        model.set_params(**{name: before})
    steps = model.t_
    model.set_params(hidden_layer_sizes=np.array([100])).partial_fit(X, y)
    assert model.t_ == steps + 100


def test_a_warm_start_measures_by_its_own_scorer():
    X, y = digits(200)
    model = MLPClassifier(early_stopping=True, warm_start=True, random_state=0, max_iter=5)
    model.fit(X, y)
    accuracy = model.best_validation_score_
    assert 0 < accuracy <= 1
    before = model.predict_proba(X)
    model.set_params(scoring="loss", max_iter=20).fit(X, y)
    assert model.best_validation_score_ == max(model.validation_scores_[5:]) < 0
    assert not np.array_equal(model.predict_proba(X), before)
    model.fit(X, y, X_val=X[:50], y_val=y[:50])
    assert model.best_validation_score_ >= max(model.validation_scores_[-model.n_iter_ :])


def test_a_failed_fit_gives_a_stream_back_what_it_drew():
    X, y = digits(100)
    stream = np.random.RandomState(0)
    expected = stream.get_state()[1:3]
    with pytest.raises(ValueError, match="in the validation set"):
        MLPClassifier(random_state=stream).fit(X, y, X_val=X[:, :1], y_val=y)
    np.testing.assert_equal(stream.get_state()[1:3], expected)


@pytest.mark.skipif(
    "sample_weight" not in inspect.signature(theirs.MLPClassifier.fit).parameters,
    reason="this scikit-learn has networks without sample weights",
)
def test_negative_weights_count_as_with_scikit_learn():
    X, y = digits(100)
    weight = np.where(np.arange(100) % 7, 1.0, -0.5)
    ours = MLPClassifier(random_state=0, max_iter=3).fit(X, y, sample_weight=weight)
    their = theirs.MLPClassifier(random_state=0, max_iter=3).fit(X, y, sample_weight=weight)
    np.testing.assert_allclose(ours.loss_curve_, their.loss_curve_, rtol=1e-9)
