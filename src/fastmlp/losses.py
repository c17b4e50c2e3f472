"""The losses as formulas on arrays in float64: to evaluate a model, not to train it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.activations import activate

__all__ = ["DEFAULT_PARAMETER", "row_losses"]

Array = NDArray[Any]

# Of the losses that have a parameter: where it is valid, and what it is when nobody says.
DEFAULT_PARAMETER = {"huber": 1.0, "quantile": 0.5}


def row_losses(Z: Array, y: Array, loss: str, parameter: float = 0.0, clip: float = 0.0) -> Array:
    """Return the loss of every row.

    Parameters
    ----------
    Z : ndarray (n, n_out)
        Outputs of the last layer.
    y : ndarray (n,) of class numbers for softmax_cross_entropy; else (n, n_out)
    loss : str
    parameter : float
        Delta of huber, quantile of quantile.
    clip : float
        The least probability that enters a logarithm.

    Returns
    -------
    ndarray of float64 (n,)
    """
    probability = activate(Z, "logistic")
    Z = Z.astype(np.float64)
    each: Array
    least, most = (-np.log1p(-clip), -np.log(clip)) if clip > 0 else (-np.inf, np.inf)
    if loss == "softmax_cross_entropy":
        Z -= Z.max(axis=1, keepdims=True)
        of_label = Z[np.arange(len(Z)), y][:, np.newaxis]
        each = np.clip(np.log(np.exp(Z).sum(axis=1, keepdims=True)) - of_label, least, most)
        return each[:, 0]
    T = y.astype(np.float64)
    error = Z - T
    if loss == "binary_cross_entropy" and clip > 0:  # of the probability as it is rounded
        P = np.clip(probability.astype(np.float64), clip, 1 - clip)
        each = -T * np.log(P) - (1 - T) * np.log(1 - P)
    elif loss == "binary_cross_entropy":
        each = np.maximum(Z, 0) - T * Z + np.log1p(np.exp(-np.abs(Z)))
    elif loss == "poisson":
        log_T = np.log(T, where=T > 0, out=np.zeros_like(T))
        each = np.exp(Z) - T * Z + T * log_T - T
    elif loss == "absolute_error":
        each = np.abs(error)
    elif loss == "huber":
        kept = np.clip(error, -parameter, parameter)
        each = kept * (error - 0.5 * kept)
    elif loss == "quantile":
        each = np.maximum(-parameter * error, (1 - parameter) * error)
    else:
        each = 0.5 * np.square(error)
    sums: Array = each.sum(axis=1)
    return sums
