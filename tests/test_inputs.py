"""What users hand over: every layout gives the same bits, everything wrong is named, nothing
changes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastmlp import MLP, SGD
from fastmlp._core import first_nonfinite
from fastmlp.inputs import as_features, as_int, as_labels, as_real, as_values, as_weights

N, N_IN, N_OUT = 7, 3, 4


def network(loss="softmax_cross_entropy", dtype="float32", n_out=N_OUT):
    return MLP([N_IN, 5, n_out], loss=loss, dtype=dtype)


def trainer(model):
    return SGD(model, batch_size=2, learning_rate=0.01)


def plain_data():
    """X and labels in numbers that float16 and all integers hold exactly."""
    rng = np.random.default_rng(0)
    return rng.integers(-2, 3, (N, N_IN)).astype(float), rng.integers(0, N_OUT, N)


def misaligned(array):
    room = np.empty(array.nbytes + 1, np.uint8)[1:]
    result = room.view(array.dtype).reshape(array.shape)
    result[...] = array
    assert not result.flags.aligned
    return result


def strided(array):
    room = np.full((2 * len(array), *(3 * n for n in array.shape[1:])), 77, array.dtype)
    at = (slice(None, None, 2), *(slice(1, None, 3) for _ in array.shape[1:]))
    room[at] = array
    return room[at]


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def in_pandas(array):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    return pandas.DataFrame(array) if array.ndim == 2 else pandas.Series(array)


LAYOUTS = {
    "list": lambda a: a.tolist(),
    "Fortran": np.asfortranarray,
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "little-endian": lambda a: a.astype(a.dtype.newbyteorder("<")),
    "strided": strided,
    "reversed": lambda a: a[::-1].copy()[::-1],
    "misaligned": misaligned,
    "misaligned big-endian": lambda a: misaligned(a.astype(a.dtype.newbyteorder(">"))),
    "read-only": read_only,
    "masked, no entry masked": np.ma.array,
    "pandas": in_pandas,
}
DTYPES = {"float": ["float16", "float32", "float64", "longdouble", "int8", "int64", "object"],
          "label": ["int8", "uint8", "int16", "uint64", "int64"]}  # fmt: skip


def results(dtype, X, y, loss="softmax_cross_entropy"):
    """Return the bytes of all that is computed from X and y."""
    model = network(loss, dtype)
    value, dweights, dbiases = model.gradients(X, y)
    found = [model.forward(X), model.loss(X, y), value, *dweights, *dbiases]
    history = trainer(model).fit(X, y, epochs=2, validation_data=(X, y))
    return [np.asarray(a).tobytes() for a in [*found, model.params, history.validation_loss]]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_bits_from_every_layout(layout, dtype):
    X, y = plain_data()
    targets = np.random.default_rng(1).normal(size=(N, N_OUT))
    for given_X in X, X.astype("float32"):
        laid_X, laid_y, laid_targets = (LAYOUTS[layout](array) for array in (given_X, y, targets))
        before = [np.array(array) for array in (laid_X, laid_y, laid_targets)]
        assert results(dtype, laid_X, laid_y) == results(dtype, X, y)
        assert results(dtype, laid_X, laid_targets, "squared_error") == results(
            dtype, X, targets, "squared_error"
        )
        for array, old in zip((laid_X, laid_y, laid_targets), before, strict=True):
            np.testing.assert_array_equal(np.asarray(array), old)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_same_bits_from_every_dtype(dtype):
    X, y = plain_data()
    for given_dtype in DTYPES["float"]:
        assert results(dtype, X.astype(given_dtype), y) == results(dtype, X, y), given_dtype
    for given_dtype in DTYPES["label"]:
        assert results(dtype, X, y.astype(given_dtype)) == results(dtype, X, y), given_dtype
    assert results(dtype, X > 0, y > 1) == results(dtype, 1.0 * (X > 0), 1 * (y > 1))


def test_arrays_that_fit_are_not_copied():
    X, y = plain_data()
    assert as_features(X, "float64", N_IN) is X
    assert as_labels(y, N, N_OUT) is y
    for layout in LAYOUTS.values():
        features = [as_features(layout(X), dtype, N_IN) for dtype in ("float32", "float64")]
        for array in *features, as_labels(layout(y), N, N_OUT):
            assert array.flags.c_contiguous and array.flags.aligned and array.dtype.isnative


def test_nullable_pandas_columns():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame({"a": [1, 2], "b": [0.5, 1.5], "c": [True, False]})
    expected = [[1, 0.5, 1], [2, 1.5, 0]]
    np.testing.assert_array_equal(as_features(frame, "float32", 3), expected)
    np.testing.assert_array_equal(as_features(frame.convert_dtypes(), "float32", 3), expected)
    frame.loc[1, "b"] = None
    with pytest.raises(ValueError, match=r"X\[1, 1\] is nan: every value must be finite"):
        as_features(frame, "float32", 3)
    with pytest.raises((TypeError, ValueError), match=r"^X\b"):
        as_features(frame.convert_dtypes(), "float32", 3)


def with_entry(value, row=4, column=2, dtype=None):
    X = plain_data()[0].astype(dtype or np.result_type(type(value), float))
    X[row, column] = value
    return X


class Sparse:
    """What scipy.sparse and its likes have in common."""

    shape = (N, N_IN)

    def toarray(self):
        raise AssertionError("made dense behind the user's back")


SIGNALLING = np.array([0x7FF0000000000001], np.uint64).view(np.float64)[0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_first_that_is_not_finite(dtype):
    """At every place of arrays that end in the middle of vectors and of blocks of 1,024."""
    limits = np.finfo(dtype)
    finite = [0, limits.max, limits.smallest_subnormal, limits.tiny, 1]
    for n in [*range(1, 40), 1023, 1024, 1025, 2049]:
        x = np.resize(np.array(finite, dtype), n) * np.resize([1, -1], n).astype(dtype)
        assert first_nonfinite(x) == -1
        for at in {*range(min(n, 40)), n // 2, *range(max(0, n - 5), n)}:
            for bad in (np.nan, -np.nan, np.inf, -np.inf):
                y = x.copy()
                y[at] = bad
                assert first_nonfinite(y) == at
                y[at + n // 3 :] = bad  # others behind it make no difference
                assert first_nonfinite(y) == at


FINITE = "every value must be finite"
BAD_FEATURES = {
    "scalar": (3.0, ValueError, r"X has shape \(\), expected \(n_samples, 3\)$"),
    "one row": (np.ones(3), ValueError, r"shape \(3,\).*for one sample use X\.reshape\(1, -1\)"),
    "three axes": (np.ones((N, 3, 1)), ValueError, r"X has shape \(7, 3, 1\), expected"),
    "too wide": (np.ones((N, 4)), ValueError, r"X has 4 features, the model expects 3"),
    "no columns": (np.ones((N, 0)), ValueError, r"X has 0 features, the model expects 3"),
    "nan": (with_entry(np.nan), ValueError, rf"X\[4, 2\] is nan: {FINITE}"),
    "first of two": (with_entry([np.nan, np.inf], 1, [1, 2]), ValueError, r"X\[1, 1\] is nan"),
    "infinity": (with_entry(np.inf), ValueError, rf"X\[4, 2\] is inf: {FINITE}"),
    "-infinity": (with_entry(-np.inf, 6), ValueError, rf"X\[6, 2\] is -inf: {FINITE}"),
    "signalling nan": (with_entry(SIGNALLING, 0, 0), ValueError, r"X\[0, 0\] is nan"),
    "Fortran": (np.asfortranarray(with_entry(np.nan)), ValueError, r"X\[4, 2\] is nan"),
    "None": (with_entry(None, dtype=object), ValueError, r"X\[4, 2\] is nan"),
    "complex": (np.ones((N, 3), complex), TypeError, "X has dtype complex128, expected real"),
    "dates": (np.zeros((N, 3), "M8[s]"), TypeError, "X has dtype datetime64"),
    "text": (np.full((N, 3), "1"), TypeError, "X has dtype <U1, expected real numbers"),
    "bytes": (np.full((N, 3), b"1"), TypeError, r"X has dtype \|S1, expected real numbers"),
    "records": (np.zeros((N, 3), "f4,f4"), TypeError, "X has dtype .* expected real numbers"),
    "word": (with_entry("a", dtype=object), TypeError, "X is not an array of numbers: could not"),
    "10**400": (with_entry(10**400, dtype=object), TypeError, "X is not an array of numbers"),
    "ragged": ([[1, 2, 3], [4, 5]], TypeError, "X is not an array of numbers"),
    "None alone": (None, ValueError, r"X has shape \(\)"),
    "dict": ({"a": 1}, TypeError, "X is not an array of numbers"),
    "sparse": (Sparse(), TypeError, r"X is sparse \(Sparse\); use X\.toarray\(\)"),
    "masked": (np.ma.masked_equal(plain_data()[0], 2), ValueError, "X is a masked array"),
}
TOO_LARGE = [(1e39, "float32"), (-4e38, "float32"), (np.longdouble("1e400"), "float64")]

OTHER_LABELS = plain_data()[1]
BAD_LABELS = {
    "too large": (np.where(np.arange(N) == 3, 4, OTHER_LABELS), ValueError,
                  r"y\[3\] is 4, expected a class number in 0\.\.3"),
    "negative": (np.where(np.arange(N) >= 5, -1, OTHER_LABELS), ValueError, r"y\[5\] is -1, "),
    "int8": (np.full(N, -128, np.int8), ValueError, r"y\[0\] is -128"),
    "uint64": (np.full(N, 2**64 - 1, np.uint64), ValueError, r"y\[0\] is 18446744073709551615"),
    "float": (OTHER_LABELS * 1.0, TypeError, r"y has dtype float64, .*0\.\.3 .*y\.astype\(int\)"),
    "text": (OTHER_LABELS.astype(str), TypeError, "y has dtype <U21"),
    "object": (OTHER_LABELS.astype(object), TypeError, "y has dtype object"),
    "one-hot": (np.eye(N, N_OUT, dtype=int), ValueError, r"y has shape \(7, 4\), expected \(7,\)"),
    "scalar": (1, ValueError, r"y has shape \(\), expected \(7,\)"),
    "too long": (np.zeros(N + 1, int), ValueError, "y has 8 rows, X has 7"),
    "too short": (np.zeros(N - 1, int), ValueError, "y has 6 rows, X has 7"),
    "empty": (np.zeros(0, int), ValueError, "y has 0 rows, X has 7"),
    "ragged": ([[1, 2], [3]], TypeError, "y is not an array of numbers"),
    "masked": (np.ma.array(OTHER_LABELS, mask=OTHER_LABELS == 0), ValueError, "y is a masked"),
    "sparse": (Sparse(), TypeError, "y is sparse"),
}  # fmt: skip
BAD_VALUES = {
    "one axis": (np.ones(N), ValueError, r"y has shape \(7,\), expected \(7, 4\)$"),
    "too wide": (np.ones((N, 5)), ValueError, r"y has shape \(7, 5\), expected \(7, 4\)"),
    "too long": (np.ones((N + 1, 4)), ValueError, "y has 8 rows, X has 7"),
    "nan": (np.where(np.eye(N, 4) == 1, np.nan, 0), ValueError, rf"y\[0, 0\] is nan: {FINITE}"),
    "overflow": (np.full((N, 4), 1e39), ValueError, r"y\[0, 0\] is 1e\+39: too large for float32"),
    "complex": (np.ones((N, 4), complex), TypeError, "y has dtype complex128"),
    "masked": (np.ma.masked_all((N, 4)), ValueError, "y is a masked array"),
}


def assert_refused(model, X, y, error, what, *, forward):
    """Check that every method refuses X or y by the same message, and that nothing changes."""
    sgd = trainer(model)
    good_X = plain_data()[0]
    good_y = OTHER_LABELS if model.classifies else np.ones((N, model.sizes[-1]))
    history = sgd.fit(good_X, good_y, epochs=1)
    params = model.params.copy()
    calls = [lambda: model.loss(X, y), lambda: model.gradients(X, y), lambda: sgd.fit(X, y)]
    if forward:
        calls += [lambda: model.forward(X), lambda: model.predict(X)]
    for call in calls:
        with pytest.raises(error, match=what) as caught:
            call()
        assert "\n" not in str(caught.value)
    with pytest.raises(error, match=r"\b[Xy] of validation_data\b"):
        sgd.fit(good_X, good_y, validation_data=(X, y))
    assert sgd.history is history and history.epochs == 1
    np.testing.assert_array_equal(model.params, params)
    sgd.fit(good_X, good_y, epochs=2)
    untouched = MLP(model.sizes, loss=model.loss_name, dtype=model.dtype)
    trainer(untouched).fit(good_X, good_y, epochs=3)
    np.testing.assert_array_equal(model.params, untouched.params)


@pytest.mark.parametrize("case", BAD_FEATURES)
def test_bad_features(case):
    X, error, what = BAD_FEATURES[case]
    for dtype in "float32", "float64":
        assert_refused(network(dtype=dtype), X, OTHER_LABELS, error, what, forward=True)


@pytest.mark.parametrize(("value", "dtype"), TOO_LARGE, ids=str)
def test_features_that_overflow(value, dtype):
    X = with_entry(value)
    if np.isinf(np.float64(value)) and X.dtype == np.float64:
        pytest.skip("long double is double on this platform")
    what = rf"X\[4, 2\] is .*: too large for {dtype}"
    assert_refused(network(dtype=dtype), X, OTHER_LABELS, ValueError, what, forward=True)


def test_floating_point_flags_of_the_caller_do_not_matter():
    X = with_entry(1e-60)
    expected = network().forward(with_entry(0.0))
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(network().forward(X), expected)


@pytest.mark.parametrize("case", BAD_LABELS)
def test_bad_labels(case):
    y, error, what = BAD_LABELS[case]
    assert_refused(network(), plain_data()[0], y, error, what, forward=False)


@pytest.mark.parametrize("case", BAD_VALUES)
def test_bad_values(case):
    y, error, what = BAD_VALUES[case]
    assert_refused(network("squared_error"), plain_data()[0], y, error, what, forward=False)


def test_no_rows():
    nothing = np.empty((0, N_IN))
    assert network().forward(nothing).shape == (0, N_OUT)
    assert network().predict(nothing).shape == (0,)
    what = r"X has no rows \(shape \(0, 3\)\)"
    assert_refused(network(), nothing, OTHER_LABELS[:0], ValueError, what, forward=False)


def test_weights_whose_sum_overflows():
    with pytest.raises(ValueError, match="sample_weight adds up to inf, expected"):
        as_weights([1e308, 1e308], 2, "float64")
    assert as_weights([3e38, 3e38], 2, "float32").dtype == "float32"  # they add up in float64


def test_one_output_takes_a_vector():
    X, _ = plain_data()
    model = network("squared_error", n_out=1)
    y = np.arange(N)
    assert model.loss(X, y) == model.loss(X, y.reshape(-1, 1))
    assert as_values(y, N, 1, "float32").shape == (N, 1)
    with pytest.raises(ValueError, match=r"y has shape \(1, 7\), expected \(7, 1\) or \(7,\)"):
        model.loss(X, y.reshape(1, -1))


@pytest.mark.parametrize("value", [3, np.int8(3), np.array(3), np.uint64(3), True + 2])
def test_as_int(value):
    found = as_int(value, "n", 3)
    assert found == 3 and type(found) is int


@pytest.mark.parametrize("value", [3.0, "3", None, True, np.True_, np.float32(3), [3], 3j])
def test_not_an_int(value):
    with pytest.raises(TypeError, match=r"n is .*, expected an integer"):
        as_int(value, "n", 0)
    with pytest.raises(ValueError, match="n is 2, expected at least 3"):
        as_int(2, "n", 3)


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.array(0.5)])
def test_as_real(value):
    found = as_real(value, "r", 0.5, below=1)
    assert found == 0.5 and type(found) is float


@pytest.mark.parametrize("value", [-1e-300, 1, np.nan, np.inf, -np.inf, 10**400])
def test_real_out_of_range(value):
    with pytest.raises(ValueError, match=r"r is .*, expected .* at least 0 and below 1$"):
        as_real(value, "r", 0, below=1)
    with pytest.raises(ValueError, match=r"r is .*, expected a finite number of at least 2$"):
        as_real(value, "r", 2)


@pytest.mark.parametrize("value", [None, "a", "1", b"1", 1j, [0.5], np.array([0.5, 0.5])])
def test_not_a_real(value):
    with pytest.raises(TypeError, match=r"r is .*, expected a number"):
        as_real(value, "r", 0)


SHAPES = st.one_of(
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    st.tuples(st.integers(0, 5), st.just(N_IN)),
)
NUMBERS = st.one_of(hnp.floating_dtypes(), hnp.integer_dtypes(), hnp.unsigned_integer_dtypes())
ARRAYS = hnp.arrays(NUMBERS, SHAPES) | hnp.arrays(hnp.scalar_dtypes(), SHAPES)


@settings(max_examples=400, deadline=None)
@given(X=ARRAYS, single=st.booleans())
def test_any_array(X, single):
    """Any array is either refused or gives finite numbers of the right shape."""
    model = network(dtype="float32" if single else "float64")
    old = X.copy()
    try:
        Z = model.forward(X)
    except (TypeError, ValueError) as error:
        assert str(error).startswith("X ") or str(error).startswith("X[")
        largest = np.finfo(model.dtype).max
        fits = X.ndim == 2 and X.shape[1] == N_IN and X.dtype.kind in "biuf"
        assert not (fits and (np.abs(X.astype(np.longdouble)) <= largest).all())
    else:
        assert Z.shape == (len(X), N_OUT) and Z.dtype == model.dtype
        # with biases of 0 and activations that do not grow, values grow by the weights alone
        grown = np.prod([np.abs(W).sum(axis=0).max() for W in model.weights], dtype=np.longdouble)
        largest = np.abs(X.astype(np.longdouble)).max(initial=0) * max(grown, 1)
        assert np.isfinite(Z).all() or largest > np.finfo(model.dtype).max / 4
    np.testing.assert_array_equal(X, old)
