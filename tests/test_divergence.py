"""Training that leaves the finite numbers: where it is noticed, and what is left of it.

The judge of a run is the same run made of fits of one step each, and NumPy's formulas
(reference.py) in the dtype of the model for the step that fails.
"""

import pickle

import numpy as np
import pytest
import reference
from sklearn.exceptions import ConvergenceWarning

import fastmlp
from fastmlp import MLP, SGD, Adam, MLPClassifier, MLPRegressor
from fastmlp._core import ACTIVATIONS, LOSSES

ENGINES, DTYPES = ["fused", "blas"], ["float32", "float64"]
SIZES, N, BATCH = (5, 6, 6, 6, 3), 46, 10
PER_EPOCH = -(-N // BATCH)
both_engines = pytest.mark.parametrize("engine", ENGINES)
both_dtypes = pytest.mark.parametrize("dtype", DTYPES)


def problem(model, scale=1.0):
    rng = np.random.default_rng(3)
    X = scale * rng.normal(size=(N, model.sizes[0]))
    if model.classifies:
        return X, rng.integers(0, model.sizes[-1], N)
    return X, rng.uniform(0, 1, (N, model.sizes[-1]))  # what all losses take


def prepared(loss, dtype, activation="relu", change=None, sizes=SIZES):
    model = MLP(sizes, loss=loss, activation=activation, dtype=dtype, seed=1)
    if change is not None:
        change(model)
    return model


def diverge(optimizer, new_model, X, y, epochs=50, **options):
    """Fit until it diverges; check what is left against fits of one step each.

    Returns the error, the model, and that of the fits of one step.
    """
    options = {"batch_size": BATCH, "shuffle": False, **options}
    model, other = new_model(), new_model()
    trainer, twin = optimizer(model, **options), optimizer(other, **options)
    with pytest.raises(fastmlp.DivergedError) as caught:
        trainer.fit(X, y, epochs=epochs)
    error = caught.value
    assert 1 <= error.step <= PER_EPOCH and trainer.history.epochs == error.epoch - 1
    completed = (error.epoch - 1) * PER_EPOCH + error.step - 1
    assert trainer._session.step == completed

    def step(i):
        start = i % PER_EPOCH * BATCH
        rows = slice(start, start + BATCH)
        twin.fit(X[rows], y[rows], epochs=1)

    for i in range(completed):
        step(i)
        assert np.isfinite(other.params).all()
    with pytest.raises(fastmlp.DivergedError):
        step(completed)
    assert model.params.tobytes() == other.params.tobytes()
    assert np.isfinite(model.params).all()
    for mine, others in zip(trainer._session.moments, twin._session.moments, strict=True):
        assert mine.tobytes() == others.tobytes() and np.isfinite(mine).all()
    return error, trainer, completed


def assert_reference_diverges(trainer, X, y, completed, update):
    """The next step, by NumPy in the dtype of the model, makes numbers that are not finite."""
    model, start = trainer.model, completed % PER_EPOCH * BATCH
    rows = slice(start, start + BATCH)
    with np.errstate(all="ignore"):
        targets = y[rows] if model.classifies else y[rows].astype(model.dtype)
        loss, dweights, dbiases = reference.gradients(
            model.weights, model.biases, X[rows].astype(model.dtype), targets,
            model.activation, model.loss_name,
        )  # fmt: skip
        found = [np.asarray(loss)]
        split = [model.split(moment) for moment in trainer._session.moments]
        for kind, gradients in enumerate((dweights, dbiases)):
            for l, dW in enumerate(gradients):
                W = (model.weights, model.biases)[kind][l]
                moments = [moment[kind][l] for moment in split]
                found += update(W, *moments, dW.astype(W.dtype))
    assert not all(np.isfinite(array).all() for array in found)


def sgd_by(rate, momentum=0.9):
    return lambda W, v, dW: reference.sgd_update(W, v, dW, W.dtype.type(rate), momentum, False, 0)


@both_engines
@both_dtypes
@pytest.mark.parametrize("rate", [1e30, 1e38])
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "squared_error"])
@pytest.mark.parametrize("activation", ["relu", "identity"])
def test_a_rate_far_too_large(engine, dtype, rate, loss, activation):
    def new():
        return prepared(loss, dtype, activation)

    X, y = problem(new())
    options = {"learning_rate": rate, "engine": engine}
    _, trainer, completed = diverge(SGD, new, X, y, **options)
    assert_reference_diverges(trainer, X, y, completed, sgd_by(rate))


@both_engines
@both_dtypes
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_and_activation(engine, dtype, loss, activation):
    def new():
        return prepared(loss, dtype, activation)

    # so large that the first step after whose gradient is not zero overflows
    X, y = problem(new())
    rate = 1e30 if dtype == "float32" else 1e250
    for optimizer, options in (SGD, {"momentum": 0.99, "weight_decay": 1e-3}), (Adam, {}):
        if optimizer is Adam:  # its steps are as long as the rate: the second overflows
            options = {"learning_rate": rate * 1e10, "weight_decay": 1.0, "decoupled": True}
        else:
            options = {"learning_rate": rate, **options}
        diverge(optimizer, new, X, y, engine=engine, **options)


@both_engines
@both_dtypes
@pytest.mark.parametrize("activation", ["relu", "identity", "leaky_relu"])
def test_overflow_in_a_middle_layer(engine, dtype, activation):
    """Layer 2 of 4 is beyond all numbers in the third batch, and layer 3 makes it small again."""
    large = float(np.finfo(dtype).max) / 1e4

    def new():
        model = prepared("squared_error", dtype, activation)
        for W in model.weights:
            np.abs(W, out=W)
        model.weights[1][:] *= large
        model.weights[2][:] /= large
        return model

    X, y = problem(new(), 1e-12)
    X = np.abs(X)
    X[2 * BATCH : 3 * BATCH] *= 1e20
    rule = {"learning_rate": 0.0, "momentum": 0.0}  # so that nothing else can overflow
    error, trainer, completed = diverge(SGD, new, X, y, engine=engine, **rule)
    assert (error.epoch, error.step) == (1, 3)
    if activation in reference.ACTIVATIONS:
        assert_reference_diverges(trainer, X, y, completed, sgd_by(0.0, 0.0))


@both_engines
@both_dtypes
@pytest.mark.parametrize("activation", ["tanh", "logistic"])
def test_a_layer_that_overflows_and_saturates_is_no_divergence(engine, dtype, activation):
    """tanh of infinity is 1, and its slope 0: every number that is used is finite."""
    largest = float(np.finfo(dtype).max)
    model = prepared("squared_error", dtype, activation)
    model.biases[0][:] = 50  # the outputs of layer 1 are 1: sums of layer 2 are of one sign
    model.weights[1][:] = [largest / 2, -largest / 2] * 3
    X, y = problem(model)
    with np.errstate(over="ignore"):
        expected = reference.loss(
            model.weights, model.biases, X.astype(dtype), y, activation, "squared_error"
        )
    history = SGD(model, engine=engine, learning_rate=1e-3, batch_size=N).fit(X, y, epochs=3)
    assert history.loss[0] == pytest.approx(expected, rel=1e-5)
    assert history.loss[2] < history.loss[0] and np.isfinite(model.params).all()


@both_engines
@both_dtypes
@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic"])
@pytest.mark.parametrize("threads", [1, 3])
def test_infinite_parameters_that_hide(engine, dtype, activation, threads, monkeypatch):
    """The bias of the first layer overflows in step 3; relu makes 0 of it, tanh 1, for ever."""
    monkeypatch.setenv("FASTMLP_OVERSUBSCRIBE", "1")
    largest = float(np.finfo(dtype).max)
    sign = -1 if activation == "relu" else 1

    def new():
        # one input that is always 1: its bias moves by as much as its weight does
        model = prepared("squared_error", dtype, activation, sizes=(1, 4, 2))
        model.weights[0][:] = model.biases[0][:] = 0
        return model

    X, y = np.ones((N, 1)), np.zeros((N, 2))

    class Pushed(SGD):
        """Begins with a velocity that makes the bias overflow in step 3."""

        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self._session.moments[0][4:8] = sign * largest * 0.4

    error, trainer, _ = diverge(
        Pushed, new, X, y, engine=engine, n_threads=threads, momentum=0.999, learning_rate=1e-3
    )
    assert (error.epoch, error.step) == (1, 3)
    # twice the velocity, slowed down: momentum (1 + momentum) of it
    expected = sign * largest * 0.4 * 0.999 * 1.999
    np.testing.assert_allclose(trainer.model.biases[0], expected, rtol=1e-5)


@both_engines
@both_dtypes
@pytest.mark.parametrize("sizes", [(5, 3), (5, 9, 3)], ids=str)  # the second updates W^T
def test_mean_squares_of_adam_that_overflow(engine, dtype, sizes):
    """A parameter with an infinite mean square would never move again, at a finite loss."""
    scale = float(np.finfo(dtype).max) ** 0.5 * 1e4
    for step, size in (1, scale), (3, scale):

        def new():
            model = prepared("softmax_cross_entropy", dtype, sizes=sizes)
            model.params[:] = 0
            if len(sizes) > 2:  # so that the gradient of the second layer's weights is not zero
                model.weights[0][:] = 1
            return model

        X, y = problem(new())
        X[(step - 1) * BATCH : step * BATCH] *= size
        error, trainer, completed = diverge(
            Adam, new, X, y, engine=engine, learning_rate=1e-30, epsilon=1e-8
        )
        assert (error.epoch, error.step) == (1, step)

        def update(W, m, v, dW, step=step):
            rest = (W.dtype.type(1e-30), 0.9, 0.999, 1e-8, 0.0, False)
            return reference.adam_update(W, m, v, dW, step, *rest)

        assert_reference_diverges(trainer, X, y, completed, update)


@both_engines
@both_dtypes
def test_what_is_left_where_rows_are_gathered_ahead(engine, dtype):
    """The epoch is done again up to the step before, and begins with rows of its own."""
    batch, bad, rng = 8, 7, np.random.default_rng(0)
    X = rng.normal(size=(40 * batch, 200)).astype(dtype)  # long rows: those of the next batch wait
    y = rng.integers(0, 3, len(X))
    X[bad * batch, -1] = float(np.finfo(dtype).max) ** 0.5 * 1e6  # a mean square overflows, no loss
    models = [MLP([200, 16, 3], dtype=dtype, seed=0) for _ in range(2)]
    options = {"batch_size": batch, "shuffle": False, "engine": engine}
    with pytest.raises(fastmlp.DivergedError) as caught:
        Adam(models[0], **options).fit(X, y, epochs=1)
    assert caught.value.step == bad + 1
    Adam(models[1], **options).fit(X[: bad * batch], y[: bad * batch], epochs=1)
    np.testing.assert_array_equal(*[model.params for model in models])


@both_engines
def test_a_norm_that_overflows(engine):
    """Squares of float64 overflow before the gradient does: it cannot be clipped by its norm."""

    def new():
        model = prepared("squared_error", "float64", sizes=(5, 3))
        model.params[:] = 0
        return model

    X, y = problem(new())
    X[2 * BATCH : 3 * BATCH] *= 1e200
    for optimizer in SGD, Adam:
        error, _, _ = diverge(
            optimizer, new, X, y, engine=engine, learning_rate=1e-250, max_norm=1.0
        )
        assert (error.epoch, error.step) == (1, 3)
    # where the squares can be added up, the gradient is clipped, and nothing diverges
    trainer = SGD(new(), engine=engine, max_norm=1.0, learning_rate=1e-3)
    assert trainer.fit(X / 1e60, y, epochs=1).epochs == 1


CAUSES = {
    "weight decay": (SGD, {"learning_rate": 1.0, "weight_decay": 1e4, "momentum": 0.0}),
    "decoupled decay": (Adam, {"learning_rate": 1.0, "weight_decay": 1e4, "decoupled": True}),
    "momentum": (SGD, {"learning_rate": 50.0, "momentum": 0.999}),
    "nesterov": (SGD, {"learning_rate": 1e6, "nesterov": True}),
    "clipped": (SGD, {"learning_rate": 1e30, "max_norm": 1e30}),
    "dropout": (SGD, {"learning_rate": 1e30, "dropout": 0.3, "seed": 4}),
    "dropout of Adam": (Adam, {"learning_rate": 1e37, "dropout": 0.5, "seed": 4}),
}


@both_engines
@both_dtypes
@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize("threads", [1, 3])
def test_causes(engine, dtype, cause, threads, monkeypatch):
    monkeypatch.setenv("FASTMLP_OVERSUBSCRIBE", "1")
    optimizer, options = CAUSES[cause]

    def new():
        return prepared("squared_error", dtype)

    X, y = problem(new())
    error, trainer, _ = diverge(
        optimizer, new, X, y, engine=engine, n_threads=threads, epochs=1000, **options
    )
    if threads == 1 or engine == "blas":
        return
    single = optimizer(
        new(), engine=engine, n_threads=1, batch_size=BATCH, shuffle=False, **options
    )
    with pytest.raises(fastmlp.DivergedError, match=f"epoch {error.epoch}, step {error.step}:"):
        single.fit(X, y, epochs=1000)
    assert single.model.params.tobytes() == trainer.model.params.tobytes()


@both_engines
@both_dtypes
def test_the_last_step_of_an_epoch(engine, dtype):
    rate = 3e38 if dtype == "float32" else 1e308

    def new():
        return prepared("squared_error", dtype)

    X, y = problem(new(), 1e3)
    start = new().params
    error, trainer, _ = diverge(
        SGD, new, X[:BATCH], y[:BATCH], engine=engine, learning_rate=rate, epochs=1
    )
    assert (error.epoch, error.step) == (1, 1)
    assert trainer.model.params.tobytes() == start.tobytes()
    assert isinstance(error, FloatingPointError)


@both_engines
@pytest.mark.parametrize("kind", [SGD, Adam])
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_whose_sum_overflows(engine, kind, weighted):
    """Each of them is finite, and so is every parameter."""
    X, y = np.ones((8, 2)), np.full(8, 1.3e154)
    weights = np.full(8, 0.5) if weighted else None
    trainer = kind(
        MLP([2, 3, 1], loss="squared_error", dtype="float64"),
        learning_rate=0.0, batch_size=2, engine=engine,
    )  # fmt: skip
    with pytest.raises(fastmlp.DivergedError, match="epoch 1, step 2:"):
        trainer.fit(X, y, epochs=2, sample_weight=weights)
    assert trainer.history.loss == [] and np.isfinite(trainer.model.params).all()


@both_engines
@pytest.mark.parametrize("label", [3, -1, 10**12])
def test_labels_changed_in_a_callback(engine, label):
    """They were checked before; no memory is read by them."""
    X, y = np.random.default_rng(0).random((64, 4)), np.zeros(64, np.int64)
    trainer = SGD(MLP([4, 8, 3], dtype="float64"), engine=engine)
    with pytest.raises(fastmlp.DivergedError, match="epoch 2, step 1:"):
        trainer.fit(X, y, callback=lambda history: y.fill(label))
    assert np.isfinite(trainer.model.params).all()


@both_engines
def test_what_a_callback_makes_of_the_parameters(engine):
    def spoil(history):
        if history.epochs == 2:
            model.weights[1][0, 0] = np.nan

    model = prepared("squared_error", "float32")
    with pytest.raises(fastmlp.DivergedError, match="epoch 3, step 1:"):
        SGD(model, engine=engine).fit(*problem(model), callback=spoil)
    # as the callback left them
    assert np.isnan(model.weights[1][0, 0]) and np.isnan(model.params).sum() == 1


@both_engines
def test_learning_goes_on_afterwards(engine):
    model, steady = prepared("squared_error", "float64"), prepared("squared_error", "float64")
    X, y = problem(model)
    y *= 1000  # for a gradient of more than 1
    rates = {1: 1.7e308}
    trainer = SGD(model, learning_rate=lambda epoch: rates.pop(epoch, 0.01), batch_size=BATCH,
                  shuffle=False, momentum=0.0, engine=engine)  # fmt: skip
    with pytest.raises(fastmlp.DivergedError, match="epoch 2, step 1:"):
        trainer.fit(X, y, epochs=5)
    assert trainer.history.epochs == 1
    twin = SGD(steady, learning_rate=0.01, batch_size=BATCH, shuffle=False, momentum=0.0,
               engine=engine)  # fmt: skip
    twin.fit(X, y, epochs=1)
    for each in trainer, twin:
        each.fit(X, y, epochs=3)
    assert model.params.tobytes() == steady.params.tobytes()


def test_validation_of_a_network_about_to_diverge():
    """Its loss is infinite, and no warning of NumPy's comes in between."""
    model = prepared("squared_error", "float64")
    X, y = problem(model)
    trainer = SGD(model, learning_rate=1e-3, batch_size=BATCH)
    trainer.fit(X, y, epochs=1)
    history = trainer.fit(X, y, epochs=1, validation_data=(1e200 * X, y))
    assert history.validation_loss == [np.inf]
    assert model.loss(1e200 * X, y) == np.inf


def test_diverged_error_can_be_pickled():
    error = pickle.loads(pickle.dumps(fastmlp.DivergedError(3, 4, "advice")))
    assert (error.epoch, error.step) == (3, 4) and "epoch 3, step 4: advice" in str(error)


def attributes(estimator):
    """Everything that an estimator holds, in bytes."""
    kept = dict(vars(estimator))
    network = kept.pop("_network", None)
    if network is not None:
        network.settle()
        kept["params"] = network.model.params
        kept["moments"] = network.session and [m.copy() for m in network.session.moments]
        kept["step"] = network.session and network.session.step
    return pickle.dumps(kept)


@both_engines
@both_dtypes
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_estimators_are_as_they_were(engine, dtype, solver, kind):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4)).astype(dtype)
    y = (X[:, 0] > 0).astype(int) if kind is MLPClassifier else X[:, 0].astype(float)
    good = kind(hidden_layer_sizes=(5,), solver=solver, engine=engine, random_state=0,
                warm_start=True, max_iter=3, batch_size=10, tol=0, n_iter_no_change=99)  # fmt: skip
    with pytest.warns(ConvergenceWarning):
        good.fit(X, y)
    before = attributes(good)
    huge = X.copy()
    huge[-7:] *= np.finfo(dtype).max / 1e3
    if solver == "lbfgs" and dtype == "float32":
        pytest.skip("lbfgs computes in float64, where such rows are no trouble")
    with pytest.raises(ValueError, match="Solver produced non-finite parameter weights") as raised:
        good.fit(huge, y)
    assert attributes(good) == before
    if solver == "lbfgs":
        return
    assert isinstance(raised.value.__cause__, fastmlp.DivergedError)
    assert 1 <= raised.value.__cause__.step <= 6 and "epoch 4, step" in str(raised.value)
    good.set_params(warm_start=False, shuffle=False)
    late = np.concatenate([X[:50], huge[-1:].repeat(10, axis=0)])
    if kind is MLPRegressor:  # the loss of a classifier is finite at first
        with pytest.raises(ValueError, match="in epoch 4, step 6"):  # the first with such rows
            good.partial_fit(late, y)
    assert attributes(good.set_params(warm_start=True, shuffle=True)) == before
    good.set_params(warm_start=False)
    new = kind(**good.get_params())
    with pytest.raises(ValueError, match="non-finite"):
        new.fit(huge, y)
    assert vars(new) == vars(kind(**good.get_params()))


@both_engines
@both_dtypes
def test_a_penalty_that_overflows(engine, dtype):
    """The loss of a step is the loss of its rows and the penalty."""
    X, y = np.zeros((30, 2), dtype), np.zeros(30)
    model = MLPRegressor(hidden_layer_sizes=(3,), alpha=1.0, solver="sgd", engine=engine,
                         batch_size=10, learning_rate_init=1e-300)  # fmt: skip
    model.partial_fit(X, y)
    large = float(np.finfo(dtype).max) / 10
    model.coefs_[0][:] = large
    penalty = 0.5 * large**2 * model.coefs_[0].size if dtype == "float32" else np.inf
    before = model.coefs_[0].copy()
    if dtype == "float32" and engine == "blas":  # which adds the squares up in float64
        assert model.partial_fit(X, y).loss_ == pytest.approx(penalty / 10, rel=1e-6)
        return
    with pytest.raises(ValueError, match="in epoch 2, step 1"):
        model.partial_fit(X, y)
    np.testing.assert_array_equal(model.coefs_[0], before)
