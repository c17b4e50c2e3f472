"""The recorder of a training: a callback that keeps the parameters after every epoch."""

import contextlib
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.errors import DivergedError
from fastmlp.history import History
from fastmlp.inputs import as_int
from fastmlp.model import MLP
from fastmlp.optimizers import SGD

__all__ = ["Recorder", "rehearse"]

Array = NDArray[Any]

FLED = 1e6  # times its first value: a loss that will not come back


class Recorder:
    """Keeps a model's parameters before its training and after every epoch.

    It is a callback of `fit`. A recording costs a copy of the parameters an epoch, and having a
    callback at all makes the engine hand its own copy over; `seconds` and `n_bytes` say what the
    first came to. On 64-100-10 with batches of 32 both together took 1 % of an epoch (0.420 ms
    instead of 0.415). Without a recorder nothing is recorded and nothing is paid.

    Parameters
    ----------
    model : MLP
    limit : int
        Keep at most so many states: when they are full, every second is forgotten, and from then
        on every second, fourth, ... epoch is kept, and always the latest.

    Attributes
    ----------
    states : list of ndarray (n_parameters,)
    epochs : list of int
        When the states were: 0 is before the training.
    loss : list of float
        Of each state's epoch, as the history has it; NaN for epoch 0.
    seconds : float
    n_bytes : int

    Examples
    --------
    >>> import fastmlp
    >>> X, y = fastmlp.data.load_digits()
    >>> model = fastmlp.MLP([64, 10], seed=0)
    >>> recorder = fastmlp.explain.Recorder(model)
    >>> history = fastmlp.SGD(model).fit(X / 16, y, epochs=5, callback=recorder)
    >>> recorder.epochs, recorder.n_bytes
    ([0, 1, 2, 3, 4, 5], 15600)
    """

    def __init__(self, model: MLP, *, limit: int = 200) -> None:
        if not isinstance(model, MLP):
            raise TypeError(f"model is {type(model).__name__}, expected fastmlp.MLP")
        self.model = model
        self.limit = as_int(limit, "limit", 2)
        self.states = [model.params.copy()]
        self.epochs = [0]
        self.loss = [float("nan")]
        self.seconds = 0.0
        self._every = 1
        self._epoch = 0

    @property
    def n_bytes(self) -> int:
        """Memory of the states."""
        return sum(state.nbytes for state in self.states)

    def __call__(self, history: History) -> None:
        """Keep the parameters as they are now."""
        start = time.perf_counter()
        self._epoch += 1
        if self.epochs[-1] % self._every and len(self.epochs) > 1:
            del self.states[-1], self.epochs[-1], self.loss[-1]  # it was only the latest
        if len(self.epochs) == self.limit:
            self._every *= 2
            keep = [i for i, epoch in enumerate(self.epochs) if epoch % self._every == 0]
            self.states = [self.states[i] for i in keep]
            self.epochs = [self.epochs[i] for i in keep]
            self.loss = [self.loss[i] for i in keep]
        self.states.append(self.model.params.copy())
        self.epochs.append(self._epoch)
        self.loss.append(history.loss[-1])
        self.seconds += time.perf_counter() - start

    def __repr__(self) -> str:
        return (
            f"Recorder: {len(self.states)} states of {self.model.n_parameters:,} parameters, "
            f"{self.n_bytes / 1e3:,.1f} kB, {self.seconds * 1e3:.1f} ms"
        )

    def frames(self, limit: int) -> list[int]:
        """Return the places of at most `limit` states, evenly apart, first and last included."""
        n = len(self.states)
        places = np.linspace(0, n - 1, min(n, as_int(limit, "limit", 1))).round().astype(int)
        return list(dict.fromkeys(places.tolist()))


@np.errstate(over="ignore", invalid="ignore")
def rehearse(model: MLP, X: Array, y: Array, learning_rate: float, steps: int) -> Recorder:
    """Record what plain gradient descent on these rows would make of the model, which stays.

    It ends early where the loss grows beyond all bounds.
    """
    copy = model.copy()
    recorder = Recorder(copy)
    trainer = SGD(
        copy, learning_rate=learning_rate, momentum=0, batch_size=len(X), shuffle=False, n_threads=1
    )

    def step(history: History) -> bool:
        recorder(history)
        return history.loss[-1] > FLED * (history.loss[0] + 1)

    with contextlib.suppress(DivergedError):
        trainer.fit(X, y, epochs=steps, callback=step)
    if recorder.loss[-1] > FLED * (recorder.loss[min(1, len(recorder.loss) - 1)] + 1):
        del recorder.states[-1], recorder.epochs[-1], recorder.loss[-1]
    return recorder
