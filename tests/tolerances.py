"""How far a result may be from the exact one, derived from the dtype and the length of sums.

u is the unit roundoff. A product of matrices with inner length K, summed in any order, with a
bias, has |error| <= (K + 2) u (|A||B| + |b|) elementwise, to first order (Higham, "Accuracy and
Stability of Numerical Algorithms", section 3.5).
"""

import numpy as np


def roundoff(dtype):
    return float(np.finfo(dtype).eps) / 2


def product(A, B, bias=0.0):
    """Bound for A B + bias computed in the dtype of A."""
    u, K = roundoff(A.dtype), A.shape[1]
    magnitude = np.abs(A).astype(float) @ np.abs(B).astype(float) + np.abs(bias)
    return (K + 2) * u * magnitude + np.finfo(A.dtype).tiny


def assert_within(actual, expected, bound):
    error = np.abs(np.asarray(actual, float) - expected)
    bound = np.broadcast_to(bound, error.shape)
    # written so that NaN fails
    worst = np.argmax(error - bound) if error.size else None
    assert np.all(error <= bound), f"error {error.flat[worst]:.3g}, bound {bound.flat[worst]:.3g}"
