"""MLPClassifier: a network that tells classes apart."""

from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils import column_or_1d, compute_class_weight
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels
from sklearn.utils.validation import validate_data

from fastmlp.estimators import conversion, steps
from fastmlp.estimators.base import Perceptron
from fastmlp.estimators.labels import Labels
from fastmlp.estimators.parameters import CONSTRAINTS
from fastmlp.estimators.validation import mean_right
from fastmlp.model import MLP

__all__ = ["MLPClassifier"]

Array = NDArray[Any]

# What labels of images come in, beside integers.
SMALL_NUMBERS = (np.dtype(np.uint8), np.dtype(np.uint16))


class MLPClassifier(ClassifierMixin, Perceptron):
    """A multilayer perceptron that classifies; scikit-learn's MLPClassifier, sooner.

    The parameters up to `max_fun` are scikit-learn's, in its order, with its defaults, and give its
    results: with the same data and the same `random_state` the same initial weights, shuffles and
    validation split. Those after it are fastmlp's own.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int
        Width of every hidden layer.
    activation : str or list of str
        "identity", "logistic", "tanh", "relu", "leaky_relu" (slope 0.01 below zero), "gelu" (by the
        error function) or "silu"; a list names one for each hidden layer.
    solver : {"lbfgs", "sgd", "adam"}
    alpha : float
        Strength of the L2 penalty on the weights: ½ alpha Σ W², divided by the number of rows of
        the batch, is added to its loss.
    batch_size : int or "auto"
        Rows of a step; "auto" is 200, or all rows if there are fewer. lbfgs takes all at once.
    learning_rate : {"constant", "invscaling", "adaptive"}
        Schedule of sgd. "invscaling" divides `learning_rate_init` by (rows seen + 1) to the power
        `power_t` after every epoch; "adaptive" divides by 5 where another schedule would end the
        fit, until the rate is at 1e-6.
    learning_rate_init : float
    power_t : float
    max_iter : int
        Most epochs, or iterations of lbfgs.
    shuffle : bool
        Whether every epoch takes the rows in a new order.
    random_state : int, numpy.random.RandomState or None
        Of the initial weights, the validation split, the shuffles and the dropout.
    tol : float
        What counts as an improvement of the loss or the score; for lbfgs, of the gradient as well.
    verbose : bool or int
        Print the loss of every epoch.
    warm_start : bool
        Whether `fit` goes on from where the last one ended.
    momentum, nesterovs_momentum
        Of sgd.
    early_stopping : bool
        Hold out `validation_fraction` of the rows, or take `X_val`, and end when the score on them
        has not improved by `tol` for `n_iter_no_change` epochs. The parameters with the best score
        are kept.
    validation_fraction : float
    beta_1, beta_2, epsilon
        Of adam.
    n_iter_no_change : int or inf
        Epochs without improvement that are let pass.
    max_fun : int
        Most evaluations of the loss by lbfgs.
    dtype : {"auto", "float32", "float64"}
        "auto" trains in float32 where X is float32, in float64 otherwise. float32 is about twice as
        fast.
    scoring : None, str or callable
        What early stopping goes by: None is the accuracy, "loss" the loss on the validation set, or
        any scorer of scikit-learn's, by name or as ``scorer(estimator, X, y)``.
    class_weight : dict {label: weight}, "balanced" or None
        Weights of the classes in the loss; "balanced" makes them inverse to how often each occurs.
    callbacks : callable, list of callables or None
        Called with the estimator after every epoch of `fit`; its attributes are then those of that
        epoch. One that returns True ends the fit. (Callbacks of scikit-learn 1.9's own protocol go
        to `set_callbacks`.)
    max_time : float or None
        Seconds after which no further epoch is begun.
    progress : bool
        Show a bar with the losses on standard error.
    n_threads : int or None
        At most so many threads, to fit and to predict; None takes one for every core, as far as
        OMP_NUM_THREADS and the machine allow, where there is enough to compute to gain from them.
    engine : {"auto", "fused", "blas"}
    dropout : float in [0, 1)
        Share of the outputs of the hidden layers that every step leaves out. The same ones for any
        number of threads.
    weight_decay : float
        Shrinks the weights by learning rate · weight_decay beside every step, outside of the
        gradient; with adam this is AdamW (Loshchilov and Hutter 2019).
    max_norm : float or None
        Gradients longer than that, over all parameters, are scaled down to it.

    Attributes
    ----------
    classes_ : ndarray (n_classes,)
    coefs_, intercepts_ : list of ndarray (n_in, n_out), of ndarray (n_out,)
        The parameters, layer by layer. What is written to them counts.
    loss_, best_loss_ : float
        The loss of the last epoch and the least of all; `best_loss_` is None with early_stopping.
    loss_curve_ : list of float
        Training loss of every epoch, measured as it went, penalty included; with lbfgs, of every
        iteration.
    validation_loss_curve_ : list of float or None
        Loss on the validation set after every epoch, without penalty; None if there was no
        such set.
    validation_scores_, best_validation_score_ : list of float, float, or None
        With early_stopping.
    n_iter_, t_ : int
        Epochs of the last fit, and rows seen in all of them.
    n_layers_, n_outputs_, out_activation_, n_features_in_, feature_names_in_
        As in scikit-learn.

    Notes
    -----
    On purpose different from scikit-learn: `partial_fit` and `fit` with ``warm_start=True`` go on
    with the moments of the optimizer, the learning rate and the random stream, where scikit-learn
    (but for partial_fit's moments) begins them anew; a call that fails, whatever the reason, leaves
    the estimator as it was; a batch in which every sample weight is zero is passed over; a solver
    that diverges is stopped in that epoch, and with early_stopping keeps the best parameters.

    Examples
    --------
    >>> from fastmlp import MLPClassifier
    >>> from fastmlp.data import load_digits
    >>> X, y = load_digits()
    >>> X_train, X_test, y_train, y_test = X[:1500] / 16, X[1500:] / 16, y[:1500], y[1500:]
    >>> model = MLPClassifier(random_state=0, max_iter=300).fit(X_train, y_train)
    >>> model.score(X_test, y_test) > 0.9
    True
    >>> model.predict(X_test[:5])
    array([1, 7, 4, 6, 3])
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **CONSTRAINTS,
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

    loss = "log_loss"

    def __init__(
        self,
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
        class_weight: Any = None,
        callbacks: Any = None,
        max_time: float | None = None,
        progress: bool = False,
        n_threads: int | None = None,
        engine: str = "auto",
        dropout: float = 0.0,
        weight_decay: float = 0.0,
        max_norm: float | None = None,
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
            dtype=dtype,
            order="C",
            reset=reset,
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        return X, y

    def _first_classes(self, y: Any, classes: Any) -> None:
        if _check_partial_fit_first_call(self, classes):
            multilabel = type_of_target(y).startswith("multilabel")
            self._labels = Labels.of(y if multilabel else classes)

    def _know_classes(self, y: Any, continuing: bool, incremental: bool) -> None:
        if not (continuing or incremental):
            self._labels = Labels.of(y)
            self.classes_ = self._labels.classes
            return
        classes = unique_labels(y)
        if self.warm_start:
            if set(classes) != set(self.classes_):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the previous "
                    f"call to fit. Previously got {self.classes_}, `y` has {classes}"
                )
        elif len(np.setdiff1d(classes, self.classes_, assume_unique=True)):
            raise ValueError(
                "`y` has classes not in `self.classes_`. "
                f"`self.classes_` has {self.classes_}. 'y' has {classes}."
            )

    def _encode(self, y: Any, dtype: Any) -> Array:
        return self._labels.encode(y, dtype)

    def _n_outputs(self, targets: Array) -> int:
        return self._labels.n_outputs

    def _network_loss(self) -> tuple[str, float]:
        return self._labels.loss, 0.0

    def _class_weights(self, y: Any) -> None:
        self._weights = None
        if self.class_weight is None:
            return
        if self._labels.kind == "multilabel":
            raise ValueError(
                "class_weight is for single labels, and y is multilabel; weigh the rows with "
                "sample_weight"
            )
        self._weights = compute_class_weight(self.class_weight, classes=self.classes_, y=y)
        if not np.isfinite(self._weights).all():
            raise ValueError(f"class_weight is {self.class_weight!r}, expected finite numbers")

    def _loss_weight(self, y: Any, sample_weight: Array | None) -> Array | None:
        weights = vars(self).get("_weights")
        if weights is None:
            return sample_weight
        of_rows = weights[self._labels.numbers(y)]
        if sample_weight is not None:
            of_rows = of_rows * sample_weight
        return of_rows.astype(self._network.model.dtype)

    def _quick_targets(self, y: Any, n_samples: int, classes: Any) -> Array | None:
        known = self.classes_
        small_numbers = known.dtype.kind == "i" and getattr(y, "dtype", None) in SMALL_NUMBERS
        if (
            type(y) is not np.ndarray
            or y.shape != (n_samples,)
            or not ((known.dtype.kind == y.dtype.kind and y.dtype.kind in "biufU") or small_numbers)
            or self._labels.kind == "multilabel"
            or self.class_weight is not None
            or self.warm_start
            or (classes is not None and not np.array_equal(classes, known))
        ):
            return None
        places = known.searchsorted(y)
        places[places == len(known)] = 0
        if not (known[places] == y).all():
            return None
        if self._labels.kind == "multiclass":
            return places
        return places.reshape(-1, 1).astype(self._network.model.dtype)

    def _decode(self, Z: Array) -> Any:
        return self._labels.decode(Z)

    def _score_of(self, Z: Array, y: Any, targets: Array, sample_weight: Array | None) -> float:
        return mean_right(self._labels.right(Z, targets), sample_weight)

    # ---- public -------------------------------------------------------------------------------
    @available_if(steps.offered)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Self:
        """Train one epoch on X and y, going on from where the last one ended.

        Parameters
        ----------
        X : array-like or sparse matrix (n_samples, n_features)
        y : array-like (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like (n_samples,) or None
        classes : array-like (n_classes,) or None
            All classes there will ever be; needed in the first call.

        Returns
        -------
        self
        """
        self._step(X, y, sample_weight, classes)
        return self

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of every class, or, multilabel, of every label.

        Parameters
        ----------
        X : array-like or sparse matrix (n_samples, n_features)

        Returns
        -------
        ndarray (n_samples, n_classes)
        """
        answer: Array = self._answer(X, lambda Z: self._labels.probabilities(Z))
        return answer

    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithms of the probabilities, -inf where these are 0.

        Parameters
        ----------
        X : array-like or sparse matrix (n_samples, n_features)

        Returns
        -------
        ndarray (n_samples, n_classes)
        """
        answer: Array = self._answer(X, lambda Z: self._labels.log_probabilities(Z))
        return answer

    @classmethod
    def from_mlp(cls, mlp: MLP, classes: Any = None) -> Self:
        """Return a fitted classifier with a copy of this network.

        Parameters
        ----------
        mlp : MLP
            With the loss softmax_cross_entropy or binary_cross_entropy.
        classes : array-like (n_classes,) or None
            What the outputs stand for, in ascending order; None numbers them. A network of
            binary_cross_entropy has two classes if it has one output, and is multilabel otherwise.

        Examples
        --------
        >>> import fastmlp
        >>> model = fastmlp.MLP([2, 8, 3], seed=0)
        >>> fastmlp.MLPClassifier.from_mlp(model, classes=["a", "b", "c"]).predict([[0.0, 0.0]])
        array(['a'], dtype='<U1')
        """
        return conversion.classifier_from_mlp(cls, mlp, classes)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
