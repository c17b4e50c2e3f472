"""scikit-learn's checks of an estimator's manners, over both of ours in several configurations."""

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
import sklearn.neural_network
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

import fastmlp

# What is warned of here, few epochs on few rows, is the checks' own doing.
pytestmark = pytest.mark.filterwarnings("ignore")

EPOCHS = 100  # as scikit-learn's common tests give its own networks
EARLY = {"max_iter": EPOCHS, "early_stopping": True, "validation_fraction": 0.3}
CONFIGURATIONS = [
    {"max_iter": EPOCHS},
    {"max_iter": EPOCHS, "solver": "sgd"},
    {"max_iter": EPOCHS, "solver": "lbfgs"},
    {"max_iter": EPOCHS, "dtype": "float32"},
    {"max_iter": EPOCHS, "activation": "logistic"},
    {"max_iter": EPOCHS, "activation": "tanh", "hidden_layer_sizes": (50, 20)},
    {"max_iter": EPOCHS, "engine": "blas"},
    EARLY,
]

# scikit-learn declares no failure of its own networks, and checks them without early stopping.
# With it they fail these, as whoever does the same has to.
NO_PARTIAL_FIT = "partial_fit refuses early_stopping=True, as scikit-learn's does"
HELD_OUT = "which rows are held out depends on how often a row is repeated"
FAIL_EARLY = {
    "check_fit_score_takes_y": NO_PARTIAL_FIT,
    "check_n_features_in_after_fitting": NO_PARTIAL_FIT,
    "check_estimators_partial_fit_n_features": NO_PARTIAL_FIT,
    "check_sample_weight_equivalence_on_dense_data": HELD_OUT,
    "check_sample_weight_equivalence_on_sparse_data": HELD_OUT,
}


def estimators():
    for options in CONFIGURATIONS:
        yield fastmlp.MLPClassifier(**options)
        yield fastmlp.MLPRegressor(**options)


def expected_failures(estimator):
    return FAIL_EARLY if estimator.early_stopping else {}


@parametrize_with_checks(list(estimators()), expected_failed_checks=expected_failures)
def test_estimator_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("name", FAIL_EARLY)
@pytest.mark.parametrize("Estimator", ["MLPClassifier", "MLPRegressor"])
def test_scikit_learns_own_fails_it_too(Estimator, name):
    own = getattr(sklearn.neural_network, Estimator)(**EARLY)
    checks = [check for _, check in estimator_checks_generator(own) if check.func.__name__ == name]
    for check in checks:
        with pytest.raises((AssertionError, ValueError)) as raised:
            check(own)
        reason = "partial_fit does not support" if FAIL_EARLY[name] == NO_PARTIAL_FIT else "weight"
        assert reason in str(raised.value)
    assert len(checks) == 1
