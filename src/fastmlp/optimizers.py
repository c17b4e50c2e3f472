"""SGD and Adam: what they do with the gradient of a batch."""

from typing import Any

import numpy as np

from fastmlp.inputs import as_real
from fastmlp.model import MLP
from fastmlp.schedules import Schedule
from fastmlp.trainer import Trainer

__all__ = ["SGD", "Adam"]


class SGD(Trainer):
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
    max_norm : float or None
        Gradients whose norm, over all parameters and with weight decay, exceeds it are scaled down
        to it.
    dropout : float in [0, 1)
        Share of the outputs of hidden layers that a step drops; those left grow by
        1 / (1 - dropout) (Srivastava et al. 2014).
    batch_size : int
        Rows of a step; the last step of an epoch takes what is left.
    shuffle : bool
        Whether every epoch takes the rows in a new random order.
    seed : int, numpy.random.Generator or None
        Of the shuffles and of dropout.
    engine : {"auto", "fused", "blas"}
        The fused engine gives the same bits for any number of threads and any instruction set.
    n_threads : int or None
        At most so many threads, and never more than this process may use. None takes one for
        every core of these, where the step is large enough to gain from it; the BLAS engine
        leaves the number to BLAS. Predictions for validation data take as many.

    Attributes
    ----------
    history : History
        Of the latest fit, also of one that was stopped by an exception.

    Notes
    -----
    A second call of `fit` goes on where the first ended: momentum, schedule and shuffles
    continue, so that 5 epochs and 5 more are 10 epochs. `checkpoint` and `resume` do the same
    across processes.

    Examples
    --------
    >>> import fastmlp
    >>> X, y = fastmlp.data.load_digits()
    >>> model = fastmlp.MLP([64, 100, 10], seed=0)
    >>> history = fastmlp.SGD(model, batch_size=32).fit(X / 16, y, epochs=10)
    >>> history.loss[-1] < 0.1 < history.loss[0]
    True
    """

    _optimizer = "sgd"

    def __init__(
        self,
        model: MLP,
        *,
        learning_rate: float | Schedule = 0.1,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        max_norm: float | None = None,
        dropout: float = 0.0,
        batch_size: int = 128,
        shuffle: bool = True,
        seed: "int | np.random.Generator | None" = 0,
        engine: str = "auto",
        n_threads: int | None = None,
    ) -> None:
        self.momentum, self.nesterov = momentum, nesterov
        super().__init__(
            model,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            max_norm=max_norm,
            dropout=dropout,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            engine=engine,
            n_threads=n_threads,
        )

    def _check(self) -> None:
        super()._check()
        self.momentum = as_real(self.momentum, "momentum", 0, below=1)
        self.nesterov = bool(self.nesterov)

    def _rule(self) -> dict[str, Any]:
        return {"momentum": self.momentum, "nesterov": self.nesterov, "decoupled": False}


class Adam(Trainer):
    """Minibatch descent with steps scaled by the moments of the gradient.

    Every step t = 1, 2, ... takes the gradient dW of the mean loss over the batch and does ::

        g = dW + weight_decay W
        m = beta_1 m + (1 - beta_1) g
        v = beta_2 v + (1 - beta_2) g²
        W = W - learning_rate sqrt(1 - beta_2^t) / (1 - beta_1^t) m / (sqrt(v) + epsilon)

    (Kingma and Ba 2015, section 2, in the order of computation given there at its end). With
    ``decoupled=True`` it is AdamW (Loshchilov and Hutter 2019): g = dW, and W first shrinks by
    learning_rate · weight_decay · W. Biases are not decayed.

    Parameters
    ----------
    model, weight_decay, max_norm, dropout, batch_size, shuffle, seed, engine, n_threads
        As for `SGD`.
    learning_rate : float or callable
    beta_1, beta_2 : float in [0, 1)
    epsilon : float > 0
    decoupled : bool

    Examples
    --------
    >>> import fastmlp
    >>> X, y = fastmlp.data.load_digits()
    >>> model = fastmlp.MLP([64, 100, 10], seed=0)
    >>> history = fastmlp.Adam(model, batch_size=32).fit(X / 16, y, epochs=10)
    >>> history.loss[-1] < 0.2 < history.loss[0]
    True
    """

    _optimizer = "adam"

    def __init__(
        self,
        model: MLP,
        *,
        learning_rate: float | Schedule = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled: bool = False,
        max_norm: float | None = None,
        dropout: float = 0.0,
        batch_size: int = 128,
        shuffle: bool = True,
        seed: "int | np.random.Generator | None" = 0,
        engine: str = "auto",
        n_threads: int | None = None,
    ) -> None:
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self.decoupled = decoupled
        super().__init__(
            model,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            max_norm=max_norm,
            dropout=dropout,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            engine=engine,
            n_threads=n_threads,
        )

    def _check(self) -> None:
        super()._check()
        self.beta_1 = as_real(self.beta_1, "beta_1", 0, below=1)
        self.beta_2 = as_real(self.beta_2, "beta_2", 0, below=1)
        self.epsilon = as_real(self.epsilon, "epsilon", float(np.finfo(self.model.dtype).tiny))
        self.decoupled = bool(self.decoupled)

    def _rule(self) -> dict[str, Any]:
        return {
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "decoupled": self.decoupled,
        }
