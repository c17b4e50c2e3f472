"""How an estimator is trained: epochs of SGD or Adam, or L-BFGS, and when they stop."""

import warnings
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.optimize import _check_optimize_result

from fastmlp.errors import DivergedError
from fastmlp.estimators import files
from fastmlp.estimators.network import Network
from fastmlp.estimators.training import Rows, Run, build
from fastmlp.estimators.training import session as session_of
from fastmlp.estimators.validation import Validation, scorer
from fastmlp.estimators.watch import Watch
from fastmlp.inputs import sparse_rows
from fastmlp.session import Session

__all__ = ["batch_size", "descend", "end_epoch", "minimise", "non_finite", "rule"]

Array = NDArray[Any]

SCIPY = tuple(int(part) for part in scipy.__version__.split(".")[:2])
SMALLEST_RATE = 1e-6  # below it, the adaptive schedule ends the fit instead of going lower


def rule(estimator: Any) -> dict[str, Any]:
    """Return what the estimator's parameters are to `Session.epoch`."""
    options: dict[str, Any] = {
        "l2": float(estimator.alpha),
        "weight_decay": float(estimator.weight_decay),
        "max_norm": None if estimator.max_norm is None else float(estimator.max_norm),
    }
    if estimator.solver == "sgd":
        options["momentum"] = float(estimator.momentum)
        options["nesterov"] = bool(estimator.nesterovs_momentum)
    else:
        options["beta_1"] = float(estimator.beta_1)
        options["beta_2"] = float(estimator.beta_2)
        options["epsilon"] = float(estimator.epsilon)
    return options


def batch_size(estimator: Any, n_samples: int) -> int:
    """Return the number of rows of a step."""
    if estimator.batch_size == "auto":
        return min(200, n_samples)
    if estimator.batch_size > n_samples:
        warnings.warn(
            "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped",
            stacklevel=2,
        )
    return min(int(estimator.batch_size), n_samples)


def descend(estimator: Any, rows: Rows, validation: Validation | None, watch: Watch) -> None:
    """Train epoch by epoch, until a stopping rule, a watcher or max_iter ends it."""
    network: Network = estimator._network
    session = session_of(estimator)
    options, size = rule(estimator), batch_size(estimator, len(rows.order))
    judge = scorer(estimator, estimator.scoring) if estimator.early_stopping else None
    run: Run | None = vars(estimator).pop("_run", None)
    if run is not None:
        # Copies: a fit that fails finds its run as it was.
        best, over, rows.order = run.best, run.over, run.order.copy()
    else:
        best, over = (network.model.params.copy() if judge else None), False
        estimator.n_iter_ = 0
        if judge is not None and validation is not None:
            _judge_again(estimator, validation, judge)
    # What the loop looks up in every epoch, once.
    X, targets, weight, order = sparse_rows(rows.X), rows.targets, rows.sample_weight, rows.order
    shuffle = estimator._random_state.shuffle if estimator.shuffle else None
    max_iter, quiet = estimator.max_iter, watch.quiet
    path, every = estimator._checkpoint or (None, 1)
    try:
        while not over and estimator.n_iter_ < max_iter:
            if not quiet:
                watch.epoch_begins()
            if shuffle is not None:
                shuffle(order)
            loss, penalty = session.epoch(
                X, targets, order, size, sample_weight=weight, learning_rate=estimator._rate,
                **options,
            )  # fmt: skip
            score = None
            if validation is not None:
                score = _judge(estimator, validation, judge)
                if score is not None and score > estimator.best_validation_score_:
                    best = network.model.params.copy()
            over = end_epoch(estimator, loss, penalty, len(order), score)
            if not quiet:
                network.trained()
                watch.best = best
                over |= watch.epoch_ended()
                network.changed()
            late = watch.out_of_time
            if path is not None and (
                over or late or estimator.n_iter_ % every == 0 or estimator.n_iter_ == max_iter
            ):
                files.save(estimator, path, Run(len(targets), order, rows.held, best, over))
            if late and not over:
                _warn(
                    f"Stochastic Optimizer: max_time={estimator.max_time} s is over after "
                    f"{estimator.n_iter_} epochs and the optimization hasn't converged yet."
                )
                break
        else:
            if not over:
                _warn(
                    f"Stochastic Optimizer: Maximum iterations ({max_iter}) reached and the "
                    "optimization hasn't converged yet."
                )
    except KeyboardInterrupt:
        warnings.warn("Training interrupted by user.", stacklevel=2)
    except DivergedError as error:
        if best is None:
            raise non_finite(error) from error
        _give_up(estimator, error)
    if best is not None:
        network.set_params(best)
    network.trained()


def end_epoch(
    estimator: Any, loss: float, penalty: float, n_rows: int, score: float | None = None
) -> bool:
    """Enter an epoch in the estimator's books; return whether training has come to its end.

    scikit-learn's rules, in scikit-learn's order: a plateau of more than n_iter_no_change epochs
    ends the fit or, with the adaptive schedule, divides the learning rate by 5.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor
    loss, penalty : float
        As `Session.epoch` returns them.
    n_rows : int
        Rows of the epoch.
    score : float or None
        On the rows held out, where early stopping goes by it.
    """
    loss = loss * estimator._loss_scale + penalty
    estimator.n_iter_ += 1
    estimator.loss_ = loss
    estimator.t_ += n_rows
    estimator.loss_curve_.append(loss)
    if estimator.verbose:
        print(f"Iteration {estimator.n_iter_}, loss = {loss:.8f}")
    if score is None:
        worse = loss > estimator.best_loss_ - estimator.tol
        if loss < estimator.best_loss_:
            estimator.best_loss_ = loss
    else:
        estimator.validation_scores_.append(score)
        if estimator.verbose:
            print(f"Validation score: {score:f}")
        worse = score < estimator.best_validation_score_ + estimator.tol
        if score > estimator.best_validation_score_:
            estimator.best_validation_score_ = score
    estimator._no_improvement_count = estimator._no_improvement_count + 1 if worse else 0

    if estimator._schedule == "invscaling":
        try:
            # A float, as integers would grow to all of their digits.
            later = (estimator.t_ + 1) ** float(estimator.power_t)
        except OverflowError:
            later = np.inf
        estimator._rate = float(estimator.learning_rate_init) / later
    if estimator._no_improvement_count <= estimator.n_iter_no_change:
        return False
    return _plateau(estimator, "Training loss" if score is None else "Validation score")


def _plateau(estimator: Any, what: str) -> bool:
    """Go on with a smaller learning rate if the schedule has one; return whether it has not."""
    ends = True
    verdict = "Stopping."
    if estimator._schedule == "adaptive":
        ends = estimator._rate <= SMALLEST_RATE
        if ends:
            verdict = "Learning rate too small. Stopping."
        else:
            estimator._rate /= 5.0
            estimator._no_improvement_count = 0
            verdict = f"Setting learning rate to {estimator._rate:f}"
    if estimator.verbose:
        print(
            f"{what} did not improve more than tol={estimator.tol:f} for "
            f"{estimator.n_iter_no_change} consecutive epochs. {verdict}"
        )
    return ends


def _judge(estimator: Any, validation: Validation, judge: Any) -> float | None:
    """Enter the loss on the rows held out; return the score on them, if it is asked for."""
    network = estimator._network
    network.settle()
    with np.errstate(over="ignore", invalid="ignore"):  # a network about to diverge
        Z = network.outputs(validation.X, estimator._threads())
        loss = network.loss(Z, validation.targets, validation.sample_weight) * estimator._loss_scale
        estimator.validation_loss_curve_.append(loss)
        return None if judge is None else judge(validation, Z, loss)


def _judge_again(estimator: Any, validation: Validation, judge: Any) -> None:
    """Measure the best score so far anew where a warm start changes what it is measured by."""
    by = (estimator.scoring, validation.is_split)
    before, estimator._judged_by = vars(estimator).get("_judged_by", by), by
    if estimator.best_validation_score_ == -np.inf or (before == by and validation.is_split):
        return
    network = estimator._network
    network.settle()
    Z = network.outputs(validation.X, estimator._threads())
    loss = network.loss(Z, validation.targets, validation.sample_weight) * estimator._loss_scale
    estimator.best_validation_score_ = judge(validation, Z, loss)


def _give_up(estimator: Any, error: DivergedError) -> None:
    """End a fit that has diverged, where early stopping holds better parameters."""
    estimator.n_iter_ += 1
    estimator.loss_ = float("nan")
    for curve in ("loss_curve_", "validation_scores_", "validation_loss_curve_"):
        getattr(estimator, curve).append(float("nan"))
    _warn(
        f"Stochastic Optimizer: {error}. The parameters with the best validation score so far are "
        "kept."
    )


def non_finite(why: object) -> ValueError:
    """Return the error to raise for a solver that has left the finite numbers."""
    reason = str(why)
    return ValueError(
        "Solver produced non-finite parameter weights. The input data may contain large values "
        f"and need to be preprocessed. {reason[:1].upper()}{reason[1:]}."
    )


def _warn(message: str) -> None:
    warnings.warn(message, ConvergenceWarning, stacklevel=3)


def minimise(estimator: Any, rows: Rows, validation: Validation | None, watch: Watch) -> None:
    """Train by L-BFGS-B on all rows at once, in float64 whatever the network's dtype.

    With float32 its line search soon finds no way down that is larger than the rounding.
    """
    network: Network = estimator._network
    network.settle()
    network.session = None  # what an earlier solver remembers means nothing to this one
    model, X, targets, weight = network.model, rows.X, rows.targets, rows.sample_weight
    if model.dtype != "float64":
        model = build(estimator, model.sizes, "float64")
        X, targets = X.astype(np.float64), _float64(targets)
        weight = None if weight is None else _float64(weight)
    X = sparse_rows(X)
    session = Session(model, "sgd", engine=estimator.engine, n_threads=estimator.n_threads)
    decay = float(estimator.alpha) / float(X.shape[0] if weight is None else weight.sum())
    # scikit-learn minimises the mean squared error over the outputs along the gradient of its sum.
    scale = estimator._loss_scale if model.loss_name == "squared_error" else 1.0
    tell, ended = not watch.quiet, ""

    def objective(params: Array) -> tuple[float, Array]:
        if tell:
            watch.epoch_begins()
        model.params[:] = params
        loss, gradient = session.gradients(X, targets, weight)
        gradient = np.array(gradient)
        for W, dW in zip(model.weights, model.split(gradient)[0], strict=True):
            dW += decay * W
        return loss * scale + penalty(), gradient

    def penalty() -> float:
        return 0.5 * decay * sum(float(np.vdot(W, W)) for W in model.weights)

    def after_iteration(intermediate_result: OptimizeResult) -> None:
        nonlocal ended
        model.params[:] = intermediate_result.x
        loss = float(intermediate_result.fun)
        if scale != estimator._loss_scale:
            loss = (loss - penalty()) * estimator._loss_scale + penalty()
        estimator.n_iter_ += 1
        estimator.loss_ = loss
        estimator.loss_curve_.append(loss)
        if validation is not None or tell:
            network.model.write(model.params)
        if validation is not None:
            _judge(estimator, validation, None)
        if tell and watch.epoch_ended():
            ended = "a callback"
        elif watch.out_of_time:
            ended = "max_time"
        if ended:
            raise StopIteration

    estimator.n_iter_ = 0
    result = minimize(
        objective,
        network.model.params.astype(np.float64),
        method="L-BFGS-B",
        jac=True,
        callback=after_iteration,
        options={
            "maxfun": estimator.max_fun,
            "maxiter": estimator.max_iter,
            "gtol": estimator.tol,
            **({} if SCIPY >= (1, 15) else {"iprint": 1 if estimator.verbose else -1}),
        },
    )
    if not (np.isfinite(result.x).all() and np.isfinite(result.fun)):
        raise non_finite(f"lbfgs was in iteration {result.nit}")
    if ended == "max_time":
        _warn(
            f"lbfgs: max_time={estimator.max_time} s is over after {estimator.n_iter_} iterations "
            "and the optimization hasn't converged yet."
        )
    elif not ended:
        estimator.n_iter_ = _check_optimize_result("lbfgs", result, estimator.max_iter)
    if not result.nit:
        estimator.loss_ = float(result.fun)
    network.model.write(result.x)


def _float64(array: Array) -> Array:
    """Return values as float64; class numbers stay what they are."""
    return array if array.dtype == np.int64 else array.astype(np.float64)
