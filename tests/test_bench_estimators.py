"""The estimators' bench compares like with like, and says what was missed. Nothing is timed."""

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
import estimators
import parity
from estimators import Job, Line
from parity_cases import SOLVERS, Case

TINY = {"hidden_layer_sizes": [5], "batch_size": 100, "max_iter": 1, "solver": "sgd"}


def test_lines_have_names_of_their_own():
    lines = list(estimators.lines())
    assert len({line.name for line in lines}) == len(lines)
    for line in lines:
        assert line.ours.options == line.theirs.options and line.ours.dtype == line.theirs.dtype
        assert line.ours.library == "fastmlp"


def test_a_line_through_its_processes():
    ours, theirs = (Job("fit", "digits", "float64", TINY, of) for of in ("fastmlp", "sklearn"))
    result = estimators.race(Line("tiny", ours, theirs, 1.0), rounds=2)
    assert result["agrees"] and result["losses"][0] == pytest.approx(result["losses"][1], rel=1e-7)
    assert [len(seconds) for seconds in result["seconds"]] == [2, 2]
    assert "agree" in estimators.row(result)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("work", ["fit", "trainer", "partial_fit", "steps"])
def test_jobs_end_at_a_loss(work):
    X, y = estimators.load("digits", "float32")
    job = Job(work, "digits", "float32", TINY)
    loss = getattr(estimators, work)(job, X, y)()
    assert 1 < loss < 4  # log(10), about


def test_steps_are_counted():
    X, _ = estimators.load("digits", "float32")
    job = Job("steps", "digits", "float32", TINY | {"max_iter": 3})
    assert estimators.per_call(job, X) == 3 * 18  # 1797 rows, 100 a step


def made_up(**changes):
    result = {"line": "a", "seconds": [[0.001], [0.004]], "times": 4.0, "wanted": 2.0}
    return result | {"reached": True, "agrees": True} | changes


def test_rows_tell_what_was_missed():
    assert "| 4.0 × as fast | at least 2.0 |" in estimators.row(made_up())
    assert "at least 8.0, **missed**" in estimators.row(made_up(wanted=8.0, reached=False))
    slower = made_up(times=0.5, wanted=1 / 1.5, reached=False, agrees=None)
    assert "| costs 2.00 × | at most 1.5, **missed** |" in estimators.row(slower)
    assert "**differ**" in estimators.row(made_up(agrees=False))


def test_parity_rows_tell_what_differs():
    case = Case("wine", SOLVERS["sgd"] | {"alpha": 0})
    same = parity.Comparison(case, (20, 20), 1e-12, [])
    other = parity.Comparison(case, (20, 19), 0.5, ["n_iter_ is 20, expected 19"])
    assert parity.row(same) == (
        "| wine | sgd | learning_rate_init=0.05 alpha=0 | 1.0e-12 | 20, 20 | agree |"
    )
    assert "| 5.0e-01 | 20, 19 | n_iter_ is 20, expected 19 |" in parity.row(other)
    assert "**All cases agree.**" in parity.summary([same])
    lines = parity.summary([same, other]).splitlines()
    assert lines[2] == "| wine | sgd | float64 | 2 | 5.0e-01 | 1e-07 |"
    assert lines[-1] == "**1 of 2 cases differ.**"
