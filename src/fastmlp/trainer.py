"""SGD: epochs, batches, schedules, stopping and history."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp import engines
from fastmlp.errors import DivergedError
from fastmlp.inputs import as_int, as_real
from fastmlp.model import MLP
from fastmlp.schedules import Schedule

__all__ = ["SGD", "Callback", "History"]

Array = NDArray[Any]


@dataclass
class History:
    """What happened in a fit, one entry an epoch.

    Attributes
    ----------
    loss : list of float
        Mean training loss over the epoch, measured as it went, weight decay not included.
    validation_loss, validation_accuracy : list of float
        After the epoch; empty without validation data, the latter also where nothing is
        classified.
    learning_rate : list of float
    seconds : list of float
        Wall time of training in the epoch, validation and callbacks excluded.
    """

    loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def epochs(self) -> int:
        """Number of epochs completed."""
        return len(self.loss)


Callback = Callable[[History], bool | None]


class SGD:
    """Minibatch stochastic gradient descent with momentum.

    Every step takes the gradient dW of the mean loss over the batch and does ::

        v = momentum v - learning_rate (dW + weight_decay W)
        W = W + v

    or, with ``nesterov=True``, ``W = W + momentum v - learning_rate (dW + weight_decay W)``
    (Sutskever et al. 2013, as scikit-learn has it). Biases are not decayed.

    Parameters
    ----------
    model : MLP
        Trained in place.
    learning_rate : float or callable
        A callable maps the epoch, counted from 0 over all calls of `fit`, to the rate; see
        `fastmlp.schedules`.
    momentum : float in [0, 1)
    nesterov : bool
    weight_decay : float >= 0
    batch_size : int
        Rows of a step; the last step of an epoch takes what is left.
    shuffle : bool
        Whether every epoch takes the rows in a new random order.
    seed : int, numpy.random.Generator or None
        Of the shuffles.
    engine : {"auto", "blas"}
    n_threads : int or None
        None leaves the number to BLAS and whoever set it up.

    Attributes
    ----------
    history : History
        Of the latest fit, also of one that was stopped by an exception.

    Notes
    -----
    A second call of `fit` goes on where the first ended: momentum, schedule and shuffles
    continue, so that 5 epochs and 5 more are 10 epochs.

    Examples
    --------
    >>> import fastmlp
    >>> X, y = fastmlp.data.load_digits()
    >>> model = fastmlp.MLP([64, 100, 10], seed=0)
    >>> history = fastmlp.SGD(model, batch_size=32).fit(X / 16, y, epochs=10)
    >>> history.loss[-1] < 0.1 < history.loss[0]
    True
    """

    def __init__(
        self,
        model: MLP,
        *,
        learning_rate: float | Schedule = 0.1,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        batch_size: int = 128,
        shuffle: bool = True,
        seed: int | np.random.Generator | None = 0,
        engine: str = "auto",
        n_threads: int | None = None,
    ) -> None:
        if not isinstance(model, MLP):
            raise TypeError(f"model is {type(model).__name__}, expected fastmlp.MLP")
        self.model = model
        if not callable(learning_rate):
            learning_rate = as_real(learning_rate, "learning_rate", 0)
        self.learning_rate = learning_rate
        self.momentum = as_real(momentum, "momentum", 0, below=1)
        self.nesterov = bool(nesterov)
        self.weight_decay = as_real(weight_decay, "weight_decay", 0)
        self.batch_size = as_int(batch_size, "batch_size", 1)
        self.shuffle = bool(shuffle)
        self.engine = engines.resolve(engine)
        self.n_threads = None if n_threads is None else as_int(n_threads, "n_threads", 1)
        self.history = History()
        self._rng = np.random.default_rng(seed)
        self._velocity = np.zeros_like(model.params)
        self._epoch = 0

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        epochs: int = 10,
        validation_data: tuple[ArrayLike, ArrayLike] | None = None,
        progress: bool = False,
        callback: Callback | None = None,
    ) -> History:
        """Train the model.

        Parameters
        ----------
        X : array-like (n_samples, n_in), finite
        y : array-like
            Class numbers (n_samples,), or values (n_samples, n_out).
        epochs : int
            Passes over the data.
        validation_data : (X, y) or None
            Evaluated after every epoch.
        progress : bool
            Show a bar with the losses on standard error.
        callback : callable or None
            Called with the history after every epoch; if it returns True, training ends.

        Returns
        -------
        History

        Raises
        ------
        DivergedError
            The loss is no longer finite. The model keeps its last finite parameters: those
            before the step that failed or, where that step's parameters had already left the
            finite numbers, those at the start of the epoch.
        KeyboardInterrupt
            After Ctrl-C; the model is at a completed step.
        """
        epochs = as_int(epochs, "epochs", 0)
        features, targets = self.model.as_data(X, y)
        if validation_data is not None:
            if not isinstance(validation_data, tuple | list) or len(validation_data) != 2:
                raise TypeError("validation_data is not a pair (X, y)")
            validation_data = self.model.as_data(*validation_data, suffix=" of validation_data")
        if callback is not None and not callable(callback):
            raise TypeError(f"callback is {callback!r}, expected a callable or None")

        n = len(features)
        batch_size = min(self.batch_size, n)
        core = self.model.core(max_rows=batch_size, engine=self.engine)
        gradients = np.empty_like(self.model.params)
        before = _Snapshot(self.model.params, self._velocity)
        history = self.history = History()
        with engines.blas_threads(self.n_threads), _bar(epochs, progress) as bar:
            for _ in range(epochs):
                order = self._rng.permutation(n) if self.shuffle else np.arange(n)
                rate = self._rate()
                before.take()
                start = time.perf_counter()
                total, steps, finite = core.epoch(
                    self.model.params,
                    self._velocity,
                    gradients,
                    features,
                    targets,
                    order.astype(np.intp, copy=False),
                    batch_size,
                    rate,
                    self.momentum,
                    self.nesterov,
                    self.weight_decay,
                )
                seconds = time.perf_counter() - start
                self._check_finite(finite, steps, before)
                self._epoch += 1

                history.loss.append(total / n)
                history.learning_rate.append(rate)
                history.seconds.append(seconds)
                if validation_data is not None:
                    loss, accuracy = self.model.evaluate(*validation_data)
                    history.validation_loss.append(loss)
                    if accuracy is not None:
                        history.validation_accuracy.append(accuracy)
                bar(history)
                if callback is not None and callback(history):
                    break
        return history

    def _rate(self) -> float:
        if not callable(self.learning_rate):
            return self.learning_rate
        return as_real(self.learning_rate(self._epoch), f"learning_rate({self._epoch})", 0)

    def _check_finite(self, finite: bool, steps: int, before: "_Snapshot") -> None:
        usable = bool(np.isfinite(self.model.params).all())
        if finite and usable:
            return
        if not usable:
            before.restore()
        raise DivergedError(
            self._epoch + 1,
            steps + 1 if not finite else steps,
            "the model keeps its last finite parameters; try a smaller learning_rate, "
            "or data scaled to mean 0 and variance 1",
        )


class _Snapshot:
    """Arrays as they were when last taken."""

    def __init__(self, *arrays: Array) -> None:
        self._pairs = [(array, np.empty_like(array)) for array in arrays]

    def take(self) -> None:
        for array, copy in self._pairs:
            np.copyto(copy, array)

    def restore(self) -> None:
        for array, copy in self._pairs:
            np.copyto(array, copy)


@contextlib.contextmanager
def _bar(epochs: int, progress: bool) -> Iterator[Callable[[History], None]]:
    """Yield a function that shows the latest entries of a history on a progress bar."""
    if not progress:
        yield lambda history: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=epochs, unit="epoch") as bar:

        def show(history: History) -> None:
            latest = {"loss": f"{history.loss[-1]:.4f}"}
            if history.validation_loss:
                latest["validation loss"] = f"{history.validation_loss[-1]:.4f}"
            if history.validation_accuracy:
                latest["accuracy"] = f"{history.validation_accuracy[-1]:.4f}"
            bar.set_postfix(latest, refresh=False)
            bar.update()

        yield show
