"""The same results as scikit-learn? ``python bench/parity.py [--json FILE] [WORD ...]``

Every case of `parity_cases` is fitted twice from the same random_state, by scikit-learn and by
fastmlp, in float64. What has to agree is what a user would look at: the loss of every epoch, the
number of epochs, the scores on the validation rows, the predictions. The table gives the largest
relative difference of the loss curves. Words choose among the cases: ``iris adam`` are those with
both in their names.
"""

import argparse
import itertools
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sklearn.neural_network
from parity_cases import CASES, EPOCHS, SHARED, Case, prepare
from sklearn.utils.validation import has_fit_parameter

import fastmlp

SAME = ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_")


def fit(library: Any, case: Case, **changes: Any) -> tuple[Any, list[str]]:
    """The fitted estimator of `fastmlp` or `sklearn.neural_network`, and what it has warned of."""
    X, y, weights = prepare(case)
    Estimator = library.MLPRegressor if case.regression else library.MLPClassifier
    estimator = Estimator(**SHARED | case.options | changes)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        if case.steps == "fit":
            estimator.fit(X, y, **weights)
        else:
            classes = {} if case.regression else {"classes": np.unique(y)}
            for _ in range(EPOCHS):
                estimator.partial_fit(X, y, **weights, **classes)
    # What is deprecated in scikit-learn's use of SciPy is nothing to agree on.
    categories = {one.category.__name__ for one in warned} - {"DeprecationWarning"}
    return estimator, sorted(categories)


def missing(case: Case) -> str | None:
    """What this scikit-learn cannot do of a case, if so: before 1.7 it knows fewer options."""
    Estimator = sklearn.neural_network.MLPRegressor
    if case.weighted and not has_fit_parameter(Estimator, "sample_weight"):
        return "this scikit-learn's networks take no sample_weight"
    if "loss" in case.options and "loss" not in Estimator().get_params():
        return "this scikit-learn's networks have no other loss"
    return None


def curve(model: Any) -> np.ndarray:
    """Its loss after every epoch; of lbfgs, which keeps no curve, the last."""
    return np.array([model.loss_] if model.solver == "lbfgs" else model.loss_curve_, float)


def relative_difference(actual: Any, expected: Any) -> float:
    """The largest of all elements; infinite where one side has more of them, or NaN."""
    actual, expected = np.asarray(actual, float), np.asarray(expected, float)
    if actual.shape != expected.shape:
        return np.inf
    with np.errstate(divide="ignore", invalid="ignore"):
        differences = np.where(actual == expected, 0, abs(actual - expected) / abs(expected))
    return float(np.nan_to_num(differences, nan=np.inf).max(initial=0))


def distance(actual: np.ndarray, expected: np.ndarray) -> float:
    """The length of the difference, as a part of the length of what is expected."""
    if actual.shape != expected.shape:
        return np.inf
    parted = float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))
    return parted if np.isfinite(parted) else np.inf


def disagreements(ours: Any, theirs: Any, case: Case) -> Iterator[str]:
    """A sentence for everything in which two fitted estimators differ by more than they may."""
    difference = relative_difference(curve(ours), curve(theirs))
    if not difference <= case.bound:
        yield f"the losses differ by {difference:.1e} of them, more than {case.bound:.0e}"
    for name in SAME:
        if getattr(ours, name) != getattr(theirs, name):
            yield f"{name} is {getattr(ours, name)}, expected {getattr(theirs, name)}"
    for name in ("coefs_", "intercepts_"):
        actual, expected = (
            [(a.shape, a.dtype.name) for a in getattr(model, name)] for model in (ours, theirs)
        )
        if actual != expected:
            yield f"{name} are {actual}, expected {expected}"
    if case.options["solver"] != "lbfgs":
        yield from _different_best(ours, theirs, case)
    if case.options.get("early_stopping"):
        # Shares of right answers are the same; R² is so up to rounding.
        difference = relative_difference(ours.validation_scores_, theirs.validation_scores_)
        if not difference <= (case.bound if case.regression else 0):
            yield f"the validation scores differ by {difference:.1e} of them"
    yield from _different_predictions(ours, theirs, case)


def _different_best(ours: Any, theirs: Any, case: Case) -> Iterator[str]:
    for name in ("best_loss_", "best_validation_score_"):
        actual, expected = getattr(ours, name), getattr(theirs, name)
        alike = (actual is None) == (expected is None)
        if not alike or (actual and not relative_difference(actual, expected) <= case.bound):
            yield f"{name} is {actual}, expected {expected}"


def _different_predictions(ours: Any, theirs: Any, case: Case) -> Iterator[str]:
    X, _, _ = prepare(case)
    actual, expected = ours.predict(X), theirs.predict(X)
    if actual.dtype != expected.dtype:
        yield f"predict gives {actual.dtype}, expected {expected.dtype}"
    if case.regression:
        difference = distance(actual, expected)
    else:
        if not np.array_equal(actual, expected):
            yield f"{np.sum(actual != expected)} of {actual.size} predicted labels differ"
        difference = distance(ours.predict_proba(X), theirs.predict_proba(X))
    if not difference <= case.bound:
        yield f"the predictions differ by {difference:.1e} of them, more than {case.bound:.0e}"


@dataclass
class Comparison:
    """Of one case: epochs of both, the largest difference of the losses, and all disagreements."""

    case: Case
    n_iter: tuple[int, int]
    difference: float
    problems: list[str]


def compare(case: Case, library: Any = fastmlp) -> Comparison:
    """Fit a case with scikit-learn and with a library that stands in for it."""
    (ours, our_warnings), (theirs, their_warnings) = (
        fit(one, case) for one in (library, sklearn.neural_network)
    )
    problems = list(disagreements(ours, theirs, case))
    if our_warnings != their_warnings:
        problems.append(f"warnings are {our_warnings}, expected {their_warnings}")
    difference = relative_difference(curve(ours), curve(theirs))
    return Comparison(case, (ours.n_iter_, theirs.n_iter_), difference, problems)


def row(one: Comparison) -> str:
    options = one.case.name.removeprefix(f"{one.case.data} {one.case.options['solver']}").strip()
    cells = [
        one.case.data,
        one.case.options["solver"],
        options or "defaults",
        f"{one.difference:.1e}",
        f"{one.n_iter[0]}, {one.n_iter[1]}",
        "; ".join(one.problems) or "agree",
    ]
    return f"| {' | '.join(cells)} |"


def summary(done: list[Comparison]) -> str:
    """The largest difference of every data set, solver and dtype, and the verdict over all."""
    lines = [
        "| data | solver | dtype | cases | largest difference | allowed |",
        "|---|---|---|--:|--:|--:|",
    ]

    def kind(one: Comparison) -> tuple[str, str, str]:
        return one.case.data, one.case.options["solver"], one.case.dtype

    for words, group in itertools.groupby(sorted(done, key=kind), kind):
        found = list(group)
        cells = [*words, str(len(found)), f"{max(one.difference for one in found):.1e}"]
        lines.append(f"| {' | '.join(cells)} | {found[0].case.bound:.0e} |")
    differing = sum(bool(one.problems) for one in done)
    verdict = f"{differing} of {len(done)} cases differ." if differing else "All cases agree."
    return "\n".join([*lines, "", f"**{verdict}**"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="WORD", help="cases with all of them")
    parser.add_argument("--json", metavar="FILE", help="write the comparisons there")
    arguments = parser.parse_args()
    possible = [case for case in CASES if missing(case) is None]
    chosen = [case for case in possible if set(arguments.words) <= set(case.name.split())]
    print("| data | solver | options | largest difference | epochs, ours and theirs | verdict |")
    print("|---|---|---|--:|--:|---|")
    done = []
    for case in chosen:
        done.append(compare(case))
        print(row(done[-1]), flush=True)
    print(f"\n{summary(done)}")
    if arguments.json:
        rows = [{"case": one.case.name, "n_iter": one.n_iter} for one in done]
        for entry, one in zip(rows, done, strict=True):
            entry |= {"difference": one.difference, "problems": one.problems}
        Path(arguments.json).write_text(json.dumps(rows, indent=1))
    if any(one.problems for one in done):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
