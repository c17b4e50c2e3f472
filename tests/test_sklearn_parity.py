"""The same data, options and random_state give what scikit-learn's own networks give."""

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
import parity
import sklearn.neural_network
from parity_cases import CASES, DATA, SOLVERS, Case, grid
from threadpoolctl import threadpool_limits

import fastmlp

ONE_STEP = {"learning_rate_init": 1e-30, "max_iter": 1}  # too short to change a bit


@pytest.fixture(scope="module", autouse=True)
def one_blas_thread():
    """A second one has nothing to do here, and waits for the first."""
    with threadpool_limits(1):
        yield


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_same_results(case):
    if reason := parity.missing(case):
        pytest.skip(reason)
    comparison = parity.compare(case)
    assert not comparison.problems, "; ".join(comparison.problems)


def test_the_cases_have_names_of_their_own():
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("data", DATA)
def test_adaptive_cases_lower_the_rate(data):
    adaptive = [case for case in grid() if case.options.get("learning_rate") == "adaptive"]
    case = next(case for case in adaptive if case.data == data)
    patient = parity.fit(fastmlp, case, n_iter_no_change=100)[0]
    impatient = parity.fit(fastmlp, case)[0]
    assert impatient.loss_curve_[-1] != patient.loss_curve_[impatient.n_iter_ - 1]


@pytest.mark.parametrize("change", [{"alpha": 1.01e-4}, {"learning_rate_init": 0.0500001}])
def test_a_small_change_is_seen(change):
    """The bound is narrow enough to find it."""
    case = Case("wine", SOLVERS["sgd"])
    ours = parity.fit(fastmlp, case, **change)[0]
    theirs = parity.fit(sklearn.neural_network, case)[0]
    assert any("losses differ" in problem for problem in parity.disagreements(ours, theirs, case))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("data", ["iris", "breast cancer", "diabetes", "digits labels"])
def test_same_weights_to_begin_with(data, activation, dtype):
    case = Case(data, SOLVERS["sgd"] | {"activation": activation}, dtype=dtype)
    ours = parity.fit(fastmlp, case, **ONE_STEP)[0]
    theirs = parity.fit(sklearn.neural_network, case, **ONE_STEP)[0]
    for name in ("coefs_", "intercepts_"):
        actual, expected = getattr(ours, name), getattr(theirs, name)
        assert [a.dtype for a in actual] == [dtype] * 3
        assert all(np.array_equal(a, e) for a, e in zip(actual, expected, strict=True))
