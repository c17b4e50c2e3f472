"""Trainer: epochs, batches, schedules, stopping and history."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp import atomic
from fastmlp import checkpoint as checkpoints
from fastmlp._core import SparseRows, draw, shuffled
from fastmlp.errors import cut
from fastmlp.history import Callback, History
from fastmlp.inputs import Inputs, as_generator, as_int, as_real, as_weights
from fastmlp.model import MLP
from fastmlp.schedules import Schedule
from fastmlp.session import START, Session
from fastmlp.turn import new_turn

__all__ = ["Trainer"]

Array = NDArray[Any]

MOST_EPOCHS = 1 << 62  # which leaves room to count on


class Trainer:
    """What `SGD` and `Adam` share: the order in which a model sees its data.

    Attributes
    ----------
    history : History
        Of the latest fit, also of one that was stopped by an exception, or of the one resumed.
    engine : str
        The engine that trains, "fused" or "blas".
    """

    _optimizer = ""

    def __init__(
        self,
        model: MLP,
        *,
        learning_rate: float | Schedule,
        weight_decay: float,
        max_norm: float | None,
        dropout: float,
        batch_size: int,
        shuffle: bool,
        seed: "int | np.random.Generator | None",
        engine: str,
        n_threads: int | None,
    ) -> None:
        if not isinstance(model, MLP):
            raise TypeError(f"model is {type(model).__name__}, expected fastmlp.MLP")
        self.model = model
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.max_norm, self.batch_size, self.shuffle = max_norm, batch_size, shuffle
        self._check()
        self.history = History()
        self._resumed = False  # the next fit goes on with the history
        self._interrupted: checkpoints.Interrupted | None = None  # and in the middle of an epoch
        self._kept: dict[str, Array] = {}  # of the command line's, in checkpoints too
        self._checkpoint: checkpoints.Place | None = None
        self._rng = as_generator(seed)
        # Epochs and steps done before, and the seed of the order that was drawn then.
        self._drawn = (-1, -1, np.zeros(1, np.uint64))
        dropout = as_real(dropout, "dropout", 0, below=1)
        self._session = Session(
            model,
            self._optimizer,
            engine=engine,
            n_threads=None if n_threads is None else as_int(n_threads, "n_threads", 1),
            dropout=dropout,
            seed=int(self._rng.integers(2**64, dtype=np.uint64)) if dropout else 0,
        )
        self._turn = new_turn()

    @property
    def engine(self) -> str:
        """The engine that trains."""
        return self._session.engine

    @property
    def n_threads(self) -> int | None:
        """At most so many threads."""
        return self._session.n_threads

    def fit(
        self,
        X: Inputs,
        y: ArrayLike,
        *,
        epochs: int = 10,
        sample_weight: ArrayLike | None = None,
        validation_data: tuple[Inputs, ArrayLike] | None = None,
        progress: bool = False,
        callback: Callback | None = None,
    ) -> History:
        """Train the model.

        Parameters
        ----------
        X : array-like or sparse matrix (n_samples, n_in), finite
        y : array-like
            Class numbers (n_samples,), or values (n_samples, n_out).
        epochs : int
            Passes over the data.
        sample_weight : array-like (n_samples,) or None
            The loss of a batch is the mean so weighted.
        validation_data : (X, y) or None
            Evaluated after every epoch.
        progress : bool
            Show a bar with the losses on standard error.
        callback : callable or None
            Called with the history after every epoch; if it returns True, training ends. The
            model then holds the parameters of that epoch, and may be changed.

        Returns
        -------
        History

        Raises
        ------
        DivergedError
            A step met or made numbers that are not finite. The model keeps its last finite
            parameters: those before that step.
        KeyboardInterrupt
            After Ctrl-C; the model is at a completed step.
        RuntimeError
            A fit of this trainer is going on, in another thread or around the callback, or one of
            the model in another thread.
        """
        epochs = as_int(epochs, "epochs", 0)
        if epochs >= MOST_EPOCHS:
            raise ValueError(f"epochs is {cut(str(epochs))}, expected below 2**62")
        self._check()
        features, targets = self.model.as_data(X, y)
        weights = None
        if sample_weight is not None:
            weights = as_weights(sample_weight, len(features), self.model.dtype)
        if validation_data is not None:
            if not isinstance(validation_data, tuple | list) or len(validation_data) != 2:
                raise TypeError("validation_data is not a pair (X, y)")
            validation_data = self.model.as_data(*validation_data, suffix=" of validation_data")
        if callback is not None and not callable(callback):
            raise TypeError(f"callback is {callback!r}, expected a callable or None")

        # A callback may train the model in another way, but not in another thread.
        with (
            self._turn.of_a_fit("this trainer"),
            self.model._turn.of_a_fit("the model of this trainer", nested=True),
        ):
            return self._fit(
                features, targets, epochs, weights, validation_data, progress, callback
            )

    def checkpoint(self, path: str | os.PathLike[str] | None, *, every: int = 1) -> None:
        """Write every fit from now on to a file, for `resume` to go on with.

        Parameters
        ----------
        path : path or None
            Replaced whole or not at all, after the epoch and its callback; None ends it. Copies of
            the trainer do not write there.
        every : int
            Epochs, counted over all calls of `fit`, from one writing to the next. The end of a
            fit that trains is written in any case, and so is the step at which Ctrl-C ends one;
            not that of another exception.

        Raises
        ------
        OSError
            Nothing can be written there.

        Examples
        --------
        Three epochs, and in another process, perhaps, what is left of ten:

        >>> import fastmlp, tempfile, os
        >>> path = os.path.join(tempfile.mkdtemp(), "run.ckpt")
        >>> X, y = fastmlp.data.load_digits()
        >>> trainer = fastmlp.SGD(fastmlp.MLP([64, 30, 10]))
        >>> trainer.checkpoint(path)
        >>> history = trainer.fit(X / 16, y, epochs=3)
        >>> again = fastmlp.SGD.resume(path)
        >>> again.fit(X / 16, y, epochs=10 - again.history.epochs).epochs
        10
        >>> history = trainer.fit(X / 16, y, epochs=7)     # the same, never interrupted
        >>> (again.model.params == trainer.model.params).all()
        np.True_
        """
        every = as_int(every, "every", 1)
        place = None if path is None else checkpoints.Place(atomic.check_writable(path), every)
        self._checkpoint = place

    @classmethod
    def resume(
        cls,
        path: str | os.PathLike[str],
        *,
        learning_rate: float | Schedule | None = None,
        engine: str | None = None,
        n_threads: int | None = None,
    ) -> Self:
        """Return the trainer, with its `model`, as `checkpoint` has written it.

        Its next `fit`, given the same data, does what the interrupted one would have done, to the
        bit, and goes on in the same `history`. An epoch in the middle of which Ctrl-C has ended
        that is the first of its epochs; its `history.seconds` are those after. It writes no
        checkpoints of its own unless told to. What a callback remembers by itself is not in the
        file.

        Parameters
        ----------
        path : path
        learning_rate : float, callable or None
            Instead of the one in the file. A schedule cannot be written to a file, so that it
            has to be given again.
        engine, n_threads
            Instead of those in the file; another engine gives slightly other numbers.

        Raises
        ------
        FileNotFoundError
        FileFormatError
            The file is no checkpoint of this optimizer, or is damaged.
        """
        return checkpoints.resume(
            cls, path, learning_rate=learning_rate, engine=engine, n_threads=n_threads
        )

    def _fit(
        self,
        features: Array | SparseRows,
        targets: Array,
        epochs: int,
        weights: Array | None,
        validation_data: tuple[Array | SparseRows, Array] | None,
        progress: bool,
        callback: Callback | None,
    ) -> History:
        session, n = self._session, len(features)
        place = self._checkpoint
        begun = self._interrupted if self._resumed else None
        if begun is not None and begun.n_samples != n:
            raise ValueError(
                f"X has {n} rows, but the run was interrupted in an epoch over {begun.n_samples}: "
                "give it the same data"
            )
        if place is not None:
            place.check(self)
        history = self.history = self.history if self._resumed else History()
        session.store()  # what an earlier fit had no memory left to bring back
        session.load()
        session.forget_position()
        before = (session.epochs, session.step)
        books = checkpoints.Books(self, n, begun)
        with _bar(epochs, progress) as bar:
            try:
                for left in reversed(range(epochs)):
                    order = self._order(n)
                    rate = self._rate()
                    start = time.perf_counter()
                    loss, _penalty = session.epoch(
                        features,
                        targets,
                        order,
                        self.batch_size,
                        sample_weight=weights,
                        learning_rate=rate,
                        weight_decay=self.weight_decay,
                        max_norm=self.max_norm,
                        begun=START if begun is None else begun.position,
                        **self._rule(),
                    )
                    begun = None
                    history.loss.append(loss)
                    history.learning_rate.append(rate)
                    history.seconds.append(time.perf_counter() - start)
                    if validation_data is not None:
                        session.store()
                        loss, accuracy = self.model.evaluate(
                            *validation_data, n_threads=self.n_threads
                        )
                        history.validation_loss.append(loss)
                        if accuracy is not None:
                            history.validation_accuracy.append(accuracy)
                    bar(history)
                    stop = None
                    if callback is not None:
                        session.store()
                        if place is not None:
                            books.hold(self)
                        with self._turn.shared():
                            stop = callback(history)
                        self._check()
                        session.load()
                    if place is not None:
                        books = checkpoints.Books(self, n)
                        if stop or not left or session.epochs % place.every == 0:
                            place.save(self, books)
                    if stop:
                        break
            except KeyboardInterrupt:
                if place is not None:
                    place.save(self, books)
                raise
            finally:
                if (session.epochs, session.step) != before:  # else it is still to go on from there
                    self._resumed, self._interrupted = False, None
                try:
                    session.store()
                except KeyboardInterrupt:  # another one, before anything was brought back
                    session.store()
                    raise
        return history

    def threads(self) -> contextlib.AbstractContextManager[int]:
        """Hold the engine to the threads this trainer may use, and yield their number."""
        return self._session.threads()

    def _check(self) -> None:
        """Raise TypeError or ValueError where an option, which may be set, is not valid."""
        if not callable(self.learning_rate):
            self.learning_rate = as_real(self.learning_rate, "learning_rate", 0)
        self.weight_decay = as_real(self.weight_decay, "weight_decay", 0)
        if self.max_norm is not None:
            self.max_norm = as_real(self.max_norm, "max_norm", 0)
        self.batch_size = as_int(self.batch_size, "batch_size", 1)
        self.shuffle = bool(self.shuffle)

    def _rule(self) -> dict[str, Any]:
        """Return the options of `Session.epoch` that belong to this optimizer."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        self._turn.look("this trainer")
        self._session.store()  # before the model is looked at
        state = {name: value for name, value in vars(self).items() if name != "_turn"}
        return {**state, "_checkpoint": None}  # two trainers, one file: each would lose the other's

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._turn = new_turn()

    def _order(self, n: int) -> NDArray[np.intp]:
        """Return the order of the rows in the next epoch."""
        if not self.shuffle:
            return np.arange(n, dtype=np.intp)
        # An epoch that ended before its first step, for want of memory perhaps, is done again.
        done = (self._session.epochs, self._session.step)
        if self._drawn[:2] != done:
            # All that takes memory comes first, so that no number is drawn and lost.
            drawn = (*done, np.empty(1, np.uint64))
            draw(self._rng.bit_generator, drawn[2])
            self._drawn = drawn
        return shuffled(n, int(self._drawn[2][0]))

    def _rate(self) -> float:
        if not callable(self.learning_rate):
            return self.learning_rate
        epoch = self._session.epochs
        return as_real(self.learning_rate(epoch), f"learning_rate({epoch})", 0)


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
