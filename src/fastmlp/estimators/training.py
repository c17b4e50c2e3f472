"""Before the first epoch: data checked, network made or found, rows held out."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight

from fastmlp.estimators.network import Network
from fastmlp.estimators.parameters import hidden_sizes
from fastmlp.estimators.validation import Validation, split
from fastmlp.model import MLP
from fastmlp.session import Session

__all__ = ["Rows", "Run", "adopt", "build", "held_out", "prepare", "session"]

Array = NDArray[Any]

# Attributes that a fit from the beginning forgets.
HISTORY = (
    *("loss_", "loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_"),
    *("validation_loss_curve_", "_rate", "_rate_began", "_schedule", "_split", "_judged_by"),
)
# What scikit-learn calls the function of the last layer, by the loss.
OUT_ACTIVATIONS = {
    "softmax_cross_entropy": "softmax",
    "binary_cross_entropy": "logistic",
    "poisson": "exp",
}


@dataclass
class Rows:
    """What an estimator trains on.

    Attributes
    ----------
    X : ndarray or CSR matrix, of the network's dtype
    targets : ndarray
    sample_weight : ndarray (n_samples,) or None
    order : ndarray of intp
        The rows of X to train on. Shuffled in place, epoch by epoch.
    held : ndarray of intp or None
        Those that were split off for validation.
    """

    X: Any
    targets: Array
    sample_weight: Array | None
    order: NDArray[np.intp]
    held: NDArray[np.intp] | None = None


@dataclass
class Run:
    """What a fit needs, beside the estimator, to go on after an epoch.

    Attributes
    ----------
    n_samples : int
        Rows of the data.
    order, held : ndarray of intp
        As in `Rows`, at that time.
    best : ndarray or None
        The parameters with the best validation score.
    over : bool
        Whether a stopping rule had ended the fit.
    """

    n_samples: int
    order: NDArray[np.intp]
    held: NDArray[np.intp] | None
    best: Array | None
    over: bool


def prepare(
    estimator: Any,
    X: Any,
    y: Any,
    sample_weight: Any,
    continuing: bool,
    incremental: bool = False,
) -> tuple[Any, Any, Rows]:
    """Check the data, and make or find the network that it goes to.

    Returns
    -------
    X, y
        As they were checked.
    rows : Rows
        What they are to the network.
    """
    dtype: Any = (np.float64, np.float32)
    if estimator.dtype != "auto":
        dtype = np.dtype(estimator.dtype)
    elif continuing:
        dtype = estimator._network.model.params.dtype
    X, y = estimator._validate(X, y, dtype, reset=not continuing)
    weight = _weights(sample_weight, X, "sample_weight")
    estimator._know_classes(y, continuing, incremental)
    targets = estimator._encode(y, X.dtype)
    sizes = (X.shape[1], *hidden_sizes(estimator), estimator._n_outputs(targets))
    if continuing:
        _go_on(estimator, sizes, X.dtype.name)
    else:
        _begin(estimator, sizes, X.dtype.name)
    _open_books(estimator, continuing, incremental)
    estimator._class_weights(y)
    order = np.arange(X.shape[0], dtype=np.intp)
    return X, y, Rows(X, targets, estimator._loss_weight(y, weight), order)


def _weights(sample_weight: Any, X: Any, name: str) -> Array | None:
    if sample_weight is None:
        return None
    weight: Array = _check_sample_weight(sample_weight, X, dtype=X.dtype)
    return weight


def _begin(estimator: Any, sizes: tuple[int, ...], dtype: str) -> None:
    """Give the estimator a network with random weights: the draws are scikit-learn's."""
    random_state = estimator._random_state = check_random_state(estimator.random_state)
    model = build(estimator, sizes, dtype)
    # The last layer is drawn like the one before it, or as if there were one.
    before = model.activations or (estimator.activation,)
    activations = [*model.activations, before[-1]]
    for W, b, activation in zip(model.weights, model.biases, activations, strict=True):
        bound = np.sqrt((2 if activation == "logistic" else 6) / sum(W.shape))
        W[...] = random_state.uniform(-bound, bound, W.shape)
        b[...] = random_state.uniform(-bound, bound, b.shape)
    adopt(estimator, Network(model))
    estimator.n_iter_ = estimator.t_ = estimator._no_improvement_count = 0
    for name in HISTORY:
        vars(estimator).pop(name, None)


def _go_on(estimator: Any, sizes: tuple[int, ...], dtype: str) -> None:
    """See that the network there is fits the parameters as they are now."""
    if estimator.random_state is None and "_run" not in vars(estimator):
        estimator._random_state = check_random_state(None)
    network = estimator._network
    model = network.model
    if model.sizes != sizes:
        raise ValueError(
            f"the fitted network has layers of {model.sizes}, but hidden_layer_sizes and the data "
            f"ask for {sizes}; fit with warm_start=False to begin anew"
        )
    made_of = (tuple(model.activations), model.loss_name, model.loss_parameter)
    if made_of != _made_of(estimator) or model.dtype != dtype:
        network.settle()
        changed = build(estimator, sizes, dtype)
        changed.params[:] = model.params
        adopt(estimator, Network(changed))


def _open_books(estimator: Any, continuing: bool, incremental: bool) -> None:
    """Set what training keeps count in: curves, best values, learning rate."""
    held = vars(estimator).get
    curve = held("loss_curve_", [])
    # One step more is entered in the list there is; a fit may fail, and has its own.
    estimator.loss_curve_ = curve if incremental else list(curve)
    if estimator.solver == "lbfgs":
        return
    schedule = estimator.learning_rate if estimator.solver == "sgd" else "constant"
    began = (schedule, estimator.learning_rate_init)
    if held("_rate_began") != began:
        estimator._rate, estimator._rate_began = float(estimator.learning_rate_init), began
    estimator._schedule = schedule
    if estimator.early_stopping:
        best = held("best_validation_score_")
        estimator.validation_scores_ = list(held("validation_scores_") or [])
        estimator.best_validation_score_ = -np.inf if best is None else best
        estimator.best_loss_ = None
    else:
        best = held("best_loss_")
        estimator.best_loss_ = np.inf if best is None else best
        estimator.validation_scores_ = estimator.best_validation_score_ = None


def adopt(estimator: Any, network: Network) -> None:
    """Make this network the estimator's."""
    sizes, loss = network.model.sizes, network.model.loss_name
    estimator.n_layers_, estimator.n_outputs_ = len(sizes), sizes[-1]
    estimator.out_activation_ = OUT_ACTIVATIONS.get(loss, "identity")
    # scikit-learn reports a mean over the outputs, but for probabilities and rates.
    estimator._loss_scale = 1.0 if loss in OUT_ACTIVATIONS else 1 / sizes[-1]
    estimator._network = network  # last: other threads may predict from now on


def _made_of(estimator: Any) -> tuple[tuple[str, ...], str, float]:
    """Return the activations, the loss and its parameter that the estimator asks for."""
    names = estimator.activation
    if isinstance(names, str):
        names = [names] * len(hidden_sizes(estimator))
    return tuple(names), *estimator._network_loss()


def build(estimator: Any, sizes: tuple[int, ...], dtype: str) -> MLP:
    """Return a network of these sizes as the estimator's parameters ask for."""
    _, loss, parameter = _made_of(estimator)
    model = MLP(
        sizes,
        activation=estimator.activation,
        loss=loss,
        loss_parameter=parameter or None,
        dtype=dtype,
    )
    if loss.endswith("cross_entropy"):
        model.probability_clip = float(np.finfo(dtype).eps)
    return model


def session(estimator: Any) -> Session:
    """Return the session that trains the estimator's network with the parameters of now."""
    network = estimator._network
    if estimator.dropout and not network.seed:
        network.seed = int(estimator._random_state.randint(1, np.iinfo(np.int32).max))
    held: Session = network.train(
        estimator.solver,
        engine=estimator.engine,
        n_threads=estimator.n_threads,
        dropout=float(estimator.dropout),
        seed=network.seed,
    )
    return held


def held_out(
    estimator: Any,
    X: Any,
    y: Any,
    rows: Rows,
    X_val: Any,
    y_val: Any,
    sample_weight_val: Any,
) -> Validation | None:
    """Return the user's validation set, or one split off from the rows to train on, or None."""
    if X_val is not None:
        if y_val is None:
            raise ValueError("X_val was given without y_val")
        try:
            X_val, y_val = estimator._validate(X_val, y_val, X.dtype, reset=False)
            weight = _weights(sample_weight_val, X_val, "sample_weight_val")
            targets = estimator._encode(y_val, X.dtype)
            n_outputs = estimator._n_outputs(targets)
            if n_outputs != estimator.n_outputs_:
                raise ValueError(
                    f"y_val has {n_outputs} outputs, the network has {estimator.n_outputs_}"
                )
        except ValueError as error:
            raise ValueError(f"in the validation set (X_val, y_val): {error}") from error
        return Validation(X_val, y_val, targets, estimator._loss_weight(y_val, weight), False)
    if y_val is not None or sample_weight_val is not None:
        raise ValueError("y_val or sample_weight_val was given without X_val")
    if not estimator.early_stopping or estimator.solver == "lbfgs":
        return None
    run = vars(estimator).get("_run")
    if run is not None and run.held is None:
        raise ValueError(
            "the run to go on with was judged by rows of the user's: give X_val and y_val again"
        )
    if run is not None:
        return _split_off(rows, X, y, run.order, run.held)
    order, held = vars(estimator).get("_split") or (rows.order, rows.order[:0])
    if len(order) + len(held) != len(rows.order) or not len(held):
        of_two_classes = estimator.out_activation_ == "logistic" and estimator.n_outputs_ == 1
        order, held = split(
            rows.order,
            test_size=estimator.validation_fraction,
            random_state=estimator._random_state,
            stratify=rows.targets.astype(bool) if of_two_classes else None,
        )
    # A warm start holds the same rows out: others would have been trained on before. With a stream
    # of the user's own it draws anew, as scikit-learn does.
    keeps = estimator.warm_start and not isinstance(estimator.random_state, np.random.RandomState)
    estimator._split = (order, held) if keeps else None
    return _split_off(rows, X, y, order.copy(), held)


def _split_off(
    rows: Rows, X: Any, y: Any, order: NDArray[np.intp], held: NDArray[np.intp]
) -> Validation:
    """Have training go by `order`; return the rows that are held out of it."""
    rows.order, rows.held = order, held
    weight = None if rows.sample_weight is None else rows.sample_weight[held]
    return Validation(X[held], y[held], rows.targets[held], weight, True)
