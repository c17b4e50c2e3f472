"""Learning rates that change with the epoch.

A schedule is any callable from the epoch, counted from 0, to a learning rate; a plain number
stands for a constant one. These two are the usual ones.

Examples
--------
>>> import fastmlp
>>> model = fastmlp.MLP([64, 100, 10])
>>> trainer = fastmlp.SGD(model, learning_rate=fastmlp.schedules.cosine(0.1, epochs=30))
"""

import math
from collections.abc import Callable

from fastmlp.inputs import as_int, as_real

__all__ = ["Schedule", "constant", "cosine", "step"]

Schedule = Callable[[int], float]


def constant(learning_rate: float) -> Schedule:
    """Return the schedule that is always `learning_rate`."""
    rate = as_real(learning_rate, "learning_rate", 0)
    return lambda epoch: rate


def step(learning_rate: float, *, every: int, factor: float = 0.1) -> Schedule:
    """Return the schedule that multiplies the rate by `factor` every `every` epochs.

    Examples
    --------
    >>> from fastmlp import schedules
    >>> halve = schedules.step(0.4, every=2, factor=0.5)
    >>> [halve(epoch) for epoch in range(5)]
    [0.4, 0.4, 0.2, 0.2, 0.1]
    """
    rate = as_real(learning_rate, "learning_rate", 0)
    every = as_int(every, "every", 1)
    factor = as_real(factor, "factor", 0)

    def schedule(epoch: int) -> float:
        try:
            return rate * factor ** (epoch // every)
        except OverflowError:
            return math.inf

    return schedule


def cosine(learning_rate: float, *, epochs: int, minimum: float = 0.0) -> Schedule:
    """Return the schedule that falls from `learning_rate` to `minimum` along half a cosine.

    ``minimum + (learning_rate - minimum) (1 + cos(pi epoch / epochs)) / 2``, and `minimum` from
    `epochs` on (Loshchilov and Hutter 2017, without restarts).

    Examples
    --------
    >>> from fastmlp import schedules
    >>> fall = schedules.cosine(1.0, epochs=4)
    >>> [round(fall(epoch), 3) for epoch in range(6)]
    [1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """
    rate = as_real(learning_rate, "learning_rate", 0)
    epochs = as_int(epochs, "epochs", 1)
    lowest = as_real(minimum, "minimum", 0)

    def schedule(epoch: int) -> float:
        progress = min(epoch / epochs, 1.0)
        return lowest + (rate - lowest) * ((1 + math.cos(math.pi * progress)) / 2)

    return schedule
