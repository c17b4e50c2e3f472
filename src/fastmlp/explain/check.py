"""Derivatives by differences: change one parameter a little, and see how the loss changes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.explain.trace import forward
from fastmlp.losses import row_losses
from fastmlp.model import MLP

__all__ = ["AGREEMENT", "Check", "check", "strongest"]

Array = NDArray[Any]

AGREEMENT = 1e-6  # relative difference up to which two derivatives agree
STEP = 2.0**-10  # of a parameter up to 1; its fourth power is about the roundoff
SHRINKS = 15  # of the step, each to a quarter, until two of them agree on one side of every kink
POINTS = (-4, 4, -2, 2, -1, 1)  # steps away from a parameter


@dataclass(frozen=True)
class Check:
    """Derivatives of the total loss beside the same by differences, in float64.

    Attributes
    ----------
    indices : ndarray of int (k,)
        Places in `MLP.params` of what was checked.
    derivatives : ndarray of float64 (k,)
        By backpropagation, from the engine that trains, in float64.
    numerical : ndarray of float64 (k,)
        D(h) = (8 (L(w + h) - L(w - h)) - (L(w + 2h) - L(w - 2h))) / 12 h, the central differences
        of two steps, combined such that the third derivative drops out; and of D(h) and D(2h),
        (16 D(h) - D(2h)) / 15, where the fifth does too. h shrinks until that changes D(h) by no
        more than a tenth of what is allowed, or than rounding does, so that inputs may be large.
    relative_error : ndarray of float64 (k,)
        Of one against the other, relative to the larger, or to the least derivative that such
        differences can tell to one in a million, whichever is more.
    kinks : ndarray of bool (k,)
        Where the loss has a kink at this very point and no derivative to compare with.
    """

    indices: Array
    derivatives: Array
    numerical: Array
    relative_error: Array
    kinks: Array

    @property
    def largest(self) -> float:
        """The largest relative error, kinks apart."""
        return float(self.relative_error[~self.kinks].max(initial=0.0))

    @property
    def agrees(self) -> bool:
        """Whether every derivative agrees to one in a million."""
        return self.largest <= AGREEMENT

    def of(self, index: int) -> tuple[float, float, float, bool] | None:
        """Return (derivative, numerical, relative_error, kink), None of what was not checked."""
        found = np.flatnonzero(self.indices == index)
        if not found.size:
            return None
        k = found[0]
        return (
            float(self.derivatives[k]),
            float(self.numerical[k]),
            float(self.relative_error[k]),
            bool(self.kinks[k]),
        )


@np.errstate(over="ignore", invalid="ignore")
def check(model: MLP, X: Array, y: Array, indices: Array) -> Check:
    """Compare the derivatives by some of the parameters with differences of the loss."""
    twin = model.copy(dtype="float64")
    X = X.astype(np.float64)
    y = y if model.classifies else y.astype(np.float64)
    _, dweights, dbiases = twin.gradients(X, y)
    flat = np.concatenate(
        [array.ravel() for pair in zip(dweights, dbiases, strict=True) for array in pair]
    )
    derivatives = flat[indices]
    found = [_difference(twin, X, y, int(index)) for index in indices]
    numerical, noise, kinks = (np.array(column) for column in zip(*found, strict=True))
    size = np.maximum(np.abs(derivatives), np.abs(numerical))
    size = np.maximum(size, noise / AGREEMENT)
    error = np.abs(derivatives - numerical) / np.where(size > 0, size, 1)
    error = np.where(np.isfinite(error), error, np.inf)
    return Check(indices, derivatives, numerical, error, kinks.astype(bool))


def strongest(flat: Array, limit: int) -> Array:
    """Return the places of the `limit` largest entries by size, in order of their places."""
    if flat.size <= limit:
        return np.arange(flat.size)
    return np.sort(np.argpartition(-np.abs(flat), limit - 1)[:limit])


def _difference(twin: MLP, X: Array, y: Array, index: int) -> tuple[float, float, bool]:
    """Return the derivative by one parameter, how far rounding may take it, and "is a kink"."""
    w = float(twin.params[index])
    h = STEP * 2.0 ** max(0, np.ceil(np.log2(max(abs(w), 1))))
    best, least = (0.0, 0.0, True), np.inf
    try:
        for _ in range(SHRINKS):
            points = []
            for k in POINTS:
                points.append(_look(twin, X, y, index, w + k * h))
                if not np.array_equal(points[0][1], points[-1][1]):
                    break
            else:
                value, change = _combine([losses for losses, _, _ in points], h)
                size = max(float(point[2]) for point in points)
                noise = 4 * float(np.finfo(np.float64).eps) * size / h
                excess = change - max(AGREEMENT / 10 * abs(value), noise)
                if excess < least:
                    best, least = (value, noise, False), excess
                if excess <= 0:
                    break
            h /= 4
    finally:
        twin.params[index] = w
    return best


def _combine(losses: list[Array], h: float) -> tuple[float, float]:
    """Return the derivative by the losses at `POINTS`, and how much the widest two changed it."""
    wide, middle, narrow = (
        float(np.mean(above - below))
        for below, above in zip(losses[::2], losses[1::2], strict=True)
    )
    coarse, fine = (8 * middle - wide) / (24 * h), (8 * narrow - middle) / (12 * h)
    return (16 * fine - coarse) / 15, abs(fine - coarse) / 15


def _look(twin: MLP, X: Array, y: Array, index: int, w: float) -> tuple[Array, Array, float]:
    """Return the losses of the rows, on which side of every kink they are, and their size."""
    twin.params[index] = w
    sums, _ = forward(twin, X)
    losses = row_losses(sums[-1], y, twin.loss_name, twin.loss_parameter)
    sides = [
        Z.ravel() > 0
        for Z, name in zip(sums, twin.activations, strict=False)
        if name in ("relu", "leaky_relu")
    ]
    if twin.loss_name in ("absolute_error", "quantile", "huber"):
        error = (sums[-1] - y).ravel()
        edge = twin.loss_parameter if twin.loss_name == "huber" else 0.0
        sides += [error > edge, error > -edge]
    side = np.concatenate(sides) if sides else np.empty(0, bool)
    largest = float(np.abs(sums[-1]).max())
    return losses, side, max(float(np.abs(losses).max()), largest, 1.0)
