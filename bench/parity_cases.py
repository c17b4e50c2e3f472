"""What is fitted twice, by scikit-learn and by fastmlp: data sets and options."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import scipy.sparse
import sklearn.datasets
from sklearn.preprocessing import scale

# How far losses may be from scikit-learn's, relative to them: every entry of the loss curve, and
# the last loss of lbfgs, whose line search decides by comparing sums that are rounded differently.
CURVE_BOUND, LBFGS_BOUND = 1e-7, 1e-5
EPOCHS = 20
DATA = ["digits", "breast cancer", "wine", "iris", "diabetes"]
REGRESSIONS = ["diabetes", "diabetes counts", "iris petals"]
SHARED = {
    "hidden_layer_sizes": (16, 8),
    "batch_size": 50,
    "max_iter": EPOCHS,
    "random_state": 3,
}

ACTIVATIONS = ["identity", "logistic", "tanh", "relu"]
SOLVERS = {  # with rates at which 20 epochs teach something
    "sgd": {"solver": "sgd", "learning_rate_init": 0.05},
    "adam": {"solver": "adam", "learning_rate_init": 0.01},
    "lbfgs": {"solver": "lbfgs"},
}
BATCH_SIZES = ["auto", 1, 10, 150, 1000]  # iris has 150 rows, so that 1000 are too many
SCHEDULES = {
    "constant": {},
    "invscaling": {"power_t": 0.25},
    "adaptive": {"tol": 0.1, "n_iter_no_change": 1},  # impatient: the rate falls several times
}


@dataclass(frozen=True)
class Case:
    """A data set and the options it is fitted with.

    Attributes
    ----------
    data : one of DATA, or another question put to it, see `load`
    options : parameters of the estimator, beside SHARED
    raw : features, and real targets, as they come instead of standardised
    form : what X is, "array", "csr" or "csc"
    weighted : with a sample_weight
    steps : "fit", or "partial_fit" once an epoch
    dtype : of X, and so of the whole fit
    """

    data: str
    options: dict[str, Any]
    raw: bool = False
    form: str = "array"
    weighted: bool = False
    steps: str = "fit"
    dtype: str = "float64"

    @property
    def name(self) -> str:
        words = [self.data]
        for key, value in self.options.items():
            words.append(value if isinstance(value, str) else f"{key}={value}")
        words += [word for word in (self.form, self.steps) if word not in ("array", "fit")]
        words += ["raw"] * self.raw + ["weighted"] * self.weighted
        words += [self.dtype] * (self.dtype != "float64")
        return " ".join(words)

    @property
    def regression(self) -> bool:
        return self.data in REGRESSIONS

    @property
    def bound(self) -> float:
        if self.dtype == "float32":
            # The rounding of every step adds up, of both sides: u for each term of a sum.
            rows, columns = load(self.data)[0].shape
            steps = EPOCHS * -(-rows // SHARED["batch_size"])
            longest = max(columns, SHARED["batch_size"])
            return 2 * steps * (longest + 2) * float(np.finfo(np.float32).eps) / 2
        return LBFGS_BOUND if self.options["solver"] == "lbfgs" else CURVE_BOUND


@functools.cache
def load(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Features and targets as they come: the five data sets, and other questions put to them."""
    source = name if name in DATA else name.split()[0]
    X, y = getattr(sklearn.datasets, f"load_{source.replace(' ', '_')}")(return_X_y=True)
    if source == "digits":
        X, y = X[:600], y[:600]
    if name == "iris names":
        y = np.array(["setosa", "versicolor", "virginica"])[y]
    elif name == "digits labels":  # any number of them may hold: even, above four, prime
        y = np.column_stack([y % 2 == 0, y > 4, np.isin(y, [2, 3, 5, 7])]).astype(int)
    elif name == "iris petals":  # length and width, from those of the sepals
        X, y = X[:, :2], X[:, 2:]
    elif name == "diabetes counts":
        y = np.round(y / 50)
    return X, y


def prepare(case: Case) -> tuple[Any, np.ndarray, dict[str, np.ndarray]]:
    """X, y and, where the case has it, the sample_weight."""
    X, y = load(case.data)
    if not case.raw:
        X = scale(X)
        y = scale(y) if case.data in ("diabetes", "iris petals") else y
    X = X.astype(case.dtype)
    if case.form != "array":
        X = {"csr": scipy.sparse.csr_array, "csc": scipy.sparse.csc_array}[case.form](X)
    if not case.weighted:
        return X, y, {}
    counts = np.random.default_rng(5).integers(0, 3, len(y))  # some are 0, as in resampling
    return X, y, {"sample_weight": counts.astype(float)}


def grid() -> Iterator[Case]:
    """Every data set with every solver, activation, schedule and both kinds of momentum."""
    for data, activation in product(DATA, ACTIVATIONS):
        chosen = {"activation": activation}
        for schedule, nesterov in product(SCHEDULES, [True, False]):
            moving = {"learning_rate": schedule, "nesterovs_momentum": nesterov}
            yield Case(data, SOLVERS["sgd"] | chosen | moving | SCHEDULES[schedule])
        yield Case(data, SOLVERS["adam"] | chosen)
        yield Case(data, SOLVERS["lbfgs"] | chosen)


def stopping() -> Iterator[Case]:
    """With rows held out, and with a loss that stops falling."""
    for data, solver in product(DATA, ["sgd", "adam"]):
        early = SOLVERS[solver] | {"early_stopping": True}
        yield Case(data, early | {"n_iter_no_change": 2, "tol": 0.02})
        yield Case(data, early | {"validation_fraction": 0.3}, weighted=True)
        yield Case(data, SOLVERS[solver] | {"n_iter_no_change": 2, "tol": 0.05})
    # Without a tolerance, a score as good as the best is no reason to stop.
    ties = {"early_stopping": True, "n_iter_no_change": 1, "tol": 0}
    for data in ("wine", "digits", "breast cancer"):
        yield Case(data, SOLVERS["sgd"] | ties)
    adaptive = {"learning_rate": "adaptive", "early_stopping": True, "n_iter_no_change": 1}
    yield Case("digits", SOLVERS["sgd"] | adaptive)
    yield Case("digits labels", SOLVERS["adam"] | {"early_stopping": True})
    yield Case("diabetes counts", SOLVERS["adam"] | {"early_stopping": True, "loss": "poisson"})
    yield Case("iris petals", SOLVERS["adam"] | {"early_stopping": True})


def one_by_one() -> Iterator[Case]:
    """Options that the grid leaves at their defaults, and other forms of data."""
    for data, (solver, chosen) in product(DATA, SOLVERS.items()):
        yield Case(data, chosen, weighted=True)
        yield Case(data, chosen | {"alpha": 0})
        yield Case(data, chosen | {"alpha": 3.0})
        yield Case(data, chosen, form="csr")
        if solver != "lbfgs":
            yield Case(data, chosen | {"shuffle": False})
    for solver, size in product(["sgd", "adam"], BATCH_SIZES):
        yield Case("iris", SOLVERS[solver] | {"learning_rate_init": 0.003, "batch_size": size})
        if size != 1:  # scikit-learn cannot take a batch whose weights are all 0
            yield Case("wine", SOLVERS[solver] | {"batch_size": size}, form="csr", weighted=True)
    for activation, (solver, chosen) in product(ACTIVATIONS, SOLVERS.items()):
        yield Case("digits labels", chosen | {"activation": activation})
        yield Case("iris petals", chosen | {"activation": activation})
        slow = chosen if solver == "lbfgs" else chosen | {"learning_rate_init": 0.003}
        yield Case("diabetes counts", slow | {"activation": activation, "loss": "poisson"})
    for chosen in SOLVERS.values():
        yield Case("digits labels", chosen, weighted=True)
        yield Case("iris petals", chosen, weighted=True)
        yield Case("iris names", chosen, form="csc")
        yield Case("wine", chosen | {"hidden_layer_sizes": 5})
        yield Case("wine", chosen | {"hidden_layer_sizes": (40, 20, 30, 10)})
        yield Case("wine", chosen | {"hidden_layer_sizes": ()})
    for data, activation in product(DATA, ["logistic", "relu"]):
        yield Case(data, {"solver": "adam", "activation": activation}, raw=True)
    # Raw breast cancer and digits are no cases for lbfgs: one last bit in the first weights there
    # moves scikit-learn's own result by up to half a percent, and everywhere else by 1e-10.
    for data in ("wine", "iris", "diabetes"):
        yield Case(data, {"solver": "lbfgs", "activation": "logistic"}, raw=True)
    for momentum in (0.0, 0.5, 1.0):
        yield Case("wine", SOLVERS["sgd"] | {"momentum": momentum})
    moments = {"beta_1": 0.7, "beta_2": 0.9, "epsilon": 1e-3}
    yield Case("wine", SOLVERS["adam"] | moments)
    yield Case("wine", SOLVERS["adam"] | {"beta_1": 0.0, "beta_2": 0.0})
    yield Case("wine", SOLVERS["lbfgs"] | {"max_fun": 7})
    yield Case("wine", SOLVERS["lbfgs"] | {"tol": 0.05})
    for data, solver in product(["digits", "diabetes"], ["sgd", "adam"]):
        # Batches of the same rows: scikit-learn begins its random stream anew at every call.
        in_order = SOLVERS[solver] | {"shuffle": False}
        yield Case(data, in_order, steps="partial_fit")
    for data, solver, activation in product(DATA, ["sgd", "adam"], ACTIVATIONS):
        yield Case(data, SOLVERS[solver] | {"activation": activation}, dtype="float32")


CASES = [*grid(), *stopping(), *one_by_one()]
