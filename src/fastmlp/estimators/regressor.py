"""MLPRegressor: a network that fits values."""

from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import RegressorMixin
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import validate_data

from fastmlp._core import first_nonfinite
from fastmlp.estimators import conversion, steps
from fastmlp.estimators.base import Perceptron
from fastmlp.estimators.parameters import CONSTRAINTS
from fastmlp.estimators.validation import r2
from fastmlp.model import MLP

__all__ = ["MLPRegressor"]

Array = NDArray[Any]

LOSSES = {"squared_error", "poisson", "absolute_error", "huber", "quantile"}


class MLPRegressor(RegressorMixin, Perceptron):
    """A multilayer perceptron that fits values; scikit-learn's MLPRegressor, sooner.

    The parameters up to `max_fun` are scikit-learn's, in its order, with its defaults, and give its
    results. Those after it are fastmlp's own.

    Parameters
    ----------
    loss : {"squared_error", "poisson", "absolute_error", "huber", "quantile"}
        "squared_error" is half the square of the error; "poisson" half the deviance, for counts:
        the network gives the logarithm of the rate, and y must not be negative. "absolute_error"
        fits the median. "huber" is half the square for errors up to `huber_delta`, and linear
        beyond, so that outliers weigh less. "quantile" fits the quantile `quantile`. All are means
        over the outputs but "poisson", which is the sum, as in scikit-learn; their gradients are of
        the sum.
    hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate, learning_rate_init
        As for `MLPClassifier`, and so are all up to `max_fun`.
    dtype, callbacks, max_time, progress, n_threads, engine, dropout, weight_decay, max_norm
        As for `MLPClassifier`.
    scoring : None, str or callable
        What early stopping goes by: None is R², "loss" the loss on the validation set, or any
        scorer of scikit-learn's, by name or as ``scorer(estimator, X, y)``.
    huber_delta : float
    quantile : float in (0, 1)

    Attributes
    ----------
    coefs_, intercepts_, loss_, best_loss_, loss_curve_, validation_loss_curve_, n_iter_, t_
        As for `MLPClassifier`, and so are the others but `classes_`.

    Notes
    -----
    What is different from scikit-learn on purpose is in the notes of `MLPClassifier`. Besides,
    `partial_fit` is not there for lbfgs, which has no epochs.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLPRegressor
    >>> X = np.linspace(-1, 1, 200).reshape(-1, 1)
    >>> y = np.sin(3 * X[:, 0])
    >>> model = MLPRegressor(activation="tanh", solver="lbfgs", random_state=0).fit(X, y)
    >>> model.score(X, y) > 0.99
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **CONSTRAINTS,
        "loss": [StrOptions(LOSSES)],
        "huber_delta": [Interval(Real, 0, None, closed="neither")],
        "quantile": [Interval(Real, 0, 1, closed="neither")],
    }

    def __init__(
        self,
        loss: str = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: Any = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: Any = 10,
        max_fun: int = 15000,
        dtype: Any = "auto",
        scoring: Any = None,
        callbacks: Any = None,
        max_time: float | None = None,
        progress: bool = False,
        n_threads: int | None = None,
        engine: str = "auto",
        dropout: float = 0.0,
        weight_decay: float = 0.0,
        max_norm: float | None = None,
        huber_delta: float = 1.0,
        quantile: float = 0.5,
    ) -> None:
        self._keep(locals())

    # ---- targets ------------------------------------------------------------------------------
    def _validate(self, X: Any, y: Any, dtype: Any, reset: bool) -> tuple[Any, Any]:
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse="csr",
            multi_output=True,
            y_numeric=True,
            dtype=dtype,
            order="C",
            reset=reset,
        )
        if y.dtype.kind not in "biuf":
            raise ValueError(f"y has dtype {y.dtype}, expected real numbers")
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        return X, y

    def _encode(self, y: Any, dtype: Any) -> Array:
        with np.errstate(over="ignore"):  # found below
            targets = np.ascontiguousarray(y.reshape(len(y), -1), dtype)
        if np.isnan(targets).any():
            raise ValueError("Input y contains NaN.")
        if first_nonfinite(targets.ravel()) >= 0:
            raise ValueError(f"Input y contains a value too large for {targets.dtype}.")
        if self.loss == "poisson" and (targets < 0).any():
            raise ValueError(
                f"y has a negative value ({targets.min():g}), which loss='poisson' cannot fit"
            )
        return targets

    def _network_loss(self) -> tuple[str, float]:
        parameter = {"huber": self.huber_delta, "quantile": self.quantile}.get(self.loss, 0.0)
        return self.loss, float(parameter)

    def _quick_targets(self, y: Any, n_samples: int, classes: Any) -> Array | None:
        if (
            type(y) is not np.ndarray
            or y.dtype.kind not in "iuf"
            or y.shape not in ((n_samples,), (n_samples, self.n_outputs_))
            or (y.ndim == 2 and self.n_outputs_ == 1)
            or (y.ndim == 1 and self.n_outputs_ > 1)
        ):
            return None
        targets = np.ascontiguousarray(y.reshape(n_samples, -1), self._network.model.dtype)
        negative = self.loss == "poisson" and (targets < 0).any()
        return None if negative or first_nonfinite(targets.ravel()) >= 0 else targets

    def _decode(self, Z: Array) -> Any:
        if self.out_activation_ == "exp":
            Z = np.exp(Z)
        return Z[:, 0] if Z.shape[1] == 1 else Z

    def _score_of(self, Z: Array, y: Any, targets: Array, sample_weight: Array | None) -> float:
        return r2(y.reshape(len(y), -1), self._decode(Z).reshape(len(y), -1), sample_weight)

    # ---- public -------------------------------------------------------------------------------
    @available_if(steps.offered)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train one epoch on X and y, going on from where the last one ended.

        Parameters
        ----------
        X : array-like or sparse matrix (n_samples, n_features)
        y : array-like (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like (n_samples,) or None

        Returns
        -------
        self
        """
        self._step(X, y, sample_weight)
        return self

    @classmethod
    def from_mlp(cls, mlp: MLP) -> Self:
        """Return a fitted regressor with a copy of this network.

        Parameters
        ----------
        mlp : MLP
            With one of the losses of this class.
        """
        return conversion.regressor_from_mlp(cls, mlp)
