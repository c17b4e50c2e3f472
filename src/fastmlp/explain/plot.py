"""Pictures by matplotlib, which is asked for when the first one is drawn."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.explain.descent import Descent
from fastmlp.explain.explanation import Explanation
from fastmlp.explain.surface import Surface

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["descent", "network", "overview"]

Array = NDArray[Any]

PLUS, MINUS, INK, SOFT, PATH = "#1f6fb4", "#d1590a", "#1c2127", "#7d8590", "#ff6a00"
MOST = 12  # neurons of a layer, beyond which every so-manieth is drawn
GRID = 81


@np.errstate(over="ignore", invalid="ignore")
def overview(e: Explanation) -> "Figure":
    """Return network, loss surface, training, and derivatives beside their checks."""
    figure = _figure((11, 8))
    axes = figure.subplots(2, 2)
    network(e, axes[0, 0])
    surface(e, e.surface, axes[0, 1])
    _training(e, axes[1, 0])
    _agreement(e, axes[1, 1])
    figure.suptitle(
        f"{'-'.join(map(str, e.model.sizes))}: loss {e.loss:.4g}, "
        f"after one step {e.loss_after:.4g}",
        x=0.01,
        ha="left",
    )
    return figure


def network(e: Explanation, axes: "Axes") -> None:
    """Draw neurons by their activation on a row, weights as lines, by sign and size."""
    row = int(np.abs(e.X).any(axis=1).argmax())  # the first that is not all 0
    values = [e.X[row], *(part.A[row] for part in e.layers)]
    shown = [np.unique(np.linspace(0, len(v) - 1, min(len(v), MOST)).astype(int)) for v in values]
    places = [np.linspace(0, 1, len(ids) + 2)[1:-1][::-1] for ids in shown]
    for number, part in enumerate(e.layers):
        W = part.W[np.ix_(shown[number], shown[number + 1])]
        largest = float(np.abs(W).max()) or 1.0
        for i, j in np.ndindex(*W.shape):
            share = abs(float(W[i, j])) / largest
            axes.plot(
                [number, number + 1],
                [places[number][i], places[number + 1][j]],
                color=MINUS if W[i, j] < 0 else PLUS,
                linestyle="--" if W[i, j] < 0 else "-",
                linewidth=0.3 + 2.7 * share,
                alpha=0.25 + 0.7 * share,
                zorder=1,
            )
    for number, (ids, heights, A) in enumerate(zip(shown, places, values, strict=True)):
        largest = float(np.abs(A).max()) or 1.0
        size = 900 if max(map(len, shown)) <= 4 else 160
        for j, height in zip(ids, heights, strict=True):
            share = abs(float(A[j])) / largest
            off = 0 < number < len(values) - 1 and e.layers[number - 1].slope[row, j] == 0
            axes.scatter(
                number, height, s=size, zorder=2, edgecolors=INK, linestyle="--" if off else "-",
                color=_mixed(MINUS if A[j] < 0 else PLUS, share),
            )  # fmt: skip
            if size == 900:
                tone = "white" if share > 0.5 else INK
                axes.text(number, height, f"{A[j]:.3g}", ha="center", va="center", color=tone)
        if len(ids) < len(A):
            axes.text(number, 0, f"{len(ids)} of {len(A)}", ha="center", color=SOFT, fontsize=8)
    names = ["inputs", *(f"hidden {k}" for k in range(1, len(values) - 1)), "outputs"]
    for number, name in enumerate(names):
        axes.text(number, 1.02, name, ha="center", color=SOFT)
    axes.set(xlim=(-0.4, len(values) - 0.6), ylim=(-0.03, 1.1))
    axes.axis("off")
    axes.set_title(
        f"neurons and weights, row {row} (negative: orange, dashed)", loc="left", fontsize=10
    )


def surface(e: Explanation, s: Surface, axes: "Axes") -> None:
    """Draw the loss over two weights, the descent on it, and the gradient as arrows."""
    finite = np.where(np.isfinite(s.loss), s.loss, np.nan)
    highest = min(float(np.nanmax(finite)), 1e30)
    heights = np.minimum(np.nan_to_num(finite, nan=highest), highest)
    heights = np.sqrt(heights - heights.min())
    axes.contourf(s.u, s.v, heights, levels=24, cmap="viridis")
    axes.contour(s.u, s.v, heights, levels=12, colors="white", linewidths=0.4, alpha=0.5)
    size = np.hypot(s.arrows[:, 2], s.arrows[:, 3])
    size = np.where(size > 0, size, 1) ** 0.5
    axes.quiver(*s.arrows[:, :2].T, *(-s.arrows[:, 2:] / size[:, np.newaxis]).T,
                color="white", alpha=0.8, width=0.004)  # fmt: skip
    axes.plot(*s.path[:, :2].T, "o-", color=PATH, markersize=3, linewidth=1.5)
    axes.plot(*s.path[0, :2], "o", color="white", markeredgecolor="black", markersize=9)
    axes.set(xlabel=e.name_of(s.indices[0]), ylabel=e.name_of(s.indices[1]))
    axes.set_title("loss over two weights (dark is low), and the way down", loc="left", fontsize=10)


def _training(e: Explanation, axes: "Axes") -> None:
    recorder, model = e.recorder, e.model.copy(dtype="float64")
    losses = []
    for state in recorder.states:
        model.params[:] = state
        loss = model.loss(e.X, e.y)
        losses.append(loss if np.isfinite(loss) else np.nan)
    axes.plot(recorder.epochs, losses, color=PLUS)
    if np.nanmin(losses) > 0 and np.nanmax(losses) > 20 * np.nanmin(losses):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    what = "step of plain descent" if e.rehearsed else "epoch"
    axes.set(xlabel=what, ylabel="total loss")
    axes.set_title("the loss on these rows", loc="left", fontsize=10)
    _clear(axes)


def _agreement(e: Explanation, axes: "Axes") -> None:
    check = e.check
    both = np.concatenate([check.derivatives, check.numerical])
    ends = [both.min(), both.max()]
    axes.plot(ends, ends, color=SOFT, linewidth=0.8)
    axes.plot(check.derivatives, check.numerical, "o", color=PLUS, markersize=4, alpha=0.7)
    axes.set(xlabel="derivative by the chain rule", ylabel="by differences of the loss")
    title = f"{len(check.indices)} derivatives, largest relative error {check.largest:.0e}"
    axes.set_title(title, loc="left", fontsize=10)
    _clear(axes)


def descent(way: Descent) -> "Figure":
    """Return the path of a descent: over a curve, over heights, or by its steps."""
    figure = _figure((6.4, 4.6))
    axes = figure.subplots()
    n = way.path.shape[1]
    if n == 1:
        x = _reach(way.path[:, 0])
        axes.plot(x, [_height(way, v) for v in x], color=SOFT)
        axes.plot(way.path[:, 0], way.values, "o-", color=PATH, markersize=4)
        axes.set(xlabel="x", ylabel="f(x)")
    elif n == 2:
        u, v = _reach(way.path[:, 0]), _reach(way.path[:, 1])
        heights = np.ma.masked_invalid([[_height(way, a, b) for a in u] for b in v])
        heights = np.sqrt(np.maximum(heights - heights.min(), 0))
        axes.contourf(u, v, heights, levels=24, cmap="viridis")
        axes.contour(u, v, heights, levels=12, colors="white", linewidths=0.4, alpha=0.5)
        axes.plot(*way.path.T, "o-", color=PATH, markersize=4)
        axes.plot(*way.path[0], "o", color="white", markeredgecolor="black", markersize=9)
        axes.set(xlabel="x[0]", ylabel="x[1]")
    else:
        axes.plot(way.values, color=PATH)
        axes.set(xlabel="step", ylabel="f")
    title = f"{len(way.values) - 1} steps: f from {way.values[0]:.4g} to {way.values[-1]:.4g}"
    axes.set_title(title, loc="left", fontsize=10)
    if n != 2:
        _clear(axes)
    return figure


def _height(way: Descent, *point: float) -> float:
    """Return the function, NaN where it has no finite value: a picture shows more than the path."""
    with np.errstate(all="ignore"):
        try:
            value = float(np.asarray(way.function(np.array(point)), np.float64).item())
        except (ArithmeticError, ValueError, TypeError):
            return np.nan
    return value if np.isfinite(value) else np.nan


def _figure(size: tuple[float, float]) -> "Figure":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ModuleNotFoundError(
            f"plots need matplotlib, which cannot be imported ({error}); "
            "python -m pip install matplotlib"
        ) from None
    return Figure(figsize=size, dpi=120, layout="constrained")


def _reach(path: Array) -> Array:
    low, high = float(path.min()), float(path.max())
    margin = 0.3 * (high - low) or 1.0
    return np.linspace(low - margin, high + margin, GRID)


def _mixed(colour: str, share: float) -> tuple[float, float, float]:
    """Return the colour, the paler the smaller the share."""
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    red, green, blue = (1 - (1 - part) * (0.08 + 0.92 * share**0.5) for part in parts)
    return red, green, blue


def _clear(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=SOFT, alpha=0.2, linewidth=0.6)
