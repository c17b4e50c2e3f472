"""Gradient descent on any function of a few variables."""

import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp.inputs import as_int, as_real

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Descent", "descend"]

Array = NDArray[Any]
Function = Callable[[Array], float]

# The step of a central difference whose two errors, h² and roundoff / h, are alike.
STEP = float(np.finfo(np.float64).eps) ** (1 / 3)


@dataclass(frozen=True)
class Descent:
    """Where a descent went.

    Attributes
    ----------
    function : callable
    path : ndarray of float64 (steps + 1, n)
        Every point, the start first.
    values : ndarray (steps + 1,)
        The function there.
    gradients : ndarray (steps + 1, n)
        Its partial derivatives there, by central differences.
    """

    function: Function
    path: Array
    values: Array
    gradients: Array

    def text(self) -> str:
        """Return the steps as a table."""
        n = self.path.shape[1]
        wide = 12 * n
        lines = [f"{'step':>4}  {'point':>{wide}}  {'f':>12}  {'gradient':>{wide}}"]
        for step in _shown(len(self.path)):
            point, gradient = (
                "".join(f"{value:12.6g}" for value in row)
                for row in (self.path[step], self.gradients[step])
            )
            lines.append(f"{step:4d}  {point}  {self.values[step]:12.6g}  {gradient}")
        return "\n".join(lines)

    __str__ = text

    def plot(self) -> "Figure":
        """Draw the path: over the curve of one variable, the heights of two, else by the steps."""
        from fastmlp.explain.plot import descent

        return descent(self)


def descend(f: Function, start: ArrayLike, learning_rate: float = 0.1, steps: int = 100) -> Descent:
    """Go down a function: find the direction of steepest descent, take a small step, repeat.

    Every step is ``x = x - learning_rate · gradient``, and the gradient the vector of partial
    derivatives: change one variable a little up and down, hold the rest.

    Parameters
    ----------
    f : callable
        Takes a float64 array (n,), returns a number.
    start : array-like (n,), or one number
    learning_rate : float >= 0
    steps : int

    Returns
    -------
    Descent

    Raises
    ------
    FloatingPointError
        The function left the finite numbers.
    TypeError
        It returned something that is no real number.

    Examples
    --------
    >>> import fastmlp
    >>> way = fastmlp.explain.descend(lambda p: p[0] ** 2 + 3 * p[1] ** 2, [2, 1], 0.1, 50)
    >>> way.values[0], way.gradients[0].round(6)
    (np.float64(7.0), array([4., 6.]))
    >>> bool(way.values[-1] < 1e-8)
    True
    """
    if not callable(f):
        raise TypeError(f"f is {f!r}, expected a function of an array")
    try:
        point = np.atleast_1d(np.asarray(start, np.float64)).copy()
    except (TypeError, ValueError):
        raise TypeError(f"start is {start!r}, expected one number a variable") from None
    if point.ndim != 1 or not point.size or not np.isfinite(point).all():
        raise ValueError(f"start is {start!r}, expected finite numbers, one a variable")
    learning_rate = as_real(learning_rate, "learning_rate", 0)
    steps = as_int(steps, "steps", 0)
    path, values, gradients = [], [], []
    for step in range(steps + 1):
        values.append(_value(f, point, step))
        gradient = np.array([_partial(f, point, i, step) for i in range(len(point))])
        path.append(point)
        gradients.append(gradient)
        point = point - learning_rate * gradient
    return Descent(f, np.array(path), np.array(values), np.array(gradients))


def _partial(f: Function, point: Array, i: int, step: int) -> float:
    """Return the partial derivative by variable i: the others stay where they are."""
    above, below = point.copy(), point.copy()
    h = STEP * max(1.0, abs(point[i]))
    above[i] += h
    below[i] -= h
    return (_value(f, above, step) - _value(f, below, step)) / float(above[i] - below[i])


def _value(f: Function, point: Array, step: int) -> float:
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        try:
            returned = f(point.copy())
            value = np.asarray(returned)
            if value.dtype.kind not in "biuf" and not isinstance(returned, numbers.Real):
                raise TypeError(f"f returned {returned!r}, expected one real number")
            value = value.astype(np.float64)
        except OverflowError:
            value = np.asarray(np.inf)
    if value.size != 1:
        raise ValueError(f"f returned an array of shape {value.shape}, expected one number")
    if not np.isfinite(value).all():
        at = ", ".join(f"{x:.6g}" for x in point)
        what = (
            f"in step {step}, at ({at}); try a smaller learning rate"
            if step
            else f"at ({at}); start where f is a finite number, to all sides"
        )
        raise FloatingPointError(f"f is {value.item()} {what}")
    return float(value.item())


def _shown(n: int) -> list[int]:
    """Return which of n steps a table shows: the first ones, some between, the last."""
    if n <= 12:
        return list(range(n))
    return sorted({*range(6), *np.linspace(6, n - 1, 6).round().astype(int).tolist()})
