"""Session: a network in training under one optimizer, epoch by epoch."""

import contextlib
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import engines
from fastmlp._core import Core, SparseRows
from fastmlp.errors import DivergedError
from fastmlp.inputs import sparse_rows
from fastmlp.model import MLP
from fastmlp.turn import new_turn

__all__ = ["Position", "Session"]

Array = NDArray[Any]

# How many moments of the gradient an optimizer keeps.
MOMENTS = {"sgd": 1, "adam": 2}
ADVICE = (
    "the model keeps its last finite parameters; try a smaller learning rate, "
    "or data scaled to mean 0 and variance 1"
)


class Position(NamedTuple):
    """A place in an epoch: rows and steps done, and loss and penalty summed over these rows."""

    rows: int = 0
    steps: int = 0
    loss: float = 0.0
    penalty: float = 0.0


START = Position()


class Session:
    """A network in training under one optimizer.

    The engine trains a copy of the parameters in a layout of its own. `epoch` goes on with that
    copy, `store` brings it back into `model.params` and `moments`, `load` has it made anew. Who
    calls `epoch` again without looking at the model in between pays for neither.

    Threads take turns. But `store` does not wait for an epoch in another thread if the model is
    that of the epoch before. It is brought up to date when that epoch is over, and from then on
    after every epoch, so that who predicts beside the training never waits.

    Arrays are taken as they stand: C-contiguous, of the model's dtype, finite, as `MLP.as_data`
    returns them. `X` may also be a SciPy CSR matrix or array.

    Parameters
    ----------
    model : MLP
    optimizer : {"sgd", "adam"}
    engine, n_threads
        As for `SGD`.
    dropout : float in [0, 1)
        Share of the outputs of hidden layers that a step drops; those left grow by
        1 / (1 - dropout) (Srivastava et al. 2014). Which ones depends on `seed`, the number of the
        step, and their place, not on threads or instruction sets.
    seed : int
        Of the dropout.

    Attributes
    ----------
    moments : list of ndarray
        Like `model.params`: the velocity under SGD, mean and mean square of the gradient under
        Adam.
    step, epochs : int
        How many were completed.
    """

    def __init__(
        self,
        model: MLP,
        optimizer: str,
        *,
        engine: str = "auto",
        n_threads: int | None = None,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.engine = engines.resolve(engine)
        self.n_threads = n_threads
        self.dropout = dropout
        self.seed = seed
        self.moments = [
            np.zeros(model.params.shape, model.params.dtype) for _ in range(MOMENTS[optimizer])
        ]
        self.epochs = 0
        self._step = 0  # of the model; a core counts for itself
        self._core: Core | None = None
        self._max_rows = 0
        self._holds = False  # the core holds parameters to go on with
        self._newer = False  # and they are newer than the model's
        self._done = (0, 0)  # steps and epochs before the latest epoch
        self._workers: dict[str, Any] = {}  # how many threads, as the core wants it
        self._take_turns()

    def _take_turns(self) -> None:
        self._turn = new_turn()  # of the thread that uses the core
        self._behind = False  # was the model, when the core began to compute
        self._watched = False  # by another thread: store after every epoch

    def _recover(self) -> None:
        """Forget a core in the middle of an epoch whose thread a fork has left behind."""
        if self._turn.abandoned:
            self._turn.abandoned = False
            self._core, self._max_rows, self._holds, self._newer = None, 0, False, False

    @property
    def step(self) -> int:
        """How many steps were completed."""
        return self._step if self._core is None else self._core.t

    @step.setter
    def step(self, step: int) -> None:
        self._step = step
        if self._core is not None:
            self._core.t = step

    def position(self, epoch: int) -> Position | None:
        """Return how far it came in an epoch, counted from 0, or None if it has not begun it."""
        if self._core is None or self._core.number != epoch:
            return None
        return Position(*self._core.progress)

    def epoch(
        self,
        X: Any,
        y: Array,
        order: NDArray[np.intp],
        batch_size: int,
        *,
        learning_rate: float,
        sample_weight: Array | None = None,
        l2: float = 0.0,
        weight_decay: float = 0.0,
        decoupled: bool = True,
        momentum: float = 0.0,
        nesterov: bool = False,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        max_norm: float | None = None,
        begun: Position = START,
        whole: bool = False,
    ) -> tuple[float, float]:
        """Train on the rows of X in `order`, batch by batch, the last one perhaps short.

        Parameters
        ----------
        X : ndarray, CSR or SparseRows (n, n_in)
        y : ndarray (n,) or (n, n_out)
        order : ndarray of intp
        batch_size : int
        sample_weight : ndarray (n,) or None
            The loss of a batch is the mean so weighted. A batch without any weight is passed over.
        l2 : float
            Adds ½ l2 Σ W², divided by the sum of the batch's sample weights, to its loss.
        weight_decay, decoupled
            Adds weight_decay W to the gradients; decoupled, W shrinks by
            learning_rate · weight_decay · W beside the step. Biases are decayed by neither, nor by
            `l2`.
        momentum, nesterov, beta_1, beta_2, epsilon
            As for `SGD` and `Adam`.
        max_norm : float or None
            Gradients whose norm over all parameters exceeds it are scaled down to it.
        begun : Position
            Where an interrupted epoch over these rows goes on.
        whole : bool
            Whether an epoch that diverges, or has no memory left to say what it did, is taken back
            whole, before any other thread can see some of it.

        Returns
        -------
        loss, penalty : float
            The loss of the batches, and what `l2` adds to it, as means over rows.

        Raises
        ------
        DivergedError
            A step met or made numbers that are not finite; the parameters are those before it.
        """
        n = len(order)
        batch_size, rows = min(batch_size, n), sparse_rows(X)
        options = {
            "learning_rate": learning_rate,
            "l2": l2,
            "weight_decay": 0.0 if decoupled else weight_decay,
            "decoupled_decay": weight_decay if decoupled else 0.0,
            "max_norm": np.inf if max_norm is None else max_norm,
            "momentum": momentum,
            "nesterov": nesterov,
            "beta1": beta_1,
            "beta2": beta_2,
            "epsilon": epsilon,
            "dropout_key": self.seed,
        }
        with self._turn:
            self._recover()
            self._behind = self._newer
            with self._turn.computing("the Session"):
                core = self._ready(batch_size, isinstance(rows, SparseRows))
                self._done = (self.step, self.epochs)
                self._newer = True
                try:
                    with self.threads():
                        rest = order[begun.rows :] if begun.rows else order
                        loss, penalty = self._train(
                            core, rows, y, sample_weight, rest, batch_size, options, begun
                        )
                    means = loss / n, penalty / n
                    self.epochs += 1
                except (DivergedError, MemoryError):
                    if whole and core.t > self._done[0]:
                        self._undo()
                    raise
            if self._watched:
                self._store()
        return means

    def _train(
        self,
        core: Core,
        X: "Array | SparseRows",
        y: Array,
        sample_weight: Array | None,
        order: NDArray[np.intp],
        batch_size: int,
        options: dict[str, Any],
        begun: tuple[int, int, float, float],
    ) -> tuple[float, float]:
        """Do the steps of an epoch, or what is left of it; return its loss and penalty, summed."""
        loss, penalty, _, completed = core.epoch(
            X,
            y,
            order,
            batch_size,
            sample_weight=sample_weight,
            t=self.step,
            number=self.epochs,
            begun=begun,
            **self._workers,
            **options,
        )
        if not completed:  # the step after these, or the last of them if the sum overflowed
            done = Position(*core.progress)
            step = done.steps + math.isfinite(done.loss + done.penalty)
            raise DivergedError(self.epochs + 1, step, ADVICE)
        return loss, penalty

    def store(self) -> None:
        """Bring `model.params` and `moments` up to date with what was trained."""
        with self._turn.attempt() as taken:
            if taken:
                self._recover()
            if taken and not self._turn.computes:
                self._store()
                return
        if self._turn.computes:  # in another thread, or below the handler of a signal
            self._watched = True
            if taken or not self._behind:
                return
        with self._turn:
            self._recover()
            self._store()

    def _store(self) -> None:
        if self._newer and self._core is not None:
            self._core.store(self.model.params, *self.moments)
            self._step = self._core.t
        self._newer = False

    def load(self) -> None:
        """Have the next epoch begin with `model.params` and `moments` as they are then.

        How many threads there are to use is found out anew as well.
        """
        if self._turn.computes:  # else there is no need to wait, which may take memory
            with self._turn:
                self._refuse_in_an_epoch()
        self._holds = self._newer = False

    def forget_position(self) -> None:
        """Have `position` know nothing of the epochs so far."""
        if self._core is not None:
            self._core.number = -1

    def _refuse_in_an_epoch(self) -> None:
        if self._turn.computes:
            raise RuntimeError("the Session is in the middle of an epoch, of this very thread")

    def _undo(self) -> None:
        """Take back the latest epoch."""
        if self._core is not None:
            self._core.undo()
            self.step, self.epochs = self._done
            self._newer = True  # other than the model's, which may have been stored since

    def gradients(
        self, X: Any, y: Array, sample_weight: Array | None = None
    ) -> tuple[float, Array]:
        """Return the mean loss over the rows of X, weighted, and its derivatives by `model.params`.

        Returns
        -------
        loss : float
        gradients : ndarray like `model.params`, NaN where the loss is not finite
        """
        with self._turn:
            self._recover()
            self._behind = self._newer
            with self._turn.computing("the Session"):
                self._store()  # the core is about to compute with the model's
                return self._gradients(X, y, sample_weight)

    def _gradients(self, X: Any, y: Array, sample_weight: Array | None) -> tuple[float, Array]:
        rows, gradients = sparse_rows(X), np.zeros_like(self.model.params)
        core = self._ready(len(rows), isinstance(rows, SparseRows), load=False)
        self._holds = False
        with self.threads():
            loss = core.gradients(
                gradients, rows, y, self.model.params, sample_weight, **self._workers
            )
        if not np.isfinite(loss):
            gradients.fill(np.nan)
        return loss, gradients

    def threads(self) -> contextlib.AbstractContextManager[int]:
        """Hold the engine to the threads it may use; the context is their number."""
        if self.engine == "blas":
            return engines.blas_threads(self.n_threads)
        n_threads = self._workers.get("n_threads") or engines.fused_threads(self.n_threads)
        return contextlib.nullcontext(n_threads)

    def _ready(self, max_rows: int, is_sparse: bool = False, load: bool = True) -> Core:
        """Return a core that takes batches of `max_rows`, with the parameters to go on with."""
        if self._core is None or self._max_rows < max_rows or self._core.is_sparse != is_sparse:
            self._store()
            self._step = self.step
            self._core, self._holds = None, False  # give its memory back first
            self._core = self.model.core(
                max_rows=max_rows,
                engine=self.engine,
                optimizer=self.optimizer,
                dropout=self.dropout,
                is_sparse=is_sparse,
                n_threads=self._usable_threads(),
            )
            self._core.t = self._step
            self._max_rows = max_rows
        if load and not self._holds:
            self._core.load(self.model.params, *self.moments)
            self._holds = True
            self._workers = {}
        if not self._workers:
            n_threads = self._usable_threads()
            self._workers = {
                "n_threads": n_threads,
                "max_workers": n_threads - 1,
                "any_size": engines.oversubscribed(),
            }
        return self._core

    def _usable_threads(self) -> int:
        return 1 if self.engine == "blas" else engines.fused_threads(self.n_threads)

    def __getstate__(self) -> dict[str, Any]:
        with self._turn:  # between two epochs, but for the handler of a signal
            self.store()
            step = self._step if self._turn.computes else self.step
            state = {**vars(self), "moments": [moment.copy() for moment in self.moments]}
        for name in ("_turn", "_behind", "_watched"):
            del state[name]
        nothing: dict[str, Any] = {"_core": None, "_holds": False, "_max_rows": 0, "_workers": {}}
        return {**state, **nothing, "_newer": False, "_step": step}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._take_turns()
