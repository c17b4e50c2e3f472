"""What MLPClassifier and MLPRegressor share: the order of a fit."""

import contextlib
import os
import weakref
from collections.abc import Callable, Iterator
from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import BaseEstimator, _fit_context
from sklearn.utils.validation import check_is_fitted, validate_data

from fastmlp import atomic
from fastmlp._core import Turn
from fastmlp.estimators import conversion, files, steps, training
from fastmlp.estimators.network import Network, dense_blocks
from fastmlp.estimators.parameters import CONSTRAINTS, check_together
from fastmlp.estimators.solvers import descend, minimise
from fastmlp.estimators.watch import CallbackSupportMixin, Watch
from fastmlp.inputs import as_int
from fastmlp.model import MLP
from fastmlp.turn import new_turn

__all__ = ["Perceptron"]

Array = NDArray[Any]

WHAT = "this estimator"  # is in the middle of a fit
# Of every estimator, and not among its attributes, which are scikit-learn's to look through.
_turns: weakref.WeakKeyDictionary[Any, Turn] = weakref.WeakKeyDictionary()


class Perceptron(CallbackSupportMixin, BaseEstimator):
    """A multilayer perceptron with scikit-learn's parameters, attributes and rules.

    Subclasses know what targets are: `_targets` turns y into what the network trains on,
    `_decode` turns its outputs back, `_score_of` judges them.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = CONSTRAINTS

    _checkpoint: tuple[os.PathLike[str], int] | None = None  # where to, how often

    # What only one of the two estimators has as a parameter, and the other holds as a constant.
    loss: Any
    class_weight: Any = None
    huber_delta: Any = None
    quantile: Any = None

    def _keep(self, parameters: dict[str, Any]) -> None:
        """Keep every parameter under its name: the local variables of a constructor."""
        self.__dict__.update((name, value) for name, value in parameters.items() if name != "self")

    # ---- what a subclass knows ----------------------------------------------------------------
    def _validate(self, X: Any, y: Any, dtype: Any, reset: bool) -> tuple[Any, Any]:
        """Return X and y as scikit-learn checks them, X as the network takes it."""
        raise NotImplementedError

    def _know_classes(self, y: Any, continuing: bool, incremental: bool) -> None:
        """Learn the classes from y, or check that y has no others; there are none in regression."""

    def _first_classes(self, y: Any, classes: Any) -> None:
        """Learn the classes that partial_fit was given."""

    def _encode(self, y: Any, dtype: Any) -> Array:
        """Return y as the targets of the network."""
        raise NotImplementedError

    def _n_outputs(self, targets: Array) -> int:
        """Return how many outputs the network needs."""
        return int(targets.shape[1])

    def _network_loss(self) -> tuple[str, float]:
        """Return the loss of `MLP` and its parameter, 0 where it has none."""
        raise NotImplementedError

    def _decode(self, Z: Array) -> Any:
        """Return what `predict` says where the outputs of the network are Z."""
        raise NotImplementedError

    def _score_of(self, Z: Array, y: Any, targets: Array, sample_weight: Array | None) -> float:
        """Return the score that early stopping goes by."""
        raise NotImplementedError

    def _class_weights(self, y: Any) -> None:
        """Learn what the classes weigh."""

    def _loss_weight(self, y: Any, sample_weight: Array | None) -> Array | None:
        """Return the weights of the rows in the loss."""
        return sample_weight

    def _quick_targets(self, y: Any, n_samples: int, classes: Any) -> Array | None:
        """Return the targets, if y is such that they need no closer look."""
        raise NotImplementedError

    # ---- fitting ------------------------------------------------------------------------------
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Self:
        """Fit the network to X and y.

        Parameters
        ----------
        X : array-like or sparse matrix (n_samples, n_features)
        y : array-like (n_samples,) or (n_samples, n_outputs)
            Labels, an indicator matrix of labels, or values.
        sample_weight : array-like (n_samples,) or None
        X_val, y_val : like X and y, or None
            Your own validation set. Its loss is kept in `validation_loss_curve_`; with
            early_stopping it takes the place of the rows that would be split off.
        sample_weight_val : array-like or None

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            The data or a parameter is not valid, or training left the finite numbers. The estimator
            is then as it was before the call.
        RuntimeError
            Another thread is in a fit of this estimator.
        """
        with self._turn.of_a_fit(WHAT):
            if hasattr(self, "_init_callback_context"):
                # One more for L-BFGS, which may begin an iteration that it does not finish.
                self._init_callback_context(max_subtasks=self.max_iter + 1)
            continuing = "_run" in vars(self) or (self.warm_start and self.__sklearn_is_fitted__())
            with self._all_or_nothing(self._network if continuing else None):
                self._fit(X, y, sample_weight, (X_val, y_val, sample_weight_val), continuing)
        return self

    @property
    def _turn(self) -> Turn:
        """Whose turn it is to fit."""
        return _turns.get(self) or _turns.setdefault(self, new_turn())

    def __getstate__(self) -> Any:
        self._turn.look(WHAT)
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_checkpoint"}

    def _fit(
        self, X: Any, y: Any, weight: Any, held: tuple[Any, Any, Any], continuing: bool
    ) -> None:
        check_together(self)
        if self._checkpoint is not None:
            files.check(self, self._checkpoint[0])
        watched = (X, y, weight)
        X, y, rows = training.prepare(self, X, y, weight, continuing)
        run = vars(self).get("_run")
        if run is not None and self.solver == "lbfgs":
            raise ValueError("the run to go on with is not one of lbfgs: leave solver as it was")
        if run is not None and (run.best is not None) != bool(self.early_stopping):
            raise ValueError(
                f"early_stopping is {self.early_stopping}, but the run to go on with began with "
                f"{not self.early_stopping}: leave it as it was"
            )
        if run is not None and run.n_samples != len(rows.order):
            raise ValueError(
                f"X has {len(rows.order)} rows, but the run to go on with has {run.n_samples}: "
                "give it the same data"
            )
        self._network.settings = None
        validation = training.held_out(self, X, y, rows, *held)
        curve = vars(self).get("validation_loss_curve_") or []
        self.validation_loss_curve_ = None if validation is None else list(curve)
        with Watch(self, *watched) as watch:
            (minimise if self.solver == "lbfgs" else descend)(self, rows, validation, watch)

    @contextlib.contextmanager
    def _all_or_nothing(self, network: Network | None = None) -> Iterator[None]:
        """Leave the estimator, and this network, as they were if the block ends in an error."""
        before = dict(vars(self))
        held = None if network is None else network.snapshot()
        # Of a fit from the beginning, the stream is that of the parameter, if it is one.
        stream = self.random_state if network is None else self._random_state
        drawn = stream.get_state() if isinstance(stream, np.random.RandomState) else None
        try:
            yield
        except BaseException:
            self.__dict__ = before  # which takes no memory
            if network is not None and held is not None:
                network.restore(held)
            if drawn is not None:
                stream.set_state(drawn)
            raise

    # ---- one more step ------------------------------------------------------------------------
    def _step(self, X: Any, y: Any, sample_weight: Any, classes: Any = None) -> None:
        """Train one epoch on X and y, while other threads may predict."""
        with self._turn.of_a_fit(WHAT, closed=False):
            self.__dict__.pop("_run", None)  # a fit in the middle of which this is no more
            if sample_weight is None and steps.quick(self, X, y, classes):
                return
            steps.checked(self, X, y, sample_weight, classes)

    # ---- fitted -------------------------------------------------------------------------------
    def __sklearn_is_fitted__(self) -> bool:
        return "_network" in vars(self)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    @property
    def coefs_(self) -> list[Array]:
        """Weight matrices (n_in, n_out), layer by layer: views, to read and to change."""
        return self._arrays("coefs_")[0]

    @coefs_.setter
    def coefs_(self, arrays: Any) -> None:
        self._arrays("coefs_")
        self._network.replace(0, arrays)

    @property
    def intercepts_(self) -> list[Array]:
        """Bias vectors (n_out,), layer by layer: views, to read and to change."""
        return self._arrays("intercepts_")[1]

    @intercepts_.setter
    def intercepts_(self, arrays: Any) -> None:
        self._arrays("intercepts_")
        self._network.replace(1, arrays)

    def _arrays(self, name: str) -> tuple[list[Array], list[Array]]:
        if not self.__sklearn_is_fitted__():
            raise AttributeError(f"{type(self).__name__} has no {name} before it is fitted")
        self._turn.look(WHAT)
        return self._network.arrays()

    def _rows(self, X: Any) -> Any:
        """Return X as the fitted network takes it."""
        check_is_fitted(self)
        self._network.settle()
        return X if self._plain(X) else self._checked(X)

    def _checked(self, X: Any) -> Any:
        dtype = self._network.model.params.dtype
        return validate_data(self, X, accept_sparse="csr", dtype=dtype, order="C", reset=False)

    def _plain(self, X: Any) -> bool:
        """Whether X can go to the fitted network as it stands, if all of its numbers are finite."""
        model = self._network.model
        if type(X) in (sparse.csr_array, sparse.csr_matrix):
            numbers = X.data
        elif type(X) is np.ndarray:
            numbers = X
        else:
            return False
        return (
            numbers.dtype == model.params.dtype
            and X.ndim == 2
            and X.shape[1] == model.sizes[0]
            and X.shape[0] > 0
            and numbers.flags.c_contiguous
            and numbers.flags.aligned
            and "feature_names_in_" not in vars(self)
        )

    def _answer(self, X: Any, decode: Callable[[Array], Any]) -> Any:
        """Return what `decode` makes of the outputs, both as one and the same fit has left them."""
        turn = self._turn
        while True:
            fits = turn.look(WHAT)
            rows = self._rows(X)
            try:
                Z = self._network.outputs(rows, self._threads())
            except ValueError:
                self._checked(X)  # scikit-learn says it in words of its own
                raise
            answer = decode(Z)
            if turn.look(WHAT) == fits:
                return answer

    def _threads(self) -> int | None:
        """Return how many threads may predict; what is no number of them only `fit` refuses."""
        n_threads = self.n_threads
        return max(1, int(n_threads)) if isinstance(n_threads, Integral) else None

    def predict(self, X: Any) -> Any:
        """Return the label, the labels or the values of every row.

        Parameters
        ----------
        X : array-like or sparse matrix (n_samples, n_features)

        Returns
        -------
        ndarray (n_samples,) or (n_samples, n_outputs)

        Raises
        ------
        RuntimeError
            Another thread is in `fit` of this estimator, and not in a callback. Beside
            `partial_fit` all threads may predict, with the network as an epoch has left it.
        """
        return self._answer(X, self._decode)

    def input_gradients(self, X: Any) -> Array:
        """Return the derivatives of every decision value by every feature.

        A decision value is what the last layer computes, before softmax, logistic or exponential.

        Parameters
        ----------
        X : array-like or sparse matrix (n_samples, n_features)

        Returns
        -------
        ndarray (n_samples, n_outputs, n_features), or (n_samples, n_features) where the network has
        one output
        """
        self._turn.look(WHAT)
        rows, model = self._rows(X), self._network.model.copy()
        blocks = [block for _, block in dense_blocks(rows)] if sparse.issparse(rows) else [rows]
        try:
            J = np.concatenate([model.input_gradients(block) for block in blocks])
        except ValueError:
            self._checked(X)
            raise
        return J[:, 0] if self.n_outputs_ == 1 else J

    def to_mlp(self) -> MLP:
        """Return the fitted network as a `fastmlp.MLP` of its own.

        A classifier of two classes becomes one of binary_cross_entropy with a single output.
        """
        check_is_fitted(self)
        self._turn.look(WHAT)
        return conversion.to_mlp(self)

    @classmethod
    def from_sklearn(cls, fitted: Any) -> Self:
        """Return a copy of a fitted estimator of scikit-learn, which trains on where that ended.

        Parameters
        ----------
        fitted : sklearn.neural_network.MLPClassifier or MLPRegressor
        """
        return conversion.from_sklearn(cls, fitted)

    def checkpoint(self, path: str | os.PathLike[str] | None, *, every: int = 1) -> Self:
        """Write every `fit` from now on to a file, for `resume` to go on with.

        Parameters
        ----------
        path : path or None
            Replaced whole or not at all, after the epoch and its callbacks; None ends it.
        every : int
            Epochs of a fit from one writing to the next. The end of a fit is written in any case,
            unless it ends in an exception or by Ctrl-C: then the file is of an epoch before.

        Returns
        -------
        self

        Raises
        ------
        OSError
            Nothing can be written there.

        Notes
        -----
        For the solvers "sgd" and "adam". A clone has no checkpoints of its own, so that the many
        fits of a grid search do not write to one file. `fit` raises TypeError where a parameter,
        such as a callback, is code, which cannot be stored.

        Examples
        --------
        >>> import fastmlp, tempfile, os
        >>> path = os.path.join(tempfile.mkdtemp(), "run.ckpt")
        >>> X, y = fastmlp.data.load_digits()
        >>> model = fastmlp.MLPClassifier(max_iter=40, random_state=0).checkpoint(path, every=10)
        >>> model = model.fit(X, y)                                         # doctest: +SKIP
        >>> model = fastmlp.MLPClassifier.resume(path).fit(X, y)            # doctest: +SKIP
        """
        every = as_int(every, "every", 1)
        self._checkpoint = None if path is None else (atomic.check_writable(path), every)
        return self

    @classmethod
    def resume(cls, path: str | os.PathLike[str]) -> Self:
        """Return the estimator as `checkpoint` has written it, in the middle of a fit.

        Its next `fit`, given the same data, does what the interrupted one would have done, to the
        bit. It writes no checkpoints of its own unless told to. `set_params` may change what is
        left to do, `max_iter` for one.

        Raises
        ------
        FileNotFoundError, fastmlp.FileFormatError
        """
        return files.load(cls, path, resume=True)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted estimator to a safetensors file, without pickle.

        Raises
        ------
        NotFittedError
        TypeError
            A parameter, such as a callback, is code, which cannot be stored so.
        """
        check_is_fitted(self)
        self._turn.look(WHAT)
        files.save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read an estimator that `save` has written; it predicts the same bits and trains on.

        Raises
        ------
        FileNotFoundError, fastmlp.FileFormatError
        """
        return files.load(cls, path)
