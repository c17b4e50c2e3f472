"""Whatever is handed over: the right answer, or an exception that names it, and nothing changed.

The right answer is the one of the formulas in float64 on a plain copy, to within a bound that
follows from the dtype and the lengths of the sums (tolerances.py).
"""

import pickle
import warnings

import numpy as np
import reference
from hostile import REAL, Given, arrays, run
from hypothesis import strategies as st
from tolerances import FEW, assert_within, backpropagation, product, roundoff

import fastmlp
from fastmlp import MLP, SGD, Adam, MLPClassifier, MLPRegressor, kernels
from fastmlp.preprocessing import encode_labels

N, N_IN, N_OUT = 5, 3, 4
ACTIVATIONS = ["relu", "identity", "tanh", "logistic"]
INTEGERS = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]

MODELS = st.builds(
    lambda activation, loss, dtype, hidden, n_out: MLP(
        [N_IN, *hidden, n_out], activation=activation, loss=loss, dtype=dtype, seed=7
    ),
    st.sampled_from(ACTIVATIONS),
    st.sampled_from(["softmax_cross_entropy", "squared_error"]),
    st.sampled_from(["float32", "float64"]),
    st.sampled_from([[], [6], [5, 4]]),
    st.sampled_from([1, N_OUT]),
)
FEATURES = arrays((N, N_IN))
LABELS = arrays((N,), kinds=[*INTEGERS, "?"], least=0, most=3.4)
VALUES = st.one_of(arrays((N, N_OUT)), arrays((N,)), arrays((N, 1)))
WEIGHTS = st.one_of(st.none(), arrays((N,), least=-0.1))


def as_real(given, dtype):
    """The numbers in the model's dtype, or None where they are not finite there."""
    if not given.numbers or given.plain.dtype.kind not in "biufO":
        return None
    with np.errstate(all="ignore"):
        converted = given.plain.astype(dtype)
    return converted if np.isfinite(converted).all() else None


def features(given, model):
    X = as_real(given, model.dtype)
    return X if X is not None and X.ndim == 2 and X.shape[1] == N_IN else None


def targets(given, model, n):
    """The targets as the network takes them, or None where they are none."""
    n_out = model.sizes[-1]
    if model.classifies:
        y = given.plain
        good = given.numbers and y.dtype.kind in "biu" and y.shape == (n,)
        good = good and all(0 <= label < n_out for label in y.tolist())
        return y.astype(int) if good else None
    y = as_real(given, model.dtype)
    if y is not None and y.ndim == 1 and n_out == 1:
        y = y.reshape(-1, 1)
    return y if y is not None and y.shape == (n, n_out) else None


def weights_of(given, dtype, n):
    """The sample weights, or None where they are none."""
    if given is None:
        return np.ones(n)
    w = as_real(given, dtype)
    good = w is not None and w.shape == (n,) and (w >= 0).all() and w.any()
    return w.astype(float) if good and np.isfinite(w.sum(dtype=float)) else None


def is_tame(model, *arrays):
    """Whether nothing that is computed from these can overflow."""
    return all(np.abs(a).max(initial=0) < np.finfo(model.dtype).max ** 0.25 for a in arrays)


def derivative(model, y, w):
    """The loss's derivative by the outputs and a bound, for `backpropagation`."""
    u, share = roundoff(model.dtype), (w / w.sum())[:, np.newaxis]

    def dZ_of(Z, e_Z):
        if not model.classifies:
            T = y.astype(float)
            return (Z - T) * share, (e_Z + FEW * u * (np.abs(Z) + np.abs(T) + e_Z)) * share
        _, P = reference.softmax_cross_entropy_forward(Z, y)
        e = np.minimum(e_Z.max(axis=1, keepdims=True), 1) + (len(P[0]) + FEW) * u
        return (P - np.eye(Z.shape[1])[y]) * share, e * share * np.ones_like(P)

    return dZ_of


def assert_loss(found, model, y, w, Z, e_Z):
    u = roundoff(model.dtype)
    if model.classifies:
        losses = [reference.softmax_cross_entropy_forward(Z[i : i + 1], y[i : i + 1])[0]
                  for i in range(len(Z))]  # fmt: skip
        each = 2 * e_Z.max(axis=1) + FEW * u * (np.abs(Z).max(axis=1) + Z.shape[1])
    else:
        losses = 0.5 * ((Z - y) ** 2).sum(axis=1)
        error = e_Z + FEW * u * (np.abs(Z) + np.abs(y))
        each = (np.abs(Z - y) * error + error**2).sum(axis=1) + (Z.shape[1] + FEW) * u * losses
    scale = np.abs(losses).max(initial=0)
    bound = each.max(initial=0) + (len(Z) + FEW) * u * scale + np.finfo(model.dtype).tiny
    assert_within(found, np.average(losses, weights=w), bound)


def state_of(model):
    return lambda: (model.params.tobytes(), str(vars(model).keys() - {"_inference"}))


# ---- inference ----------------------------------------------------------------------------------
def inference(outcomes, model, X):
    plain = features(X, model)
    good = plain is not None
    state, call = state_of(model), outcomes.call
    Z = call(lambda: model.forward(X.value), ["X"], state, X.value)
    classes = call(lambda: model.predict(X.value), ["X"], state, X.value)
    slopes = call(lambda: model.input_gradients(X.value), ["X"], state, X.value)
    probable = call(lambda: model.predict_proba(X.value), ["X", "predict_proba"], state, X.value)
    assert [Z is not None, classes is not None, slopes is not None] == [good] * 3
    assert (probable is not None) == (good and model.classifies)
    if not good:
        return
    shape = (len(plain), model.sizes[-1])
    assert Z.shape == shape and Z.dtype == slopes.dtype == model.dtype
    assert slopes.shape == (*shape, N_IN)
    if not is_tame(model, plain):
        return
    fake = lambda Z, e_Z: (np.zeros_like(Z), np.zeros_like(Z))  # noqa: E731
    expected, bound, *_ = backpropagation(model, plain, fake)
    assert_within(Z, expected, bound)
    if model.classifies:
        np.testing.assert_array_equal(classes, Z.argmax(axis=1))
        _, P = reference.softmax_cross_entropy_forward(expected, np.zeros(len(Z), int))
        e = np.minimum(bound.max(axis=1, initial=0, keepdims=True), 1)
        assert_within(probable, P, e + (shape[1] + FEW) * roundoff(model.dtype))
    else:
        np.testing.assert_array_equal(classes, Z[:, 0] if shape[1] == 1 else Z)


def test_inference():
    run(inference, 0.2, model=MODELS, X=FEATURES)


# ---- training -----------------------------------------------------------------------------------
def trainer_state(trainer):
    session, model = trainer._session, trainer.model
    history = trainer.history
    return lambda: (
        model.params.tobytes(),
        [moment.tobytes() for moment in session.moments],
        session.step,
        session.epochs,
        str(trainer._rng.bit_generator.state),
        trainer.history is history,
        len(history.loss),
    )


def training(outcomes, model, X, labels, values, weight, optimizer, engine, held):
    y = labels if model.classifies else values
    plain = features(X, model)
    good = plain is not None and len(plain) > 0
    T = targets(y, model, len(plain)) if good else None
    good = T is not None
    weight_value = None if weight is None else weight.value
    state, call, names = state_of(model), outcomes.call, ["X", "y", "sample_weight"]
    values = X.value, y.value, weight_value
    for_loss = weights_of(weight, "float64", len(plain)) if good else None
    loss = call(lambda: model.evaluate(*values), names, state, *values)
    assert (loss is not None) == (for_loss is not None)
    found = call(lambda: model.gradients(*values[:2]), names, state, *values)
    assert (found is not None) == good

    trainer = optimizer(model, engine=engine, learning_rate=0.125, batch_size=N + 3, n_threads=1)
    before = model.params.astype(float)
    validation = (X.value, y.value) if held else None
    history = call(
        lambda: trainer.fit(X.value, y.value, sample_weight=weight_value, epochs=1,
                            validation_data=validation),
        names, trainer_state(trainer), *values,
    )  # fmt: skip
    w = weights_of(weight, model.dtype, len(plain)) if good else None
    assert (history is not None) == (w is not None)
    assert np.isfinite(model.params).all()
    if not good or not is_tame(model, plain, T):
        return
    changed, params = model.params.astype(float), model.params.copy()
    model.params[:] = before
    Z, e_Z, dparams, bound = backpropagation(model, plain, derivative(model, T, np.ones(len(T))))
    assert_loss(found[0], model, T, np.ones(len(T)), Z, e_Z)
    flat = [part.ravel() for layer in zip(*found[1:], strict=True) for part in layer]
    assert_within(np.concatenate(flat), dparams, bound)
    if loss is not None and is_tame(model, for_loss) and for_loss.max() > 1e-30:
        assert_loss(loss[0], model, T, for_loss, Z, e_Z)
    if w is None or not is_tame(model, w) or w.max() < 1e-30:
        return
    assert isinstance(history, fastmlp.History)
    assert_loss(history.loss[0], model, T, w, Z, e_Z)
    if optimizer is SGD:
        *_, dparams, bound = backpropagation(model, plain, derivative(model, T, w))
        u = roundoff(model.dtype)
        rounding = FEW * u * (np.abs(before) + 0.125 * np.abs(dparams))
        assert_within(changed, before - 0.125 * dparams, 0.125 * bound + rounding)
    model.params[:] = params


def test_training():
    run(
        training, 0.25, model=MODELS, X=FEATURES, labels=LABELS, values=VALUES, weight=WEIGHTS,
        optimizer=st.sampled_from([SGD, Adam]), engine=st.sampled_from(["fused", "blas"]),
        held=st.booleans(),
    )  # fmt: skip


# ---- sizes and hyper-parameters -----------------------------------------------------------------
ODD = st.one_of(
    st.sampled_from(
        [None, True, np.True_, "0.1", b"1", "relu", [], [0.1], {}, 1j, np.nan, np.inf, -np.inf, -1,
         0, 1, 2, 0.5, 1.0, 1e30, 1e300, 5e-324, 2**31, 2**63, 2**64, 10**400, -(10**400),
         np.float32(2), np.int8(3), np.array(0.25), np.array([0.25]), np.array([1, 2]),
         np.datetime64("2020"), ",",
         object(), print, "float32", "fused", ..., ()]
    ),
    st.integers(-3, 300), st.floats(), st.text(max_size=3),
)  # fmt: skip
OPTIONS = {
    MLP: ["sizes", "activation", "loss", "loss_parameter", "dtype", "seed"],
    SGD: ["learning_rate", "momentum", "weight_decay", "max_norm", "dropout", "batch_size",
          "seed", "engine", "n_threads", "epochs", "validation_data", "callback", "model"],
}  # fmt: skip
OPTIONS[Adam] = [*OPTIONS[SGD], "beta_1", "beta_2", "epsilon"]
OPTIONS[Adam].remove("momentum")
IN_FIT = {"epochs", "validation_data", "callback"}


def hyperparameters(outcomes, kind, data):
    option = data.draw(st.sampled_from(OPTIONS[kind]))
    value = data.draw(ODD | st.lists(ODD, max_size=4))
    if kind is MLP:
        arguments = {"sizes": [3, 5, 2], option: value}
        model = outcomes.call(lambda: MLP(**arguments), [option], lambda: 0, value)
        if model is not None:
            assert np.isfinite(model.params).all() and model.n_parameters == model.params.size
        return
    model = MLP([N_IN, 5, 2], seed=0)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(N, N_IN)), rng.integers(0, 2, N)
    arguments = {option: value}
    if option == "epochs" and isinstance(value, int | np.integer):
        arguments[option] = value if value is True else min(value, 3)  # and be done this week
    in_fit = {name: arguments.pop(name) for name in IN_FIT & set(arguments)}
    trained = arguments.pop("model", model)
    state = state_of(model)
    trainer = outcomes.call(lambda: kind(trained, **arguments), [option], state, value)
    if trainer is None:
        return
    history = outcomes.call(
        lambda: trainer.fit(X, y, **{"epochs": 2, **in_fit}),
        [option],
        trainer_state(trainer),
        value,
    )
    assert np.isfinite(model.params).all()
    if isinstance(history, fastmlp.History):
        assert np.isfinite(history.loss).all()


def test_hyperparameters():
    run(hyperparameters, 0.2, kind=st.sampled_from([MLP, SGD, Adam]), data=st.data())


# ---- estimators ---------------------------------------------------------------------------------
def estimator_state(estimator):
    def state():
        held = dict(vars(estimator))
        network = held.pop("_network", None)
        if network is not None:
            network.settle()
            held["params"] = network.model.params.copy()
            if network.session is not None:
                held["trained"] = [network.session.step, *network.session.moments]
        return pickle.dumps(held)

    return state


def estimators(outcomes, kind, X, labels, values, weight, method, solver, dtype):
    y = labels if kind is MLPClassifier else values
    rng = np.random.default_rng(0)
    estimator = kind(hidden_layer_sizes=(4,), solver=solver, max_iter=2, random_state=0, tol=0,
                     dtype=dtype, batch_size=N)  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, of two epochs that have not converged
        estimator.fit(rng.normal(size=(12, N_IN)), np.arange(12) % N_OUT)
        state, call = estimator_state(estimator), outcomes.call
        names = [""]  # what is wrong with its arguments, scikit-learn says in words of its own
        w = None if weight is None else weight.value
        values = X.value, y.value, w
        if method in ("predict", "predict_proba"):
            if kind is MLPRegressor:
                method = "predict"
            found = call(lambda: getattr(estimator, method)(X.value), names, state, X.value)
            if found is None or not X.numbers:  # it reads dates as numbers, for one
                return
            plain = X.plain.astype(estimator.coefs_[0].dtype)
            Z = estimator._network.model.forward(plain)
            if method == "predict":
                expected = Z.argmax(axis=1) if kind is MLPClassifier else Z[:, 0]
                np.testing.assert_array_equal(found, expected)
            else:
                _, P = reference.softmax_cross_entropy_forward(Z.astype(float), [0] * len(Z))
                assert_within(found, P, (N_OUT + FEW) * roundoff(Z.dtype))
        elif method == "score":
            call(lambda: estimator.score(*values), names, state, *values)
        elif method == "fit" or solver == "lbfgs":
            call(lambda: estimator.fit(*values), names, state, *values)
        else:
            call(lambda: estimator.partial_fit(*values), names, state, *values)
        assert all(np.isfinite(W).all() for W in estimator.coefs_)


def test_estimators():
    run(
        estimators, 0.1, kind=st.sampled_from([MLPClassifier, MLPRegressor]), X=FEATURES,
        labels=LABELS, values=VALUES, weight=WEIGHTS, solver=st.sampled_from(["sgd", "lbfgs"]),
        method=st.sampled_from(["fit", "partial_fit", "predict", "predict_proba", "score"]),
        dtype=st.sampled_from(["auto", "float32"]),
    )  # fmt: skip


# ---- operations on arrays -----------------------------------------------------------------------
SHAPES = {"X": (N, N_IN), "W": (N_IN, N_OUT), "b": (N_OUT,), "dY": (N, N_OUT), "Z": (N, N_OUT),
          "A": (N, N_OUT), "dA": (N, N_OUT), "P": (N, N_OUT), "T": (N, N_OUT)}  # fmt: skip
OPERATIONS = {
    "linear_forward": ["X", "W", "b"],
    "linear_backward": ["dY", "X", "W"],
    "relu_forward": ["Z"], "tanh_forward": ["Z"], "logistic_forward": ["Z"],
    "relu_backward": ["dA", "A"], "tanh_backward": ["dA", "A"], "logistic_backward": ["dA", "A"],
    "softmax_cross_entropy_forward": ["Z", "y"], "softmax_cross_entropy_backward": ["P", "y"],
    "squared_error": ["Z", "T"],
}  # fmt: skip


def operations(outcomes, data):
    name = data.draw(st.sampled_from(sorted(OPERATIONS)))
    arguments = {
        argument: data.draw(LABELS if argument == "y" else arrays(SHAPES[argument]))
        for argument in OPERATIONS[name]
    }
    first = arguments[OPERATIONS[name][0]]
    out = data.draw(st.sampled_from(["none", "first", "overlap", "wrong", "new"]))
    options = {}
    if out == "first":
        options["out"] = first.value
    elif out == "wrong":
        options["out"] = np.zeros((1, 1))
    elif out == "overlap" and isinstance(first.value, np.ndarray) and first.value.ndim:
        options["out"] = first.value[::-1]
    elif out == "new":
        options["out"] = np.full((N, N_OUT), np.nan, data.draw(st.sampled_from(["f4", "f8"])))
    kept = {key: np.array(given.plain, copy=True) for key, given in arguments.items()}
    others = [given.value for key, given in arguments.items() if given is not first]
    written = out in ("first", "overlap") and isinstance(options.get("out"), np.ndarray)
    before = np.asarray(options["out"]).tobytes() if written else None
    values = [given.value for given in arguments.values()]
    watched = others if written else values
    found = outcomes.call(
        lambda: getattr(kernels, name)(*values, **options),
        [*arguments, "out"], lambda: 0, *watched,
    )  # fmt: skip
    if found is None:
        assert not written or np.asarray(options["out"]).tobytes() == before
        return
    assert all(given.numbers for given in arguments.values())
    single = all(kept[key].dtype == np.float32 for key in kept if key != "y")
    dtype = np.float32 if single else np.float64
    plain = {key: array.astype(int) if key == "y" else array.astype(dtype).astype(float)
             for key, array in kept.items()}  # fmt: skip
    results = found if isinstance(found, tuple) else (found,)
    assert all(np.asarray(r).dtype == dtype for r in results if isinstance(r, np.ndarray))
    flat = [np.abs(array).max(initial=0) for key, array in plain.items() if key != "y"]
    if not max(flat) < np.finfo(dtype).max ** 0.25 or not next(iter(plain.values())).size:
        return  # NaN is let through, and what overflows is infinite
    expected = getattr(reference, name)(*plain.values())
    expected = expected if isinstance(expected, tuple) else (expected,)
    for actual, wanted, bound in zip(results, expected, bounds(name, plain, dtype), strict=True):
        assert_within(actual, wanted, bound + np.finfo(dtype).tiny)


def bounds(name, plain, dtype):
    """One for every result of an operation."""
    u = roundoff(dtype)
    first, *rest = plain.values()
    if name == "linear_forward":
        return [product(first.astype(dtype), rest[0], rest[1])]
    if name == "linear_backward":
        dY, X, W = (np.abs(array) for array in plain.values())
        K = max(len(dY), *W.shape) + 2
        return [K * u * dY @ W.T, K * u * X.T @ dY, K * u * dY.sum(axis=0)]
    if name == "squared_error":
        size = np.abs(first) + np.abs(rest[0])
        return [(first.size + FEW) * u * (size**2).sum(), FEW * u * size]
    if name == "softmax_cross_entropy_forward":
        K = first.shape[1] + FEW
        return [K * u * (1 + 2 * np.abs(first).max()), K * u * (1 + 2 * np.abs(first).max())]
    scale = max(1.0, *(np.abs(array).max() ** 2 for array in plain.values()))
    return [FEW * u * scale * max(1.0, np.abs(first).max())]


def test_operations():
    run(operations, 0.2, data=st.data())


def updates(outcomes, data):
    """sgd_update and adam_update, which write to their arguments or to none of them."""
    adam = data.draw(st.booleans())
    names = ["W", "m", "v"] if adam else ["W", "v"]
    shape = (4,)
    rng, dtype = np.random.default_rng(5), data.draw(st.sampled_from(["f4", "f8"]))
    given = {}
    for key in [*names, "dW"]:
        plain = rng.uniform(0, 1, shape).astype(dtype)
        given[key] = Given(plain.copy(), plain)
        if data.draw(st.integers(0, 9)) == 0:
            given[key] = data.draw(arrays(shape, kinds=["f4", "f8", "i4"]))
    dW = given.pop("dW")
    if data.draw(st.integers(0, 4)) == 0:
        given["v"] = given["W"]
    options = ["learning_rate", "weight_decay", *(["t", "beta_1"] if adam else ["momentum"])]
    chosen = dict.fromkeys(options, 0.5) | ({"t": 1} if adam else {})
    if data.draw(st.booleans()):
        chosen[data.draw(st.sampled_from(options))] = data.draw(ODD)
    values = [item.value for item in given.values()]

    def state():
        return [np.asarray(v).tobytes() if isinstance(v, np.ndarray) else 0 for v in values]

    call = kernels.adam_update if adam else kernels.sgd_update
    before = [np.array(item.plain, copy=True) for item in given.values()]
    done = []

    def update():
        call(*values, dW.value, **chosen)
        done.append(True)

    outcomes.call(update, [*names, "dW", *options], state, dW.value)
    usual = all(type(c) in (int, float) and 0 <= c <= 100 for c in chosen.values())
    if not done or not usual or not np.abs([*before, dW.plain.astype(float)]).max() < 1e6:
        return
    dtype, g = before[0].dtype, dW.plain.astype(before[0].dtype).astype(float)
    start = [array.astype(float) for array in before]
    if adam:
        expected = reference.adam_update(
            *start, g, chosen["t"], chosen["learning_rate"], chosen["beta_1"], 0.999, 1e-8,
            chosen["weight_decay"], False,
        )  # fmt: skip
    else:
        expected = reference.sgd_update(
            *start, g, chosen["learning_rate"], chosen["momentum"], False, chosen["weight_decay"]
        )
    u, (W, *_, v), decay = FEW * roundoff(dtype), map(np.abs, start), chosen["weight_decay"]
    slope = np.abs(g) + decay * W
    if adam:  # not W, which divides by what may be 0
        limits = [np.abs(start[1]) + slope, v + slope**2]
    else:
        limits = [W + v + chosen["learning_rate"] * slope] * 2
        limits = [limit + chosen["momentum"] * v for limit in limits]
    for value, wanted, limit in zip(values[-2:], expected[-2:], limits, strict=True):
        assert_within(value, wanted, u * limit + np.finfo(dtype).tiny)


def test_updates():
    run(updates, 0.1, data=st.data())


# ---- beside training ----------------------------------------------------------------------------
def beside(outcomes, model, X, labels, values, rate, column):
    y = labels if model.classifies else values
    state, call = state_of(model), outcomes.call
    names = ["X", "x", "y", "loss", "learning_rate", "parameters"]
    call(lambda: fastmlp.explain(model, X.value, y.value, learning_rate=rate),
         names, state, X.value, y.value)  # fmt: skip
    found = call(lambda: encode_labels(column.value), ["label"], lambda: 0, column.value)
    if found is not None:
        numbers, classes = found
        assert len(numbers) == len(column.plain) and set(numbers) == set(range(len(classes)))


def test_beside():
    run(
        beside, 0.05, model=MODELS, X=FEATURES, labels=LABELS, values=VALUES, rate=ODD,
        column=arrays((N,), kinds=[*REAL, "U3", "S3"]),
    )  # fmt: skip
