"""From fitted estimators to `fastmlp.MLP` and back, and from scikit-learn's own."""

import copy
from typing import Any

import numpy as np
import sklearn.neural_network
from numpy.typing import NDArray
from sklearn.base import is_classifier
from sklearn.utils.validation import check_is_fitted

from fastmlp.estimators.labels import Labels
from fastmlp.estimators.network import Network
from fastmlp.estimators.training import adopt, build, session
from fastmlp.model import MLP

__all__ = ["classifier_from_mlp", "from_sklearn", "regressor_from_mlp", "to_mlp"]

Array = NDArray[Any]

# Attributes of a fitted estimator that scikit-learn's and ours have in common.
SHARED = (
    *("n_features_in_", "feature_names_in_", "classes_", "n_iter_", "t_", "loss_", "best_loss_"),
    *("loss_curve_", "validation_scores_", "best_validation_score_", "_no_improvement_count"),
)


def to_mlp(estimator: Any) -> MLP:
    """Return a copy of the network of a fitted estimator."""
    estimator._network.settle()
    copied = estimator._network.model.copy()
    copied.probability_clip = 0.0
    return copied


def classifier_from_mlp(cls: Any, mlp: MLP, classes: Any) -> Any:
    """Return an MLPClassifier with a copy of the network."""
    losses = ("softmax_cross_entropy", "binary_cross_entropy")
    if not isinstance(mlp, MLP) or mlp.loss_name not in losses:
        raise _unfit(mlp, cls, losses)
    kind, n_classes = "multilabel", mlp.sizes[-1]
    if mlp.classifies:
        kind = "multiclass"
    elif n_classes == 1:
        kind, n_classes = "binary", 2
    classes = np.arange(n_classes) if classes is None else np.asarray(classes)
    if classes.shape != (n_classes,) or not np.array_equal(np.unique(classes), classes):
        raise ValueError(
            f"classes is {classes!r}, expected {n_classes} different labels in ascending order"
        )
    estimator = _around(cls, mlp)
    estimator._labels, estimator.classes_ = Labels(kind, classes), classes
    return estimator


def regressor_from_mlp(cls: Any, mlp: MLP) -> Any:
    """Return an MLPRegressor with a copy of the network."""
    losses = ("squared_error", "poisson", "absolute_error", "huber", "quantile")
    if not isinstance(mlp, MLP) or mlp.loss_name not in losses:
        raise _unfit(mlp, cls, losses)
    estimator = _around(cls, mlp)
    parameter = {"huber": "huber_delta", "quantile": "quantile"}.get(mlp.loss_name)
    estimator.set_params(loss=mlp.loss_name)
    if parameter is not None:
        estimator.set_params(**{parameter: mlp.loss_parameter})
    return estimator


def _unfit(mlp: Any, cls: Any, losses: Any) -> TypeError:
    what = f"an MLP of {mlp.loss_name}" if isinstance(mlp, MLP) else type(mlp).__name__
    return TypeError(
        f"{cls.__name__}.from_mlp was given {what}, expected a fastmlp.MLP of {', '.join(losses)}"
    )


def _around(cls: Any, mlp: MLP) -> Any:
    """Return an estimator whose parameters are the network's, fitted with a copy of it."""
    activation = mlp.activation if isinstance(mlp.activation, str) else list(mlp.activation)
    estimator = cls(
        hidden_layer_sizes=tuple(mlp.sizes[1:-1]), activation=activation, dtype=mlp.dtype
    )
    model = mlp.copy()
    model.metadata = {}
    if model.loss_name.endswith("cross_entropy"):
        model.probability_clip = float(np.finfo(model.dtype).eps)
    adopt(estimator, Network(model))
    estimator._random_state = np.random.RandomState()
    estimator.n_features_in_ = mlp.sizes[0]
    estimator.n_iter_ = estimator.t_ = estimator._no_improvement_count = 0
    return estimator


def from_sklearn(cls: Any, fitted: Any) -> Any:
    """Return our estimator in the state of scikit-learn's."""
    their = getattr(sklearn.neural_network, cls.__name__)
    if not isinstance(fitted, their):
        raise TypeError(
            f"{cls.__name__}.from_sklearn was given {type(fitted).__module__}."
            f"{type(fitted).__name__}, expected a fitted sklearn.neural_network.{cls.__name__}"
        )
    check_is_fitted(fitted)
    estimator = cls(**fitted.get_params(deep=False))
    if is_classifier(fitted):
        binarizer = fitted._label_binarizer
        kind = binarizer.y_type_
        kind = "multilabel" if kind.startswith("multilabel") else kind
        estimator._labels = Labels(kind, binarizer.classes_, binarizer.sparse_input_)
    sizes = (fitted.coefs_[0].shape[0], *(W.shape[1] for W in fitted.coefs_))
    dtype = np.result_type(*fitted.coefs_).name
    adopt(estimator, Network(build(estimator, sizes, dtype)))
    estimator.coefs_, estimator.intercepts_ = fitted.coefs_, fitted.intercepts_
    for name in SHARED:
        if hasattr(fitted, name):
            setattr(estimator, name, copy.deepcopy(getattr(fitted, name)))
    if not hasattr(estimator, "_no_improvement_count"):
        estimator._no_improvement_count = 0
    estimator._random_state = copy.deepcopy(fitted._random_state)
    _take_optimizer(estimator, getattr(fitted, "_optimizer", None))
    return estimator


def _take_optimizer(estimator: Any, optimizer: Any) -> None:
    """Go on with the moments and the learning rate of scikit-learn's optimizer."""
    if optimizer is None or estimator.solver == "lbfgs":
        return
    sgd = estimator.solver == "sgd"
    names = ("velocities",) if sgd else ("ms", "vs")
    if not all(hasattr(optimizer, name) for name in names):
        return
    network = estimator._network
    session(estimator)
    moments = []
    for name in names:
        arrays = getattr(optimizer, name)
        flat = np.zeros_like(network.model.params)
        weights, biases = network.model.split(flat)
        for place, array in zip((*weights, *biases), arrays, strict=True):
            place[...] = array
        moments.append(flat)
    n_batches = 0 if sgd else int(optimizer.t)
    network.set_moments(moments, n_batches)
    schedule = estimator.learning_rate if sgd else "constant"
    estimator._schedule = schedule
    estimator._rate = float(optimizer.learning_rate if sgd else estimator.learning_rate_init)
    estimator._rate_began = (schedule, estimator.learning_rate_init)
