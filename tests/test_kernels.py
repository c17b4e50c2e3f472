"""Every operation of the BLAS engine against the NumPy reference."""

import numpy as np
import pytest
import reference
from tolerances import assert_within, product, roundoff

from fastmlp import kernels

# (B, I, O): one row, one column, none at all, odd ones, and both sides of powers of two
SIZES = [
    (1, 1, 1), (0, 3, 2), (3, 0, 2), (3, 2, 0), (1, 5, 3), (5, 1, 3), (5, 3, 1), (7, 13, 5),
    (16, 16, 16), (31, 33, 32), (129, 65, 33), (64, 100, 10), (1000, 17, 3),
]  # fmt: skip
DTYPES = ["float32", "float64"]
ACTIVATIONS = ["relu", "tanh", "logistic"]
sizes = pytest.mark.parametrize("size", SIZES, ids=str)
dtypes = pytest.mark.parametrize("dtype", DTYPES)
activations = pytest.mark.parametrize("activation", ACTIVATIONS)


def normal(dtype, *shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(dtype)


def unset(dtype, *shape):
    return np.full(shape, np.nan, dtype)


@sizes
@dtypes
def test_linear_forward(size, dtype):
    B, I, O = size
    X, W, b = normal(dtype, B, I), normal(dtype, I, O), normal(dtype, O)
    out = unset(dtype, B, O)
    assert kernels.linear_forward(X, W, b, out=out) is out
    expected = reference.linear_forward(X.astype(float), W.astype(float), b)
    assert_within(out, expected, product(X, W, b))


@sizes
@dtypes
def test_linear_backward(size, dtype):
    B, I, O = size
    dY, X, W = normal(dtype, B, O), normal(dtype, B, I), normal(dtype, I, O)
    out = unset(dtype, B, I), unset(dtype, I, O), unset(dtype, O)
    dX, dW, db = kernels.linear_backward(dY, X, W, out=out)
    assert dX is out[0] and dW is out[1] and db is out[2]
    expected = reference.linear_backward(dY.astype(float), X.astype(float), W.astype(float))
    assert_within(dX, expected[0], product(dY, W.T))
    assert_within(dW, expected[1], product(X.T, dY))
    assert_within(db, expected[2], product(np.ones((1, B), dtype), dY)[0])


@activations
@dtypes
@pytest.mark.parametrize("n", [0, 1, 7, 1000])
def test_activation_forward(activation, dtype, n):
    Z = 3 * normal(dtype, n)
    out = unset(dtype, n)
    assert getattr(kernels, f"{activation}_forward")(Z, out=out) is out
    expected = getattr(reference, f"{activation}_forward")(Z.astype(float))
    # exp and tanh of the C library are within 1 ulp; then at most an addition and a division
    assert_within(out, expected, 4 * 2 * roundoff(dtype) * np.abs(expected))


@activations
@dtypes
def test_activation_backward(activation, dtype):
    A = getattr(reference, f"{activation}_forward")(3 * normal(dtype, 1001))
    dA, out = normal(dtype, 1001)[::-1], unset(dtype, 1001)
    getattr(kernels, f"{activation}_backward")(dA, A, out=out)
    expected = getattr(reference, f"{activation}_backward")(dA.astype(float), A.astype(float))
    # at most three roundings, one of them of 1 - A or 1 - A², which is in error by u
    assert_within(out, expected, 3 * roundoff(dtype) * np.abs(dA))


@dtypes
def test_relu_lets_nan_through(dtype):
    Z = np.array([np.nan, -1, -0.0, 0, 2, np.inf, -np.inf], dtype)
    np.testing.assert_array_equal(kernels.relu_forward(Z), [np.nan, 0, 0, 0, 2, np.inf, 0])
    dA = np.ones_like(Z)
    dA[0] = np.nan
    np.testing.assert_array_equal(kernels.relu_backward(dA, Z), [np.nan, 0, 0, 0, 1, 1, 0])


@dtypes
@pytest.mark.parametrize("size", [(1, 1), (1, 10), (7, 3), (129, 33), (5, 1000)], ids=str)
def test_softmax_cross_entropy(size, dtype):
    B, O = size
    Z, y = 5 * normal(dtype, B, O), np.random.default_rng(0).integers(0, O, B)
    P, dZ = unset(dtype, B, O), unset(dtype, B, O)
    loss, actual = kernels.softmax_cross_entropy_forward(Z, y, out=P)
    assert actual is P
    expected_loss, expected = reference.softmax_cross_entropy_forward(Z.astype(float), y)
    # Z - max is in error by u |Z - max|, which exp turns into a relative error; the sum adds
    # O u, exp 2 u, the division u
    shift = np.abs(Z - Z.max(axis=1, keepdims=True)).max(axis=1, keepdims=True)
    relative = (shift + O + 5) * roundoff(dtype)
    assert_within(P, expected, 2 * relative * expected)
    assert_within(loss, expected_loss, 2 * relative.max() * (1 + shift.max()))

    assert kernels.softmax_cross_entropy_backward(P, y, out=dZ) is dZ
    expected = reference.softmax_cross_entropy_backward(P.astype(float), y)
    assert_within(dZ, expected, 3 * roundoff(dtype) / B)


@dtypes
def test_softmax_of_huge_logits_is_finite(dtype):
    Z = np.array([[1e30, -1e30, 0.0], [-1e30, -1e30, -1e30]], dtype)
    loss, P = kernels.softmax_cross_entropy_forward(Z, [0, 1])
    np.testing.assert_allclose(P, [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]], rtol=2 * roundoff(dtype))
    assert loss == pytest.approx(np.log(3) / 2, rel=4 * roundoff(dtype))


@dtypes
@pytest.mark.parametrize("size", [(1, 1), (7, 3), (129, 33)], ids=str)
def test_squared_error(size, dtype):
    Z, T, dZ = normal(dtype, *size), 2 * normal(dtype, *size)[::-1], unset(dtype, *size)
    loss, actual = kernels.squared_error(Z, T, out=dZ)
    assert actual is dZ
    expected_loss, expected = reference.squared_error(Z.astype(float), T.astype(float))
    assert_within(dZ, expected, 3 * roundoff(dtype) * np.abs(Z - T) / len(Z))
    assert loss == pytest.approx(expected_loss, rel=2 * 3 * roundoff(dtype))


@dtypes
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum, weight_decay", [(0, 0), (0.9, 0), (0.5, 0.01)])
def test_sgd_update(dtype, nesterov, momentum, weight_decay):
    W, v, dW = (scale * normal(dtype, 7, 13) for scale in (1, 0.1, 3))
    expected_W, expected_v = reference.sgd_update(
        W.astype(float), v.astype(float), dW.astype(float), 0.1, momentum, nesterov, weight_decay
    )
    magnitude = np.abs(W) + np.abs(v) + 0.1 * np.abs(dW)
    kernels.sgd_update(
        W, v, dW, learning_rate=0.1, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay
    )
    # at most eight roundings, of terms no larger than the magnitude
    assert_within(W, expected_W, 8 * roundoff(dtype) * magnitude)
    assert_within(v, expected_v, 8 * roundoff(dtype) * magnitude)


@dtypes
@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("beta_2", [0.999, 0.99999999])
def test_adam_update(dtype, decoupled, beta_2):
    W, m, v, dW = (scale * normal(dtype, 7, 13) for scale in (1, 0.1, 0.1, 3))
    v = np.abs(v)
    wide = [array.astype(float) for array in (W, m, v, dW)]
    g = wide[3] + (0 if decoupled else 0.01 * wide[0])
    expected_m = 0.9 * wide[1] + (1 - 0.9) * g
    expected_v = beta_2 * wide[2] + (1 - beta_2) * g**2
    rate = 0.1 * np.sqrt(1 - beta_2**3) / (1 - 0.9**3)
    change = rate * expected_m / (np.sqrt(expected_v) + 1e-8)
    expected_W = wide[0] * (1 - (0.1 * 0.01 if decoupled else 0)) - change
    kernels.adam_update(
        W, m, v, dW, t=3, learning_rate=0.1, beta_2=beta_2, weight_decay=0.01, decoupled=decoupled
    )
    u = roundoff(dtype)
    size_m = 0.9 * np.abs(wide[1]) + 0.1 * np.abs(g)
    # at most eight roundings of terms that are no larger; those of m show in W over sqrt(v)
    assert_within(m, expected_m, 8 * u * size_m)
    assert_within(v, expected_v, 8 * u * expected_v)
    bound = 8 * u * (np.abs(wide[0]) + np.abs(change))
    assert_within(W, expected_W, bound + 8 * u * rate * size_m / np.sqrt(expected_v) * 2)


def test_any_layout_is_taken_and_left_alone():
    X, W = normal("float64", 6, 8)[::2, ::-2], np.asfortranarray(normal("float64", 4, 3))
    before = X.copy()
    result = kernels.linear_forward(X, W, np.zeros(3))
    np.testing.assert_array_equal(
        result, kernels.linear_forward(X.copy(), W.copy(order="C"), np.zeros(3))
    )
    np.testing.assert_array_equal(X, before)
    assert kernels.linear_forward([[1, 2]], [[3], [4]], [5]).dtype == np.float64


def test_results_in_place():
    Z = normal("float64", 5, 4)
    expected = kernels.relu_forward(Z.copy())
    assert kernels.relu_forward(Z, out=Z) is Z
    np.testing.assert_array_equal(Z, expected)


X, W, b = np.ones((2, 3)), np.ones((3, 4)), np.ones(4)
LABELS = np.zeros(4, np.int64)
BAD_CALLS = {
    "inner sizes differ": (lambda: kernels.linear_forward(X, W.T, b), "W has shape"),
    "bias too short": (lambda: kernels.linear_forward(X, W, b[:2]), r"b has shape \(2,\)"),
    "one-dimensional X": (lambda: kernels.linear_forward(X[0], W, b), r"expected \(B, I\)"),
    "complex": (lambda: kernels.linear_forward(X + 1j, W, b), "complex128"),
    "out of another dtype": (
        lambda: kernels.linear_forward(X, W, b, out=np.empty((2, 4), "f")), "expected an array of"),
    "out of another shape": (
        lambda: kernels.linear_forward(X, W, b, out=np.empty((2, 5))), "expected an array of"),
    "out not contiguous": (
        lambda: kernels.linear_forward(X, W, b, out=np.empty((4, 2)).T), "C-contiguous"),
    "out is a list": (lambda: kernels.relu_forward(X, out=[]), "list"),
    "out overlaps": (
        lambda: kernels.linear_forward(X, np.ones((3, 3)), np.ones(3), out=X), "overlap"),
    "out overlaps the labels": (
        lambda: kernels.softmax_cross_entropy_forward(
            np.ones((2, 2)), LABELS[2:], out=LABELS.view(float).reshape(2, 2)), "overlaps"),
    "out overlaps the labels of dZ": (
        lambda: kernels.softmax_cross_entropy_backward(
            np.ones((2, 2)), LABELS[:2], out=LABELS.view(float).reshape(2, 2)), "overlaps"),
    "out overlaps in part": (lambda: kernels.relu_forward(b[:3], out=b[1:]), "overlaps"),
    "out is not three": (lambda: kernels.linear_backward(X, X, np.ones((3, 3)), out=X), "three"),
    "shapes differ": (lambda: kernels.relu_backward(X, X[:1]), "A has shape"),
    "label too large": (lambda: kernels.softmax_cross_entropy_forward(X, [0, 3]), r"y\[1\] is 3"),
    "label negative": (lambda: kernels.softmax_cross_entropy_backward(X, [-1, 0]), r"y\[0\] is -1"),
    "no rows": (lambda: kernels.softmax_cross_entropy_forward(X[:0], []), "at least one row"),
    "targets of another shape": (lambda: kernels.squared_error(X, X[:, :1]), "T has shape"),
    "list as parameters": (
        lambda: kernels.sgd_update([1.0], b, b, learning_rate=1),
        "W is list, expected an array of float32 or float64"),
    "negative rate": (
        lambda: kernels.sgd_update(b, b.copy(), b.copy(), learning_rate=-1), "learning_rate is -1"),
    "velocity is W": (lambda: kernels.sgd_update(b, b, b.copy(), learning_rate=1), "overlaps"),
}  # fmt: skip


@pytest.mark.parametrize("call, message", BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_arguments_are_named(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_a_size_beyond_blas_is_refused():
    from fastmlp import _blas, engines

    assert _blas.MAX_DIMENSION in (2**31 - 1, 2**63 - 1)
    with pytest.raises(ValueError, match="more than the BLAS"):
        engines.load("blas", _blas.MAX_DIMENSION + 1)
    if _blas.MAX_DIMENSION < 2**32:
        rows = np.lib.stride_tricks.as_strided(np.zeros(1), (2**31, 0), (0, 0))
        with pytest.raises(ValueError, match="BLAS takes sizes"):
            kernels.linear_forward(rows, np.ones((0, 1)), np.ones(1))
