"""partial_fit: one more epoch, quickly where nothing has changed since the last."""

import warnings
from operator import attrgetter, is_
from typing import Any

import numpy as np
from sklearn.base import _fit_context

from fastmlp._core import first_nonfinite
from fastmlp.errors import DivergedError
from fastmlp.estimators import training
from fastmlp.estimators.parameters import CONSTRAINTS, check_together
from fastmlp.estimators.solvers import batch_size, end_epoch, non_finite, rule
from fastmlp.estimators.training import Rows
from fastmlp.inputs import sparse_rows

__all__ = ["checked", "offered", "quick"]

STOCHASTIC = ("sgd", "adam")
# All parameters: where one is not the object it was in the step before, they are checked again.
_settings = attrgetter(*CONSTRAINTS, "loss", "class_weight", "huber_delta", "quantile")


def offered(estimator: Any) -> bool:
    """Return True for a solver that has steps, or raise why there is no partial_fit."""
    if estimator.solver not in STOCHASTIC:
        raise AttributeError(
            "partial_fit is only available for stochastic optimizers. "
            f"{estimator.solver} is not stochastic."
        )
    return True


def quick(estimator: Any, X: Any, y: Any, classes: Any) -> bool:
    """Train an epoch on data that needs no closer look; return whether it was such."""
    network = vars(estimator).get("_network")
    if network is None or network.settings is None or not estimator._plain(X):
        return False
    if first_nonfinite((X if isinstance(X, np.ndarray) else X.data).ravel()) >= 0:
        return False
    if not all(map(is_, network.settings, _settings(estimator))):
        return False
    targets = estimator._quick_targets(y, X.shape[0], classes)
    if targets is None:
        return False
    _epoch(estimator, Rows(X, targets, None, np.arange(X.shape[0])))
    return True


@_fit_context(prefer_skip_nested_validation=True)
def checked(estimator: Any, X: Any, y: Any, sample_weight: Any, classes: Any) -> None:
    """Train an epoch on data, or with parameters, that are looked at first."""
    with estimator._all_or_nothing():
        check_together(estimator)
        if estimator.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        if estimator.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' needs all of y at once; give partial_fit the weights "
                "as a dict, or as sample_weight"
            )
        estimator._first_classes(y, classes)
        *_, rows = training.prepare(
            estimator, X, y, sample_weight, estimator.__sklearn_is_fitted__(), incremental=True
        )
        estimator._network.settings, estimator._network.rule = _settings(estimator), rule(estimator)
        _epoch(estimator, rows)


def _epoch(estimator: Any, rows: Rows) -> None:
    network, n, X = estimator._network, len(rows.order), sparse_rows(rows.X)
    session, size = training.session(estimator), batch_size(estimator, n)
    # The order of a single batch is not what it learns by: its shuffle is drawn when all has
    # gone well, only so that the stream goes on, and copying the stream (40 us) is saved.
    shuffles = estimator.shuffle and n > size
    stream = estimator._random_state.get_state() if shuffles else None
    try:
        if shuffles:
            estimator._random_state.shuffle(rows.order)
        loss, penalty = session.epoch(
            X,
            rows.targets,
            rows.order,
            size,
            sample_weight=rows.sample_weight,
            learning_rate=estimator._rate,
            whole=True,
            **network.rule,
        )
    except DivergedError as error:
        if shuffles:
            estimator._random_state.set_state(stream)
        raise non_finite(error) from error
    except MemoryError:  # no step is left
        if shuffles:
            estimator._random_state.set_state(stream)
        raise
    except KeyboardInterrupt:
        warnings.warn("Training interrupted by user.", stacklevel=2)
    else:
        if estimator.shuffle and not shuffles:
            estimator._random_state.shuffle(rows.order)
        estimator.n_iter_ = 0
        end_epoch(estimator, loss, penalty, n)
    network.trained()
