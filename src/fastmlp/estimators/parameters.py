"""What values the parameters of the estimators may have, in scikit-learn's terms."""

from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.metrics import get_scorer_names
from sklearn.utils._param_validation import Interval, Options, StrOptions

from fastmlp.estimators.watch import as_callbacks

__all__ = ["CONSTRAINTS", "check_together", "hidden_sizes"]

ACTIVATIONS = {"identity", "logistic", "tanh", "relu", "leaky_relu", "gelu", "silu"}

CONSTRAINTS: dict[str, list[Any]] = {
    "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
    "activation": [StrOptions(ACTIVATIONS), list, tuple],
    "solver": [StrOptions({"lbfgs", "sgd", "adam"})],
    "alpha": [Interval(Real, 0, None, closed="left")],
    "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
    "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"})],
    "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
    "power_t": [Interval(Real, 0, None, closed="left")],
    "max_iter": [Interval(Integral, 1, None, closed="left")],
    "shuffle": ["boolean"],
    "random_state": ["random_state"],
    "tol": [Interval(Real, 0, None, closed="left")],
    "verbose": ["verbose"],
    "warm_start": ["boolean"],
    "momentum": [Interval(Real, 0, 1, closed="both")],
    "nesterovs_momentum": ["boolean"],
    "early_stopping": ["boolean"],
    "validation_fraction": [Interval(Real, 0, 1, closed="left")],
    "beta_1": [Interval(Real, 0, 1, closed="left")],
    "beta_2": [Interval(Real, 0, 1, closed="left")],
    "epsilon": [Interval(Real, 0, None, closed="neither")],
    "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
    "max_fun": [Interval(Integral, 1, None, closed="left")],
    "dtype": [StrOptions({"auto", "float32", "float64"}), Options(type, {np.float32, np.float64})],
    "scoring": [StrOptions({"loss", *get_scorer_names()}), callable, None],
    "callbacks": [callable, list, tuple, None],
    "max_time": [Interval(Real, 0, None, closed="neither"), None],
    "progress": ["boolean"],
    "n_threads": [Interval(Integral, 1, None, closed="left"), None],
    "engine": [StrOptions({"auto", "fused", "blas"})],
    "dropout": [Interval(Real, 0, 1, closed="left")],
    "weight_decay": [Interval(Real, 0, None, closed="left")],
    "max_norm": [Interval(Real, 0, None, closed="neither"), None],
}


def hidden_sizes(estimator: Any) -> list[Any]:
    """Return hidden_layer_sizes as a list."""
    sizes = estimator.hidden_layer_sizes
    return list(sizes) if hasattr(sizes, "__iter__") else [sizes]


def check_together(estimator: Any) -> None:
    """Raise what is wrong with the parameters beyond what constraints on single ones can say."""
    as_callbacks(estimator.callbacks)
    hidden = hidden_sizes(estimator)
    if any(n <= 0 for n in hidden):
        raise ValueError(f"hidden_layer_sizes must be > 0, got {hidden}.")
    if not isinstance(estimator.activation, str):
        unknown = [name for name in estimator.activation if name not in ACTIVATIONS]
        if unknown or len(estimator.activation) != len(hidden):
            raise ValueError(
                f"activation is {estimator.activation!r}, expected one for each of the "
                f"{len(hidden)} hidden layers, out of {', '.join(sorted(ACTIVATIONS))}"
            )
    if estimator.solver == "lbfgs":
        for name, unused in (("dropout", 0), ("weight_decay", 0), ("max_norm", None)):
            value = getattr(estimator, name)
            if value != unused:
                raise ValueError(
                    f"{name}={value!r} needs solver='sgd' or 'adam': lbfgs takes no single steps "
                    "that it could change"
                )
