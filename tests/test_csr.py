"""Sparse matrices as inputs: the numbers that are there, and the bits of a dense matrix."""

import numpy as np
import pytest
from levels import DTYPES, LEVELS, core_of, same_bits
from scipy import sparse
from tolerances import FEW, assert_within, backpropagation, roundoff

import fastmlp
from fastmlp import MLP, SGD, Adam
from fastmlp._core import CLASSES, OUTPUTS, PROBABILITIES, SparseRows
from fastmlp.inputs import as_rows, sparse_rows

RULES = {
    "momentum": {"optimizer": "sgd", "momentum": 0.9},
    "nesterov": {"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "adam": {"optimizer": "adam", "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "l2": 0.1},
    "clipped": {"optimizer": "adam", "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8, "max_norm": 0.1},
}
# Inputs, outputs, batch, share of the inputs that are there, threads.
CASES = [
    (1, 1, 1, 0.5, 1),
    (5, 3, 4, 0.5, 1),
    (33, 10, 32, 0.3, 2),
    (65, 17, 1, 0.05, 1),
    (100, 48, 7, 1.0, 1),
    (96, 33, 33, 0.0, 2),
    (301, 130, 100, 0.02, 1),
    (530, 290, 64, 0.05, 3),  # by columns
    (1100, 96, 20, 0.01, 4),
    (40, 64, 1500, 0.1, 2),  # many rows
]


def rows_of(rng, n, inputs, share):
    """A CSR matrix of which a share is there; some rows are empty, and some columns."""
    X = rng.normal(size=(n, inputs)) * (rng.random((n, inputs)) < share)
    X[rng.random(n) < 0.1] = 0
    X[:, rng.random(inputs) < 0.1] = 0
    return sparse.csr_array(X)


def trained(core, params, X, y, batch, rule, n_threads):
    """What an epoch leaves: its sums, parameters and moments."""
    moments = [np.zeros_like(params), np.zeros_like(params)]
    core.load(params, *moments)
    options = {key: value for key, value in rule.items() if key != "optimizer"}
    order = np.random.default_rng(3).permutation(len(X))[: len(X) - len(X) // 5]
    sums = core.epoch(
        X, y, order, batch, learning_rate=0.01, t=1, n_threads=n_threads, max_workers=4,
        any_size=True, **options,
    )  # fmt: skip
    assert sums[3]
    after = np.empty_like(params)
    core.store(after, *moments)
    return [np.array(sums), after, *moments]


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("inputs, outputs, batch, share, n_threads", CASES)
def test_an_epoch_has_the_bits_of_one_over_dense_rows(
    level, dtype, rule, inputs, outputs, batch, share, n_threads
):
    rng = np.random.default_rng(inputs)
    model = MLP([inputs, outputs, 3], seed=0, dtype=dtype)
    X = rows_of(rng, 3 * batch + batch // 2, inputs, share).astype(dtype)
    y = rng.integers(0, 3, X.shape[0])
    found = [
        trained(
            core_of(level, model, batch, rule["optimizer"], 0.25, n_threads, is_sparse),
            model.params, rows, y, batch, rule, n_threads,
        )
        for is_sparse, rows in ((False, X.toarray()), (True, sparse_rows(X)))
    ]  # fmt: skip
    for one, other in zip(*found, strict=True):
        assert same_bits(one, other)
    assert np.isfinite(found[0][1]).all()
    assert not same_bits(found[0][1], model.params)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("engine", [*LEVELS, "blas"])
@pytest.mark.parametrize("sizes", [[90, 70, 3], [90, 3], [7, 40, 20, 3]], ids=str)
def test_gradients_against_the_reference(engine, dtype, sizes):
    rng, u = np.random.default_rng(0), roundoff(dtype)
    model = MLP(sizes, loss="squared_error", seed=0, dtype=dtype)
    X, T = rows_of(rng, 50, sizes[0], 0.1).astype(dtype), rng.normal(size=(50, 3)).astype(dtype)
    found = np.full_like(model.params, np.nan)
    core_of(engine, model, 50, is_sparse=True).gradients(found, sparse_rows(X), T, model.params)

    def dZ_of(Z, e_Z):
        return (Z - T) / 50, (e_Z + FEW * u * (np.abs(Z) + np.abs(T) + e_Z)) / 50

    *_, gradients, bound = backpropagation(model, X.toarray(), dZ_of)
    assert_within(found, gradients, bound)


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("level", LEVELS)
def test_gradients_of_many_rows(level, n_threads):
    """Which go through the layers in parts, by their own numbers and not by an order."""
    rng = np.random.default_rng(0)
    model = MLP([90, 70, 3], seed=0)
    X, y = rows_of(rng, 1700, 90, 0.2).astype("f"), rng.integers(0, 3, 1700)
    found = np.full((2, *model.params.shape), np.nan, "f")
    for i, rows in enumerate((X.toarray(), sparse_rows(X))):
        core = core_of(level, model, 1700, n_threads=n_threads, is_sparse=i == 1)
        core.gradients(
            found[i], rows, y, model.params, n_threads=n_threads, max_workers=4, any_size=True
        )
    assert np.isfinite(found[0]).all()
    assert same_bits(*found)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("engine", [*LEVELS, "blas"])
def test_a_step_against_the_reference(engine, dtype):
    """With momentum, which the BLAS engine has the products themselves add to."""
    rng, u, n, rate, momentum = np.random.default_rng(0), roundoff(dtype), 90, 0.01, 0.5
    model = MLP([60, 30, 3], loss="squared_error", seed=0, dtype=dtype)
    X, T = rows_of(rng, n, 60, 0.1).astype(dtype), rng.normal(size=(n, 3)).astype(dtype)
    before = rng.normal(size=model.params.shape).astype(dtype)
    core = core_of(engine, model, n, is_sparse=True)
    core.load(model.params, before)
    order = rng.permutation(n)
    core.epoch(sparse_rows(X), T, order, n, learning_rate=rate, momentum=momentum)
    after, velocity = np.full_like(before, np.nan), np.full_like(before, np.nan)
    core.store(after, velocity)

    def dZ_of(Z, e_Z):
        return (Z - T) / n, (e_Z + FEW * u * (np.abs(Z) + np.abs(T) + e_Z)) / n

    *_, gradients, bound = backpropagation(model, X.toarray(), dZ_of)
    expected = momentum * before.astype(float) - rate * gradients
    # n terms and the first, each perhaps rounded twice more than the bound knows of
    bound = rate * bound * (n + 4) / (n + 2) + (n + 4) * u * momentum * np.abs(before)
    bound += 4 * u * np.abs(expected)  # the rate itself is rounded, and what is expected
    assert_within(velocity, expected, bound)
    assert_within(after, model.params + expected, bound + 2 * u * np.abs(after))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("outputs", [1, 3, 10, 16, 17, 33, 48, 100, 290])
@pytest.mark.parametrize("n", [1, 2, 7, 700])
def test_predictions_have_the_bits_of_those_of_dense_rows(level, dtype, outputs, n):
    rng = np.random.default_rng(outputs)
    for sizes in ([60, outputs], [60, outputs, 4]):
        model = MLP(sizes, seed=1, dtype=dtype)
        model.params[:] = rng.normal(size=model.params.shape)
        X = rows_of(rng, n, 60, 0.1).astype(dtype)
        core = core_of(level, model, 1)
        for what in (OUTPUTS, CLASSES, PROBABILITIES):
            expected = core.infer(X.toarray(), model.params, what)
            for n_threads in (1, 3):
                found = core.infer(sparse_rows(X), model.params, what, lambda n=n_threads: n)
                assert same_bits(found.astype(float), expected.astype(float))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("engine", [*LEVELS, "blas"])
def test_predictions_against_the_reference(engine, dtype):
    rng = np.random.default_rng(0)
    model = MLP([60, 33, 5], seed=1, dtype=dtype)
    X = rows_of(rng, 40, 60, 0.2).astype(dtype)
    found = core_of(engine, model, 1).infer(sparse_rows(X), model.params, OUTPUTS)
    Z, bound, *_ = backpropagation(model, X.toarray(), lambda Z, e_Z: (Z, e_Z))
    assert_within(found, Z, bound)


FORMS = ["csr_matrix", "csr_array", "csc_array", "coo_matrix", "lil_array", "dok_array"]


@pytest.mark.parametrize("engine", ["fused", "blas"])
@pytest.mark.parametrize("form", FORMS)
def test_models_and_trainers_take_them(form, engine):
    X, y = fastmlp.data.load_digits()
    X = (X / 16).astype(np.float32)
    found = []
    for rows in (X, getattr(sparse, form)(X)):
        model = MLP([64, 20, 10], seed=0)
        trainer = SGD(model, momentum=0.9, seed=0, engine=engine)
        history = trainer.fit(rows, y, epochs=3, validation_data=(rows, y))
        loss, dweights, _ = model.gradients(rows, y)
        found.append(
            [model.params, history.loss, history.validation_loss, history.validation_accuracy,
             model.forward(rows), model.predict(rows), model.predict_proba(rows), loss, dweights[0],
             *model.evaluate(rows, y)]
        )  # fmt: skip
    for one, other in zip(*found, strict=True):
        if engine == "fused":
            np.testing.assert_array_equal(one, other)
    losses, accuracies = found[1][1], found[1][3]  # sums of BLAS have another order, but it learns
    assert losses == sorted(losses, reverse=True)
    assert accuracies[-1] > 0.5


def test_dense_and_sparse_fits_in_turn():
    """The core is another one, and goes on with the moments."""
    X, y = fastmlp.data.load_digits()
    X, models = X / 16, []
    for forms in ((np.asarray, np.asarray), (np.asarray, sparse.csr_array)):
        trainer = Adam(MLP([64, 20, 10], seed=0), seed=0)
        for _ in range(2):
            for form in forms:
                trainer.fit(form(X), y, epochs=1)
        models.append(trainer.model)
    np.testing.assert_array_equal(models[0].params, models[1].params)


def test_what_is_not_in_order_or_there_twice():
    X = sparse.csr_array(
        (np.array([1.0, 2, 3, 4, 5]), np.array([2, 0, 2, 1, 1]), np.array([0, 3, 3, 5])),
        shape=(3, 4),
    )
    assert not X.has_canonical_format
    before = X.data.copy(), X.indices.copy()
    rows = as_rows(X, "float64", 4)
    assert (rows.data == [2, 4, 9]).all()
    assert (rows.indices == [0, 2, 1]).all()
    assert (rows.indptr == [0, 2, 2, 3]).all()
    np.testing.assert_array_equal(before, (X.data, X.indices))  # it is left alone
    for structure in (rows.indices, rows.indptr):
        with pytest.raises(ValueError, match="read-only"):
            structure[0] = 0
    model = MLP([4, 3, 2], seed=0)
    np.testing.assert_array_equal(model.forward(X), model.forward(X.toarray()))


def test_other_numbers_and_indices():
    X = sparse.random_array((30, 20), density=0.2, rng=np.random.default_rng(0), format="csr")
    X.data = np.ceil(8 * X.data)
    model = MLP([20, 3, 2], seed=0)
    expected = model.forward(X.toarray())
    for dtype in ("int64", "uint8", "float64", "longdouble"):
        np.testing.assert_array_equal(model.forward(X.astype(dtype)), expected)
    long = sparse.csr_array(
        (X.data, X.indices.astype(np.int64), X.indptr.astype(np.int64)), shape=X.shape
    )
    np.testing.assert_array_equal(model.forward(long), expected)
    assert model.forward(X[:0]).shape == (0, 2)
    np.testing.assert_array_equal(model.forward(X[::3]), expected[::3])


def wrong(rows, columns, value):
    X = np.eye(7, 3)
    X[rows, columns] = value
    return sparse.csr_array(X)


BAD = {
    "too wide": (sparse.csr_array((7, 4)), ValueError, "X has 4 features, the model expects 3"),
    "one axis": (sparse.coo_array(np.ones(3)), ValueError, r"shape \(3,\).*X\.reshape\(1, -1\)"),
    "nan": (wrong(4, 2, np.nan), ValueError, r"X\[4, 2\] is nan: every value must be finite"),
    "infinity": (wrong(6, 0, -np.inf), ValueError, r"X\[6, 0\] is -inf: every value"),
    "too large": (wrong(0, 1, 1e39), ValueError, r"X\[0, 1\] is 1e\+39: too large for float32"),
    "complex": (sparse.csr_array(np.eye(7, 3) * 1j), TypeError, "X has dtype complex128, expected"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_bad_ones(case):
    X, error, message = case
    model = MLP([3, 4, 2], seed=0)
    for act in (model.forward, lambda X: SGD(model).fit(X, np.zeros(7, int))):
        with pytest.raises(error, match=message):
            act(X)


def csr(indices, indptr, data=None, shape=(3, 4)):
    """The parts of a matrix whose numbers are 1 unless there are others."""
    data = np.ones(len(indices), np.float32) if data is None else data
    return data, np.array(indices), np.array(indptr), shape


BROKEN = {
    "negative": (csr([0, 1, -1], [0, 1, 2, 3]), r"indices are not integers in 0\.\.3"),
    "too large": (csr([0, 4, 1], [0, 1, 2, 3]), r"indices are not integers in 0\.\.3"),
    "of 64 bits": (csr([0, 2**32 + 2, 1], [0, 1, 2, 3]), r"indices are not integers in 0\.\.3"),
    "fractions": (csr([0, 1.5, 1], [0, 1, 2, 3]), r"indices are not integers in 0\.\.3"),
    "fractions of rows": (csr([0, 1, 1], [0, 1, 2.5, 3]), "indptr is not 4 integers"),
    "backwards": (csr([0, 1, 2], [0, 2, 1, 3]), "indptr does not rise"),
    "beyond the end": (csr([0, 1, 2], [0, 10**6, 3, 3]), "indptr does not rise"),
    "far beyond the end": (csr([0, 1, 2], [0, 2**62, 3, 3]), "indptr does not rise"),
    "before the beginning": (csr([0, 1, 2], [0, -5, 3, 3]), "indptr does not rise"),
    "does not begin at 0": (csr([0, 1, 2], [1, 2, 3, 3]), "indptr is not 4 integers"),
    "too few rows": (csr([0, 1, 2], [0, 1, 3]), "indptr is not 4 integers"),
    "too few columns": (csr([0, 1, 2], [0, 1, 2, 4], np.ones(4, "f")), "the 3 of indices"),
    "too few numbers": (csr([0, 1, 2], [0, 1, 2, 3], np.ones(2, "f")), "the 2 numbers of data"),
    "less than none": (csr([0, 1, 2], [0, -1, -2, -3]), "indptr does not rise"),
    "too wide": (csr([], [0], shape=(0, 2**31)), "2147483648 columns"),
}


@pytest.mark.parametrize("case", BROKEN.values(), ids=BROKEN)
def test_broken_ones(case):
    """They are refused before anybody goes by them, SciPy's own functions included."""
    (data, indices, indptr, shape), message = case
    with pytest.raises(ValueError, match=message):
        SparseRows(data, indices, indptr, shape)
    if shape != (3, 4):
        return
    X = sparse.csr_array(np.eye(3, 4, dtype="f"))
    X.data, X.indices, X.indptr = data, indices, indptr
    y, model = np.arange(3), MLP([4, 3], seed=0)
    for act in (model.forward, lambda X: SGD(model).fit(X, y), sparse_rows):
        with pytest.raises(ValueError, match=f"X is no sound sparse matrix: .*{message}"):
            act(X)
    with pytest.raises(ValueError, match="X of validation_data is no sound sparse matrix"):
        SGD(model).fit(np.eye(3, 4), y, validation_data=(X, y))


def test_what_lies_behind_the_last_row():
    """It is no part of the matrix."""
    X = sparse.csr_array(np.eye(7, 3, dtype="f"))
    expected = MLP([3, 2], seed=0).forward(X)
    X.data = np.append(X.data, np.float32(np.nan))
    X.indices = np.append(X.indices, np.int32(10**6))
    np.testing.assert_array_equal(MLP([3, 2], seed=0).forward(X), expected)


def test_numbers_that_are_not_contiguous():
    X = sparse.csr_array(np.eye(7, 3, dtype="f"))
    expected = MLP([3, 2], seed=0).forward(X)
    X.data = np.repeat(X.data, 2)[::2]
    np.testing.assert_array_equal(MLP([3, 2], seed=0).forward(X), expected)
    assert sparse_rows(X).data.flags.c_contiguous


def test_sums_that_are_too_large():
    X = sparse.csr_array((np.full(3, 3e38, "f"), [0, 2, 2], [0, 1, 3]), shape=(2, 3))
    for act in (MLP([3, 2]).forward, sparse_rows):
        with pytest.raises(ValueError, match=r"X\[1, 2\] is inf: every value must be finite"):
            act(X)


def test_the_structure_is_its_own():
    """Whoever changes the matrix meanwhile changes no place that is read or written."""
    X = sparse.csr_array(np.eye(7, 3, dtype=np.float32))
    rows = sparse_rows(X)
    X.indices[:], X.indptr[:] = 10**9, 10**9
    model = MLP([3, 2], seed=0)
    np.testing.assert_array_equal(model.forward(rows), model.forward(np.eye(7, 3)))
    assert np.shares_memory(rows.data, X.data)  # which is not copied


def test_another_kind_than_was_announced():
    model = MLP([3, 2], seed=0)
    rows, y = sparse_rows(sparse.csr_array(np.eye(7, 3, dtype=np.float32))), np.zeros(7, int)
    for is_sparse, X in ((True, np.eye(7, 3, dtype=np.float32)), (False, rows)):
        core = core_of(LEVELS[0], model, 7, is_sparse=is_sparse)
        with pytest.raises(TypeError):
            core.gradients(np.empty_like(model.params), X, y, model.params)
    for other in (MLP([4, 2]), MLP([3, 2], dtype="float64")):
        core = core_of(LEVELS[0], other, 7, is_sparse=True)
        with pytest.raises(TypeError, match="expected SparseRows of"):
            core.gradients(np.empty_like(other.params), rows, y, other.params)


def test_memory_does_not_grow_with_the_inputs(monkeypatch):
    """But for the parameters: a batch has room for the numbers that are there."""
    asked = []
    monkeypatch.setattr(fastmlp._core, "check_memory", lambda n, what: asked.append(n))
    n_in, n = 200_000, 500
    X = sparse.random_array((n, n_in), density=1e-4, rng=np.random.default_rng(0), format="csr")
    model = MLP([n_in, 2, 2], seed=0)
    SGD(model, batch_size=n).fit(X, np.zeros(n, int), epochs=1)
    model.predict(X)
    state = 2 * 3 * 16 * 4 * n_in  # W and its moment, and the backup, in vectors of 16
    assert len(asked) == 2
    assert sum(asked) < state + 16 * n_in + (1 << 20)
    assert sum(asked) < n * n_in * 4


def test_no_memory_for_a_batch(monkeypatch):
    """What was there before is given back once, and the next fit begins anew."""
    rng = np.random.default_rng(0)
    model, y = MLP([300, 5, 3], seed=0), rng.integers(0, 3, 60)
    few, many = (rows_of(rng, 60, 300, share).astype("f") for share in (0.01, 0.5))
    trainer = SGD(model, batch_size=60)
    trainer.fit(few, y, epochs=1)

    def none(n_bytes, what):
        raise MemoryError(f"no memory for {what}")

    with monkeypatch.context() as patch:
        patch.setattr(fastmlp._core, "check_memory", none)
        with pytest.raises(MemoryError, match="no memory for the inputs of a batch"):
            trainer.fit(many, y, epochs=1)
    before = model.params.copy()
    trainer.fit(many, y, epochs=1)
    assert np.isfinite(model.params).all()
    assert not np.array_equal(before, model.params)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_estimators_that_take_rows_as_they_are():
    """Rows of the right dtype are not looked at by scikit-learn, and mean the same."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    rng = np.random.default_rng(0)
    X, y = rows_of(rng, 80, 40, 0.2).astype("f"), rng.integers(0, 3, 80)
    options = {"hidden_layer_sizes": (9,), "max_iter": 3, "random_state": 0, "dtype": "float32"}
    for kind in (fastmlp.MLPClassifier, fastmlp.MLPRegressor):
        found = []
        for rows in (X.toarray(), X, sparse.csr_matrix(X), X.tocsc()):
            estimator = kind(**options).fit(rows, y)
            found.append([estimator.predict(rows), *estimator.coefs_])
            for _ in range(2):
                estimator.partial_fit(rows[:30], y[:30])
            found[-1] += [estimator.predict(rows), *estimator.coefs_]
        for other in found[1:]:
            for one, same in zip(found[0], other, strict=True):
                np.testing.assert_array_equal(one, same)
        for wrong, message in ((X[:, :-1], "has 39 features"), (X * np.nan, "contains NaN")):
            with pytest.raises(ValueError, match=message):
                estimator.predict(wrong)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_partial_fit_that_is_refused_draws_nothing():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    rng, found = np.random.default_rng(0), []
    X, y = rows_of(rng, 300, 20, 0.2), rng.integers(0, 3, 300)
    broken = X.copy()
    broken.indices[-1] = -1
    for refused in (False, True):
        estimator = fastmlp.MLPClassifier((5,), random_state=0).partial_fit(X, y, classes=[0, 1, 2])
        if refused:
            with pytest.raises(ValueError, match="no sound sparse matrix"):
                estimator.partial_fit(broken, y)
        found.append(estimator.partial_fit(X, y).coefs_[0])
    np.testing.assert_array_equal(*found)
