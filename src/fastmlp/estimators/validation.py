"""Validation: rows held out of training, the loss and the score on them."""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import check_scoring
from sklearn.model_selection import train_test_split

__all__ = ["Validation", "mean_right", "r2", "scorer", "split"]

Array = NDArray[Any]


@dataclass
class Validation:
    """Rows held out of training.

    Attributes
    ----------
    X : ndarray or CSR matrix, of the network's dtype
    y : ndarray
        Labels or values as the user writes them.
    targets : ndarray
        What they are to the network.
    sample_weight : ndarray (n_samples,) or None
        Of score and loss, the weights of the classes included.
    is_split : bool
        Whether they were split off from the rows to train on.
    """

    X: Any
    y: Any
    targets: Array
    sample_weight: Array | None
    is_split: bool


def split(
    rows: NDArray[np.intp], *, test_size: float, random_state: Any, stratify: Array | None
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows to train on and those to hold out."""
    train, test = train_test_split(
        rows, test_size=test_size, random_state=random_state, stratify=stratify
    )
    if len(test) < 2:
        raise ValueError(
            "The validation set is too small. Increase 'validation_fraction' or the size of your "
            "dataset."
        )
    return train, test


Scorer = Callable[[Validation, Array, float], float]


def scorer(estimator: Any, scoring: Any) -> Scorer:
    """Return what gives the score of rows held out, from the network's outputs and loss there.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor
        Judged as it is at the time of the call.
    scoring : None, "loss", str or callable
        As the parameter of the estimators.
    """
    if scoring == "loss":
        return lambda held, Z, loss: -loss
    if scoring is None:
        return lambda held, Z, loss: estimator._score_of(
            Z, held.y, held.targets, held.sample_weight
        )
    judge = check_scoring(estimator, scoring)
    weighs = _weighs(judge)

    def score(held: Validation, Z: Array, loss: float) -> float:
        # The rows have lost the names of their columns, so the one who is judged forgets them too.
        judged = copy.copy(estimator)
        vars(judged).pop("feature_names_in_", None)
        weights = {}
        if held.sample_weight is not None and weighs:
            weights["sample_weight"] = held.sample_weight
        return float(judge(judged, held.X, held.y, **weights))

    return score


def _weighs(judge: Any) -> bool:
    """Return whether a scorer takes sample weights; max_error, for one, does not."""
    if hasattr(judge, "_accept_sample_weight"):
        return bool(judge._accept_sample_weight())
    # Before scikit-learn 1.7 its scorers say it only by the function they call.
    names = inspect.signature(getattr(judge, "_score_func", judge)).parameters
    kinds = {parameter.kind for parameter in names.values()}
    return "sample_weight" in names or inspect.Parameter.VAR_KEYWORD in kinds


def mean_right(right: NDArray[np.bool_], sample_weight: Array | None) -> float:
    """Return the share of rows that are right."""
    return float(np.average(right, weights=sample_weight))


def r2(y: Array, predicted: Array, sample_weight: Array | None) -> float:
    """Return the coefficient of determination, averaged over the outputs.

    For every output it is 1 - Σ w (y - predicted)² / Σ w (y - mean of y)²; where y is constant, 1
    if the prediction is perfect and 0 otherwise.

    Parameters
    ----------
    y, predicted : ndarray (n_samples, n_outputs)
    sample_weight : ndarray (n_samples,) or None

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp.estimators.validation import r2
    >>> r2(np.array([[1.0], [2.0], [3.0]]), np.array([[1.0], [2.0], [2.0]]), None)
    0.5
    """
    w = 1.0 if sample_weight is None else sample_weight[:, np.newaxis]
    mean = np.average(y, axis=0, weights=sample_weight)
    missed = (w * (y - predicted) ** 2).sum(axis=0, dtype=np.float64)
    spread = (w * (y - mean) ** 2).sum(axis=0, dtype=np.float64)
    scores = np.where(missed == 0, 1.0, 0.0)
    varies = spread != 0
    scores[varies] = 1 - missed[varies] / spread[varies]
    return float(scores.mean())
