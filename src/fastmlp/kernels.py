"""The operations of a network as functions on arrays, one by one.

They are the ones the BLAS engine trains with, written line by line in ``_blas.pyx``: for
learning, for checking, and for building something of one's own. Sizes: B rows, I inputs,
O outputs.

All arrays of a call have one dtype, float32 or float64; anything else is taken as float64.
Inputs in any memory layout are accepted. Results go to new arrays, or to ``out``, which must be
C-contiguous, of the right shape and dtype, and must not overlap an input unless said otherwise;
it is never silently copied.

Examples
--------
>>> import numpy as np
>>> from fastmlp import kernels
>>> X = np.array([[1.0, 2.0]])
>>> W = np.array([[1.0, -1.0], [0.5, -3.0]])
>>> b = np.array([0.0, 1.0])
>>> Z = kernels.linear_forward(X, W, b)
>>> Z
array([[ 2., -6.]])
>>> kernels.relu_forward(Z)
array([[2., 0.]])
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp.inputs import as_array, as_int, as_labels, as_real, contiguous

__all__ = [
    "adam_update",
    "linear_backward",
    "linear_forward",
    "logistic_backward",
    "logistic_forward",
    "relu_backward",
    "relu_forward",
    "sgd_update",
    "softmax_cross_entropy_backward",
    "softmax_cross_entropy_forward",
    "squared_error",
    "tanh_backward",
    "tanh_forward",
]

Array = NDArray[Any]

# What is written to: of other subclasses, a matrix keeps two axes and a masked array hides entries.
PLAIN = (np.ndarray, np.memmap)


def linear_forward(X: ArrayLike, W: ArrayLike, b: ArrayLike, *, out: Array | None = None) -> Array:
    """Return Y = X W + b.

    Parameters
    ----------
    X : (B, I)
    W : (I, O)
    b : (O,)
    out : (B, O), optional

    Examples
    --------
    >>> from fastmlp import kernels
    >>> kernels.linear_forward([[1.0, 2.0]], [[3.0], [4.0]], [5.0])
    array([[16.]])
    """
    X, W, b = _arrays(X=X, W=W, b=b)
    B, I = _shape("X", X, ("B", "I"))
    I, O = _shape("W", W, (I, "O"))
    _shape("b", b, (O,))
    Y = _out(out, "out", (B, O), X, W, b)
    if B and I and O:
        _blas().linear_forward(Y, X, W, b)
    else:
        Y[...] = b
    return Y


def linear_backward(
    dY: ArrayLike, X: ArrayLike, W: ArrayLike, *, out: tuple[Array, Array, Array] | None = None
) -> tuple[Array, Array, Array]:
    """Return (dX, dW, db) of Y = X W + b, given dY, the derivative of the loss by Y.

    dX = dY Wᵀ, dW = Xᵀ dY, db = sum of the rows of dY.

    Parameters
    ----------
    dY : (B, O)
    X : (B, I)
    W : (I, O)
    out : tuple of (B, I), (I, O) and (O,), optional

    Examples
    --------
    >>> from fastmlp import kernels
    >>> dX, dW, db = kernels.linear_backward([[1.0]], [[1.0, 2.0]], [[3.0], [4.0]])
    >>> dX, dW, db
    (array([[3., 4.]]), array([[1.],
           [2.]]), array([1.]))
    """
    dY, X, W = _arrays(dY=dY, X=X, W=W)
    B, O = _shape("dY", dY, ("B", "O"))
    B, I = _shape("X", X, (B, "I"))
    _shape("W", W, (I, O))
    if out is not None and (not isinstance(out, tuple) or len(out) != 3):
        raise TypeError("out is not a tuple of three arrays (dX, dW, db)")
    given = out or (None, None, None)
    dX = _out(given[0], "out[0]", (B, I), dY, X, W)
    dW = _out(given[1], "out[1]", (I, O), dY, X, W, dX)
    db = _out(given[2], "out[2]", (O,), dY, X, W, dX, dW)
    if B and I and O:
        _blas().linear_backward(dX, dW, db, dY, X, W)
    else:
        dX[...], dW[...], db[...] = 0, 0, dY.sum(axis=0)
    return dX, dW, db


def relu_forward(Z: ArrayLike, *, out: Array | None = None) -> Array:
    """Return A = max(Z, 0), of any shape; NaN stays NaN. `out` may be Z.

    Examples
    --------
    >>> from fastmlp import kernels
    >>> kernels.relu_forward([-1.0, 0.0, 2.0])
    array([0., 0., 2.])
    """
    return _elementwise(_blas().relu_forward, out, Z=Z)


def relu_backward(dA: ArrayLike, A: ArrayLike, *, out: Array | None = None) -> Array:
    """Return dZ = dA where A > 0, else 0; A is the output of `relu_forward`. `out` may be dA.

    Examples
    --------
    >>> from fastmlp import kernels
    >>> kernels.relu_backward([5.0, 6.0], [0.0, 2.0])
    array([0., 6.])
    """
    return _elementwise(_blas().relu_backward, out, dA=dA, A=A)


def tanh_forward(Z: ArrayLike, *, out: Array | None = None) -> Array:
    """Return A = tanh(Z), of any shape. `out` may be Z.

    Examples
    --------
    >>> from fastmlp import kernels
    >>> kernels.tanh_forward([0.0])
    array([0.])
    """
    return _elementwise(_blas().tanh_forward, out, Z=Z)


def tanh_backward(dA: ArrayLike, A: ArrayLike, *, out: Array | None = None) -> Array:
    """Return dZ = dA (1 - A²); A is the output of `tanh_forward`. `out` may be dA.

    Examples
    --------
    >>> from fastmlp import kernels
    >>> kernels.tanh_backward([1.0], [0.5])
    array([0.75])
    """
    return _elementwise(_blas().tanh_backward, out, dA=dA, A=A)


def logistic_forward(Z: ArrayLike, *, out: Array | None = None) -> Array:
    """Return A = 1 / (1 + exp(-Z)), of any shape. `out` may be Z.

    Examples
    --------
    >>> from fastmlp import kernels
    >>> kernels.logistic_forward([0.0])
    array([0.5])
    """
    return _elementwise(_blas().logistic_forward, out, Z=Z)


def logistic_backward(dA: ArrayLike, A: ArrayLike, *, out: Array | None = None) -> Array:
    """Return dZ = dA A (1 - A); A is the output of `logistic_forward`. `out` may be dA.

    Examples
    --------
    >>> from fastmlp import kernels
    >>> kernels.logistic_backward([1.0], [0.5])
    array([0.25])
    """
    return _elementwise(_blas().logistic_backward, out, dA=dA, A=A)


def softmax_cross_entropy_forward(
    Z: ArrayLike, y: ArrayLike, *, out: Array | None = None
) -> tuple[float, Array]:
    """Return the mean loss and the probabilities P = softmax(Z), row by row.

    The loss of a row is ``log(sum(exp(Z))) - Z[y]``, computed from Z shifted by its maximum: it
    neither overflows nor takes the logarithm of a probability.

    Parameters
    ----------
    Z : (B, O), logits, B >= 1
    y : (B,) of int, class numbers in 0..O - 1
    out : (B, O), optional, for P; may be Z

    Examples
    --------
    >>> from fastmlp import kernels
    >>> loss, P = kernels.softmax_cross_entropy_forward([[0.0, 0.0]], [1])
    >>> round(loss, 6), P
    (0.693147, array([[0.5, 0.5]]))
    """
    (Z,) = _arrays(Z=Z)
    B, O = _shape("Z", Z, ("B", "O"))
    _not_empty("Z", Z)
    labels = as_labels(y, B, O)
    P = _out(out, "out", (B, O), labels, same=(Z,))
    return _blas().softmax_cross_entropy_forward(P, Z, labels) / B, P


def softmax_cross_entropy_backward(
    P: ArrayLike, y: ArrayLike, *, out: Array | None = None
) -> Array:
    """Return dZ = (P - onehot(y)) / B, the derivative of the mean loss by the logits.

    Parameters
    ----------
    P : (B, O), probabilities, B >= 1
    y : (B,) of int, class numbers in 0..O - 1
    out : (B, O), optional; may be P

    Examples
    --------
    >>> from fastmlp import kernels
    >>> kernels.softmax_cross_entropy_backward([[0.5, 0.5]], [1])
    array([[ 0.5, -0.5]])
    """
    (P,) = _arrays(P=P)
    B, O = _shape("P", P, ("B", "O"))
    _not_empty("P", P)
    labels = as_labels(y, B, O)
    dZ = _out(out, "out", (B, O), labels, same=(P,))
    _blas().softmax_cross_entropy_backward(dZ, P, labels)
    return dZ


def squared_error(Z: ArrayLike, T: ArrayLike, *, out: Array | None = None) -> tuple[float, Array]:
    """Return the mean over the rows of ½ |Z - T|², and its derivative dZ = (Z - T) / B.

    Parameters
    ----------
    Z : (B, O), values, B >= 1
    T : (B, O), targets
    out : (B, O), optional, for dZ; may be Z

    Examples
    --------
    >>> from fastmlp import kernels
    >>> kernels.squared_error([[3.0], [1.0]], [[1.0], [1.0]])
    (1.0, array([[1.],
           [0.]]))
    """
    Z, T = _arrays(Z=Z, T=T)
    B, O = _shape("Z", Z, ("B", "O"))
    _not_empty("Z", Z)
    _shape("T", T, (B, O))
    dZ = _out(out, "out", (B, O), T, same=(Z,))
    return _blas().squared_error(dZ, Z, T) / B, dZ


def sgd_update(
    W: Array,
    v: Array,
    dW: ArrayLike,
    *,
    learning_rate: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> None:
    """Change parameters W and velocity v in place, by one step of gradient descent.

    v = momentum v - learning_rate (dW + weight_decay W); W = W + v, or with `nesterov`
    W = W + momentum v - learning_rate (dW + weight_decay W).

    Parameters
    ----------
    W, v : ndarray of any one shape and dtype, C-contiguous
    dW : array-like of the same shape

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import kernels
    >>> W, v = np.array([1.0]), np.array([0.0])
    >>> kernels.sgd_update(W, v, [0.5], learning_rate=0.1, momentum=0.9)
    >>> W, v
    (array([0.95]), array([-0.05]))
    """
    gradient = _gradient_of(W, dW)
    rate = _scalar(learning_rate, "learning_rate", W)
    momentum = _scalar(momentum, "momentum", W)
    weight_decay = _scalar(weight_decay, "weight_decay", W)
    W = _out(W, "W", W.shape, gradient)
    v = _out(v, "v", W.shape, gradient, W)
    if W.size:
        _blas().sgd_update(
            W.reshape(-1),
            v.reshape(-1),
            gradient.reshape(-1),
            rate,
            momentum,
            bool(nesterov),
            weight_decay,
        )


def adam_update(
    W: Array,
    m: Array,
    v: Array,
    dW: ArrayLike,
    *,
    t: int,
    learning_rate: float,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
) -> None:
    """Change parameters W and their moments m and v in place, by step t = 1, 2, ... of Adam.

    g = dW + weight_decay W; m = beta_1 m + (1 - beta_1) g; v = beta_2 v + (1 - beta_2) g²;
    W = W - learning_rate sqrt(1 - beta_2^t) / (1 - beta_1^t) m / (sqrt(v) + epsilon).
    With `decoupled`, g = dW and W first shrinks by learning_rate weight_decay W (AdamW).

    Parameters
    ----------
    W, m, v : ndarray of any one shape and dtype, C-contiguous
    dW : array-like of the same shape

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import kernels
    >>> W, m, v = np.array([1.0]), np.array([0.0]), np.array([0.0])
    >>> kernels.adam_update(W, m, v, [0.5], t=1, learning_rate=0.1, epsilon=0.0)
    >>> W.round(12), m.round(12)
    (array([0.9]), array([0.05]))
    """
    gradient = _gradient_of(W, dW)
    t = min(as_int(t, "t", 1), 2**63)  # beta^t is 0 long before
    rate = _scalar(learning_rate, "learning_rate", W)
    beta_1 = as_real(beta_1, "beta_1", 0, below=1)
    beta_2 = as_real(beta_2, "beta_2", 0, below=1)
    epsilon = _scalar(epsilon, "epsilon", W)
    weight_decay = _scalar(weight_decay, "weight_decay", W)
    W = _out(W, "W", W.shape, gradient)
    m = _out(m, "m", W.shape, gradient, W)
    v = _out(v, "v", W.shape, gradient, W, m)
    if W.size:
        _blas().adam_update(
            *(array.reshape(-1) for array in (W, m, v, gradient)),
            rate,
            rate * (1 - beta_2**t) ** 0.5 / (1 - beta_1**t),
            beta_1,
            beta_2,
            epsilon,
            weight_decay,
            bool(decoupled),
        )


def _gradient_of(W: Array, dW: ArrayLike) -> Array:
    """Return dW as an array like W, which must be one of parameters."""
    if type(W) not in PLAIN or W.dtype not in (np.float32, np.float64):
        raise TypeError(f"W is {_what(W)}, expected an array of float32 or float64")
    gradient = _real("dW", dW)
    if gradient.shape != W.shape:
        raise ValueError(f"dW has shape {gradient.shape}, expected {W.shape}")
    return contiguous(gradient, W.dtype.name, "dW")


def _scalar(value: float, name: str, W: Array) -> float:
    """Return an option of an update, 0 or more, that the dtype of W can hold."""
    number = as_real(value, name, 0)
    if number > float(np.finfo(W.dtype).max):
        raise ValueError(f"{name} is {number:g}: too large for {W.dtype}")
    return number


def _blas() -> Any:
    """Return the module that computes, imported with its BLAS at the first call."""
    from fastmlp import _blas

    return _blas


def _arrays(**named: ArrayLike) -> list[Array]:
    """Return the arguments as C-contiguous arrays of one dtype."""
    arrays = {name: _real(name, value) for name, value in named.items()}
    single = all(array.dtype == np.float32 for array in arrays.values())
    dtype = "float32" if single else "float64"
    return [contiguous(array, dtype, name) for name, array in arrays.items()]


def _real(name: str, value: ArrayLike) -> Array:
    array = as_array(value, name)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} has dtype {array.dtype}, expected real numbers")
    return array


def _what(value: Any) -> str:
    """Return what a value is, for messages."""
    if type(value) not in PLAIN:
        return type(value).__name__
    return f"{value.dtype} {value.shape}"


def _shape(name: str, array: Array, expected: tuple[int | str, ...]) -> tuple[int, ...]:
    """Check the shape of an array; a letter stands for any size BLAS can take."""
    wrong = array.ndim != len(expected) or any(
        isinstance(want, int) and want != have
        for want, have in zip(expected, array.shape, strict=False)
    )
    if wrong:
        raise ValueError(
            f"{name} has shape {array.shape}, expected ({', '.join(map(str, expected))})"
        )
    if max(array.shape, default=0) > _blas().MAX_DIMENSION:
        raise ValueError(
            f"{name} has shape {array.shape}; BLAS takes sizes up to {_blas().MAX_DIMENSION}"
        )
    return array.shape


def _not_empty(name: str, array: Array) -> None:
    if not array.size:
        raise ValueError(f"{name} has shape {array.shape}: a mean needs at least one row")


def _out(
    out: Array | None,
    name: str,
    shape: tuple[int, ...],
    *apart: Array,
    same: tuple[Array, ...] = (),
) -> Array:
    """Return `out`, checked, or a new array.

    It may not share memory with the arrays in `apart`; those in `same` it may be, not overlap.
    """
    dtype = (*same, *apart)[0].dtype
    if out is None:
        return np.empty(shape, dtype)
    if type(out) not in PLAIN or out.shape != shape or out.dtype != dtype:
        raise ValueError(f"{name} is {_what(out)}, expected an array of {dtype} {shape}")
    if not (out.flags.c_contiguous and out.flags.aligned and out.flags.writeable):
        raise ValueError(f"{name} must be C-contiguous, aligned and writable")
    for array in (*apart, *same):
        identical = out.ctypes.data == array.ctypes.data and any(array is s for s in same)
        if not identical and np.shares_memory(out, array):
            raise ValueError(f"{name} overlaps an input")
    return out


def _elementwise(kernel: Callable[..., None], out: Array | None, **named: ArrayLike) -> Array:
    """Apply an elementwise kernel to arrays of any one shape; `out` may be the first of them."""
    arrays = _arrays(**named)
    first, *others = arrays
    for name, array in zip(named, arrays, strict=True):
        if array.shape != first.shape:
            raise ValueError(f"{name} has shape {array.shape}, expected {first.shape}")
    result = _out(out, "out", first.shape, *others, same=(first,))
    if result.size:
        kernel(result.reshape(-1), *(array.reshape(-1) for array in arrays))
    return result
