"""Watch: who is told of every epoch, and may end the fit."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from fastmlp.estimators.network import Network

try:  # scikit-learn 1.9 has a protocol for callbacks
    from sklearn.callback import CallbackSupportMixin
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Nothing: this scikit-learn has no callbacks."""


__all__ = ["CallbackSupportMixin", "Watch", "as_callbacks"]


def as_callbacks(callbacks: Any) -> list[Callable[[Any], Any]]:
    """Return the parameter `callbacks` as a list, or raise what is wrong with it."""
    if callbacks is None:
        return []
    listed = [callbacks] if callable(callbacks) else list(callbacks)
    for i, callback in enumerate(listed):
        if not callable(callback):
            hint = ""
            if hasattr(callback, "on_fit_task_end"):
                hint = "; callbacks of scikit-learn's protocol go to set_callbacks"
            raise TypeError(f"callbacks[{i}] is {callback!r}, expected a callable{hint}")
    return listed


class Watch:
    """Those who watch a fit: callbacks, scikit-learn's callbacks, a progress bar and a clock.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor
    X, y, sample_weight
        What the fit was called with, for scikit-learn's callbacks.
    """

    def __init__(self, estimator: Any, X: Any, y: Any, sample_weight: Any) -> None:
        self._estimator = estimator
        self._callbacks = as_callbacks(estimator.callbacks)
        self._data = {"X": X, "y": y}
        if sample_weight is not None:
            self._data["metadata"] = {"sample_weight": sample_weight}
        self._task: Any = None
        self._epoch: Any = None
        self._bar: Any = None
        self._heard = bool(getattr(estimator, "_skl_callbacks", None))
        if hasattr(estimator, "_callback_fit_ctx"):
            self._task = estimator._callback_fit_ctx
        self._deadline = None
        if estimator.max_time is not None:
            self._deadline = time.perf_counter() + estimator.max_time
        self.best: Any = None  # the parameters that early stopping would end with
        #: Whether nobody wants to know.
        self.quiet = not (self._callbacks or self._heard or estimator.progress)

    def __enter__(self) -> "Watch":
        if self._heard and self._task is not None:
            with self._estimator._turn.shared():
                self._task.call_on_fit_task_begin(estimator=self._estimator, **self._data)
        if self._estimator.progress:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=self._estimator.max_iter, unit="epoch")
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if self._bar is not None:
            self._bar.close()
        if error is None and self._heard and self._task is not None:
            with self._estimator._turn.shared():
                self._task.call_on_fit_task_end(
                    estimator=self._estimator, reconstruction_attributes=self._fitted, **self._data
                )

    @property
    def out_of_time(self) -> bool:
        """Whether max_time is over."""
        return self._deadline is not None and time.perf_counter() >= self._deadline

    def epoch_begins(self) -> None:
        """Tell scikit-learn's callbacks, unless they know."""
        if self._heard and self._task is not None and self._epoch is None:
            self._epoch = self._task.subcontext(task_name="epoch")
            with self._estimator._turn.shared():
                self._epoch.call_on_fit_task_begin(estimator=self._estimator, **self._data)

    def epoch_ended(self) -> bool:
        """Tell everybody; return whether somebody wants the fit to end here.

        Meanwhile other threads may look at the estimator as well.
        """
        with self._estimator._turn.shared():
            return self._tell()

    def _tell(self) -> bool:
        if self._bar is not None:
            self._show()
        # All of them are told, whatever the first of them answers.
        answers = [_is_true(callback(self._estimator)) for callback in self._callbacks]
        if self._epoch is not None:
            answers.append(
                self._epoch.call_on_fit_task_end(
                    estimator=self._estimator, reconstruction_attributes=self._fitted, **self._data
                )
            )
            self._epoch = None
        return any(answers)

    def _show(self) -> None:
        estimator = self._estimator
        latest = {"loss": f"{estimator.loss_:.4f}"}
        if getattr(estimator, "validation_loss_curve_", None):
            latest["validation loss"] = f"{estimator.validation_loss_curve_[-1]:.4f}"
        if getattr(estimator, "validation_scores_", None):
            latest["score"] = f"{estimator.validation_scores_[-1]:.4f}"
        self._bar.set_postfix(latest, refresh=False)
        self._bar.update()

    def _fitted(self) -> dict[str, Any]:
        """Return what makes a copy of the estimator one whose fit has ended here."""
        model = self._estimator._network.model
        self._estimator._network.settle()
        copied = model.copy()
        if self.best is not None:
            copied.params[:] = self.best
        return {"_network": Network(copied)}


def _is_true(answer: Any) -> bool:
    """Whether a callback has said True; a loss it happens to return, say, ends nothing."""
    return isinstance(answer, bool | np.bool_) and bool(answer)
