"""The chart of a training: the losses of every epoch, drawn by matplotlib."""

import io
import math
import warnings
from pathlib import Path

from fastmlp.history import History

__all__ = ["ENDINGS", "MEASURES", "check", "draw"]

ENDINGS = (".png", ".svg", ".pdf")
MEASURES = {
    "softmax_cross_entropy": "cross-entropy",
    "squared_error": "half squared error, target standardised",
}
TRAINING, WATCHED = "#7d8590", "#e8590c"


def check(path: str) -> None:
    """Raise if a chart could not be written to a file of this name, or not be drawn at all."""
    if Path(path).suffix.lower() not in ENDINGS:
        raise ValueError(f"--plot is {path!r}, expected a name that ends in {', '.join(ENDINGS)}")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ModuleNotFoundError(
            f"--plot needs matplotlib, which cannot be imported ({error}); "
            "python -m pip install matplotlib"
        ) from None


def draw(
    history: History, path: str, *, title: str, measure: str, watched: str, kept: bool
) -> bytes:
    """Return the chart of a history in the format that the name of the file asks for.

    Parameters
    ----------
    history : History
        Of at least one epoch.
    path : str
        Where the chart will go.
    title, measure : str
        Above the chart, and along its axis of losses; the latter is one of `MEASURES`.
    watched : str
        On which rows the validation losses are.
    kept : bool
        Whether the model keeps the parameters of the epoch that did best on these rows.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    n = history.epochs
    curves = {"training rows": history.loss, watched: history.validation_loss}
    figure = Figure(figsize=(7, 4.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    for (label, losses), colour in zip(curves.items(), (TRAINING, WATCHED), strict=True):
        if losses:
            marker = "." if n <= 20 else ""  # a line of one epoch would not be seen
            axes.plot(range(1, n + 1), losses, color=colour, marker=marker, label=label)

    finite = [loss for losses in curves.values() for loss in losses if math.isfinite(loss)]
    if 0 < 10 * min(finite) < max(finite):
        axes.set_yscale("log")
        few = max(finite) < 1000 * min(finite)  # decades, with room for ticks between them
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda loss, _: f"{loss:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlim(1 - max(0.5, 0.02 * n), n + max(0.5, 0.02 * n))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))

    ranked = [(loss, i) for i, loss in enumerate(history.validation_loss, 1) if math.isfinite(loss)]
    if ranked:
        loss, best = min(ranked)
        axes.axvline(best, color=WATCHED, linewidth=0.8, linestyle=":")
        axes.plot([best], [loss], "o", color=WATCHED, markersize=7)
        to_the_left = best > n / 2
        axes.annotate(
            f"least on {watched}: {loss:.3g}\nafter epoch {best}{', kept' * kept}",
            (best, 1),
            xycoords=("data", "axes fraction"),
            xytext=(-6 if to_the_left else 6, -2),
            textcoords="offset points",
            ha="right" if to_the_left else "left",
            va="top",
            fontsize=9,
            color=WATCHED,
        )
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"loss ({measure})")
    short = title if len(title) <= 40 else f"{title[:39]}…"
    axes.set_title(short, loc="left", fontsize=11, parse_math=False)  # a name may hold a $
    axes.grid(axis="y", color=TRAINING, alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, fontsize=9)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # letters that the font lacks become boxes
        figure.savefig(file, format=Path(path).suffix.lower()[1:])
    return file.getvalue()
