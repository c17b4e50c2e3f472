"""LossCurveDisplay: how the losses of a fit went, drawn with matplotlib."""

from typing import Any

from sklearn.utils.validation import check_is_fitted

__all__ = ["LossCurveDisplay"]

TRAINING, VALIDATION, SCORES = "#1f77b4", "#ff7f0e", "#7f7f7f"


class LossCurveDisplay:
    """The losses of a fit, epoch by epoch, and the validation scores where there are any.

    Make one with `from_estimator`.

    Parameters
    ----------
    loss : sequence of float
        Training loss of every epoch.
    validation_loss : sequence of float or None
    validation_scores : sequence of float or None
        Drawn on an axis of their own, at the right.
    score_name : str
        Label of that axis.
    step_name : str
        Label of the horizontal axis.
    estimator_name : str or None
        Title.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
    score_ax_ : matplotlib.axes.Axes or None
    figure_ : matplotlib.figure.Figure
    lines_ : list of matplotlib.lines.Line2D
        Training loss, then, where there are such, validation loss and scores.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from fastmlp import LossCurveDisplay, MLPClassifier
    >>> from fastmlp.data import load_digits
    >>> X, y = load_digits()
    >>> model = MLPClassifier(early_stopping=True, random_state=0).fit(X / 16, y)
    >>> display = LossCurveDisplay.from_estimator(model)
    >>> len(display.lines_)
    3
    """

    def __init__(
        self,
        *,
        loss: Any,
        validation_loss: Any = None,
        validation_scores: Any = None,
        score_name: str = "Validation score",
        step_name: str = "Epoch",
        estimator_name: str | None = None,
    ) -> None:
        self.loss = loss
        self.validation_loss = validation_loss
        self.validation_scores = validation_scores
        self.score_name = score_name
        self.step_name = step_name
        self.estimator_name = estimator_name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        ax: Any = None,
        name: str | None = None,
        log_scale: bool = False,
        **kwargs: Any,
    ) -> "LossCurveDisplay":
        """Draw the losses of a fitted estimator, ours or scikit-learn's.

        Parameters
        ----------
        estimator : MLPClassifier, MLPRegressor or a Pipeline that ends with one
        ax : matplotlib.axes.Axes or None
            Where to draw; None makes a new figure.
        name : str or None
            Title; None is the name of the class.
        log_scale : bool
            Whether the losses have a logarithmic axis.
        **kwargs
            For the line of the training loss, as ``matplotlib.axes.Axes.plot`` takes them.

        Returns
        -------
        LossCurveDisplay
        """
        if hasattr(estimator, "steps"):
            estimator = estimator.steps[-1][1]
        check_is_fitted(estimator)
        loss = getattr(estimator, "loss_curve_", None)
        if not loss:
            raise ValueError(
                f"{type(estimator).__name__} has no loss curve: no epoch was completed"
            )
        scoring = getattr(estimator, "scoring", None)
        default = "accuracy" if hasattr(estimator, "classes_") else "R²"
        if scoring is not None:
            default = scoring if isinstance(scoring, str) else "score"
        display = cls(
            loss=list(loss),
            validation_loss=getattr(estimator, "validation_loss_curve_", None),
            validation_scores=getattr(estimator, "validation_scores_", None),
            score_name="Negative validation loss" if default == "loss" else f"Validation {default}",
            step_name="Iteration" if getattr(estimator, "solver", "") == "lbfgs" else "Epoch",
            estimator_name=type(estimator).__name__ if name is None else name,
        )
        return display.plot(ax=ax, log_scale=log_scale, **kwargs)

    def plot(
        self, ax: Any = None, *, name: str | None = None, log_scale: bool = False, **kwargs: Any
    ) -> "LossCurveDisplay":
        """Draw the curves.

        Parameters
        ----------
        ax, name, log_scale, **kwargs
            As for `from_estimator`.

        Returns
        -------
        self
        """
        plt = _pyplot()
        from matplotlib.ticker import MaxNLocator

        if ax is None:
            _, ax = plt.subplots(layout="constrained")
        self.ax_, self.figure_, self.score_ax_ = ax, ax.figure, None
        self.lines_ = [
            _curve(ax, self.loss, **{"label": "Training loss", "color": TRAINING, **kwargs})
        ]
        if self.validation_loss:
            self.lines_ += [
                _curve(ax, self.validation_loss, label="Validation loss", color=VALIDATION)
            ]
        ax.set(xlabel=self.step_name, ylabel="Loss", title=name or self.estimator_name or "")
        if log_scale:
            ax.set_yscale("log")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.spines["top"].set_visible(False)
        if self.validation_scores:
            self.score_ax_ = ax.twinx()
            self.lines_ += [
                _curve(
                    self.score_ax_,
                    self.validation_scores,
                    label=self.score_name,
                    color=SCORES,
                    linestyle="--",
                )
            ]
            self.score_ax_.set_ylabel(self.score_name)
            self.score_ax_.spines["top"].set_visible(False)
        else:
            ax.spines["right"].set_visible(False)
        if len(self.lines_) > 1:
            # On the upper axes, so that no line runs through it.
            (self.score_ax_ or ax).legend(handles=self.lines_, loc="center right", frameon=False)
        return self


def _curve(ax: Any, values: Any, **kwargs: Any) -> Any:
    """Draw values over the number of their epoch, and return the line."""
    marker = "o" if len(values) == 1 else None  # a single point is no line
    (line,) = ax.plot(range(1, len(values) + 1), values, **{"marker": marker, **kwargs})
    return line


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "LossCurveDisplay needs matplotlib; install it with: pip install matplotlib"
        ) from error
    return plt
