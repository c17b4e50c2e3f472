"""The activations as formulas on arrays: to look at a network, not to train it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["activate", "slope"]

Array = NDArray[Any]

LEAK = 0.01  # slope of leaky_relu below zero


def activate(Z: Array, activation: str) -> Array:
    """Return activation(Z), entry by entry, in the dtype of Z."""
    A: Array = Z
    if activation == "relu":
        A = np.maximum(Z, 0)
    elif activation == "leaky_relu":
        A = np.where(Z > 0, Z, Z.dtype.type(LEAK) * Z)
    elif activation == "tanh":
        A = np.tanh(Z)
    elif activation == "logistic":
        A = _logistic(Z)
    elif activation == "silu":
        A = Z * _logistic(Z)
    elif activation == "gelu":
        A = Z * _normal_cdf(Z)
    return A


def slope(Z: Array, activation: str) -> Array:
    """Return the derivative of the activation at Z, entry by entry, in the dtype of Z."""
    one = Z.dtype.type(1)
    dA: Array = np.ones_like(Z)
    if activation == "relu":
        dA = np.where(Z > 0, one, 0 * one)
    elif activation == "leaky_relu":
        dA = np.where(Z > 0, one, Z.dtype.type(LEAK))
    elif activation == "tanh":
        dA = 1 - np.tanh(Z) ** 2
    elif activation == "logistic":
        s = _logistic(Z)
        dA = s * (1 - s)
    elif activation == "silu":
        s = _logistic(Z)
        dA = s + Z * s * (1 - s)
    elif activation == "gelu":
        density = np.exp(-np.square(Z) / 2) / Z.dtype.type(np.sqrt(2 * np.pi))
        dA = _normal_cdf(Z) + Z * density
    return dA


def _logistic(Z: Array) -> Array:
    e: Array = np.exp(-np.abs(Z))
    e = np.where(Z < 0, e, 1) / (1 + e)
    return e


def _normal_cdf(Z: Array) -> Array:
    from scipy.special import ndtr

    p: Array = ndtr(Z)
    return p
